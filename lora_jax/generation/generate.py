"""`generate`: the texts that a language model writes after prompts.

Prompts are checked, sorted by length and padded into batches (`prompts.py`). A batch is
one compiled program: the model reads the prompts, then a loop chooses one token after
the other (`sampling.py`) or searches with several beams (`beam_search.py`).
"""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from lora_jax import devices, quant, tree
from lora_jax.generation.beam_search import search_beams
from lora_jax.generation.decoding import Decoding, check, is_integer
from lora_jax.generation.next_token import Written, read_prompts
from lora_jax.generation.prompts import check_prompts, pad_prompts
from lora_jax.generation.sampling import write_tokens
from lora_jax.models.decoder import Decoder
from lora_jax.nn import precision
from lora_jax.nn.blocks import stacks
from lora_jax.nn.layers import Linear


class Generated(NamedTuple):
    """What followed each prompt, without the end token, and how long it took."""

    tokens: list[list[int]]
    ended: int
    """The texts that ended by themselves; others were cut at `Decoding.new_tokens`."""
    steps: int
    seconds: float
    """The time of all batches, compilation included."""

    @property
    def tokens_per_second(self) -> float:
        """New tokens a second, those that ended a text included."""
        count = sum(len(text) for text in self.tokens)
        return (count + self.ended) / self.seconds


def generate(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding = Decoding(),  # noqa: B008
    *,
    eos_ids: int | Iterable[int],
    batch: int = 16,
    compute_dtype: str = "float32",
    seed: int = 0,
    report: Callable[[int], None] | None = None,
) -> Generated:
    """Return what the model writes after each prompt.

    Args:
        model: a language model; its quantized matrices are dequantized once, because
            each new token reads all of them.
        prompts: lists of token ids.
        decoding: how many tokens are written, and how they are chosen.
        eos_ids: the token that ends a text, or several.
        batch: the number of prompts that are continued together.
        compute_dtype: a name of `precision.COMPUTE_DTYPES`, for products and cache;
            all else is in float32.
        seed: of the tokens that are drawn, with a temperature.
        report: called after each batch with the number of prompts that are done.

    Raises:
        ValueError: a setting outside its range, or prompts that the model cannot
            continue (see `check_prompts`).
    """
    # Everything is checked before the model is prepared and compiled.
    check(decoding)
    end_tokens = _check_arguments(model, eos_ids, batch, compute_dtype)
    check_prompts(model.config, prompts, decoding.new_tokens)

    # One copy of the weights on each device; each gets its share of a batch's rows.
    began = time.monotonic()
    ready, mesh = devices.placed(prepare(model, compute_dtype), batch)
    longest = model.config.max_positions - decoding.new_tokens
    texts: dict[int, list[int]] = {}  # by the index of the prompt
    steps = 0

    for first, indices in _batch_by_length(prompts, batch):
        members = [prompts[index] for index in indices]
        padded = pad_prompts(members, batch, longest)
        tokens, start = devices.shard_rows(padded, mesh)
        key = _batch_key(seed, first, decoding)
        with devices.use(mesh):
            written = continue_prompts(
                ready,
                tokens,
                start,
                devices.replicate(key, mesh),
                decoding=decoding,
                eos_ids=end_tokens,
                compute_dtype=compute_dtype,
            )
        steps += int(written.steps)
        # Rows beyond the last prompt only fill the batch.
        rows = devices.to_host(written.tokens)
        for index, text in zip(indices, rows, strict=False):
            texts[index] = _cut_at_end(text, end_tokens)
        if report:
            report(len(texts))

    # Back in the order in which the prompts came.
    in_order = [texts[index] for index in range(len(prompts))]
    ended = sum(len(text) < decoding.new_tokens for text in in_order)
    seconds = time.monotonic() - began
    return Generated(in_order, ended, steps, seconds)


@partial(jax.jit, static_argnames=("decoding", "eos_ids", "compute_dtype"))
def continue_prompts(
    model: Decoder,
    tokens: Any,
    start: Any,
    key: Any,
    *,
    decoding: Decoding,
    eos_ids: tuple[int, ...],
    compute_dtype: str,
) -> Written:
    """Return what follows prompts [B, P], which are padded on the left up to `start`.

    Without a key nothing is drawn. Texts are filled up with the first of `eos_ids`.
    """
    dtype = precision.product_dtype(compute_dtype)
    prompts = read_prompts(
        model, tokens, start, new_tokens=decoding.new_tokens, dtype=dtype
    )
    if decoding.beam > 1:
        return search_beams(model, prompts, decoding, eos_ids)
    return write_tokens(model, prompts, key, decoding, eos_ids)


def prepare(model: Decoder, compute_dtype: str) -> Decoder:
    """Return the model in the form in which generation reads it fastest.

    It has single layers, because slices of stacks would be copied for each token;
    arrays of the dtype of computation; and a head of its own that is not transposed
    (see `materialize_in_order` in `nn/dense.py`). `generate` takes a prepared model as
    it is, so that for many calls it need not be prepared in each.
    """
    if isinstance(model.blocks, tuple):
        return model
    return _prepare(model, compute_dtype=compute_dtype)


@partial(jax.jit, static_argnames="compute_dtype")
def _prepare(model: Decoder, compute_dtype: str) -> Decoder:
    model = quant.dequantize_model(model)
    model = precision.cast_kernels(model, compute_dtype)
    layers = []
    for stack in stacks(model.blocks):
        layers += tree.unstack(stack)
    dtype = precision.product_dtype(compute_dtype)
    kernel = model.head().astype(dtype)  # [D, V], adapters merged
    untied = Decoder(
        model.embed, model.blocks, model.norm, Linear(kernel), config=model.config
    )
    return tree.replace(untied, {"blocks": tuple(layers)})


def _batch_by_length(
    prompts: Sequence[Sequence[int]], batch: int
) -> list[tuple[int, list[int]]]:
    """Return the batches: the rank of the first prompt, and the indices of all.

    Prompts of like length go together, so that little is padding.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    batches = []
    for first in range(0, len(order), batch):
        batches.append((first, order[first : first + batch]))
    return batches


def _batch_key(seed: int, first: int, decoding: Decoding) -> Any:
    """Return the random key of a batch that begins with the prompt of rank `first`."""
    # Without a key the likeliest token is taken.
    if not decoding.temperature:
        return None
    return jax.random.fold_in(jax.random.key(seed), first)


def _check_arguments(
    model: Any, eos_ids: Any, batch: Any, compute_dtype: Any
) -> tuple[int, ...]:
    """Return the tokens that end a text, once all arguments fit the model.

    Raises:
        ValueError: an argument that does not; the message lists them all.
    """
    if not isinstance(model, Decoder):
        raise ValueError(
            f"expected a language model (gpt2, llama), got {type(model).__name__}"
        )
    # One token may come as an int, several as a list, a set or an array.
    vocabulary = model.config.vocabulary
    tokens = tuple(eos_ids) if isinstance(eos_ids, Iterable) else (eos_ids,)
    unknown = [token for token in tokens if not _is_token(token, vocabulary)]
    problems = []
    if unknown or not tokens:
        problems.append(
            f"eos_ids: expected token ids in 0 … {vocabulary - 1}, got {eos_ids!r}"
        )
    if not is_integer(batch) or batch < 1:
        problems.append(f"batch: expected 1 or more prompts, got {batch!r}")
    names = precision.COMPUTE_DTYPES
    if compute_dtype not in names:
        problems.append(
            f"compute_dtype: expected one of {', '.join(names)}, got {compute_dtype!r}"
        )
    if problems:
        raise ValueError("; ".join(problems))
    return tuple(int(token) for token in tokens)


def _is_token(token: Any, vocabulary: int) -> bool:
    return is_integer(token) and 0 <= token < vocabulary


def _cut_at_end(tokens: np.ndarray, eos_ids: Sequence[int]) -> list[int]:
    """Return the tokens before the first one that ends a text."""
    # The loop fills a text up after its end.
    ends = np.flatnonzero(np.isin(tokens, eos_ids))
    stop = ends[0] if len(ends) else None
    return tokens[:stop].tolist()
