"""Text from a language model: prompts are checked, put together by length and padded; decoding.py chooses the tokens."""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from lora_jax import devices, quant, tree
from lora_jax.generation.decoding import Decoding, check, is_whole, texts
from lora_jax.models.decoder import Decoder
from lora_jax.nn import precision
from lora_jax.nn.blocks import stacks
from lora_jax.nn.layers import Linear

__all__ = ["Decoding", "Generated", "check", "check_prompts", "generate", "prepared"]


class Generated(NamedTuple):
    """What followed each prompt, without the end token, and how long it took, compilation included."""

    tokens: list[list[int]]
    ended: int  # of the texts; the others were cut at `Decoding.new_tokens`
    steps: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """New tokens, those that ended a text included."""
        return (sum(map(len, self.tokens)) + self.ended) / self.seconds


def _checked(
    model: Decoder, end: Any, batch: Any, compute_dtype: Any
) -> tuple[int, ...]:
    """The tokens that end a text. Raises one ValueError for everything that does not go with the model."""
    if not isinstance(model, Decoder):
        raise ValueError(
            f"expected a language model (gpt2, llama), got {type(model).__name__}"
        )
    ends, known = (
        tuple(end) if isinstance(end, Iterable) else (end,),
        model.config.vocabulary,
    )
    wrong = []
    if not ends or not all(is_whole(token) and 0 <= token < known for token in ends):
        wrong.append(f"eos_ids: expected token ids in 0 … {known - 1}, got {end!r}")
    if not is_whole(batch) or batch < 1:
        wrong.append(f"batch: expected 1 or more prompts, got {batch!r}")
    if compute_dtype not in ("float32", "bfloat16"):
        wrong.append(
            f"compute_dtype: expected float32 or bfloat16, got {compute_dtype!r}"
        )
    if wrong:
        raise ValueError("; ".join(wrong))
    return tuple(map(int, ends))


def generate(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    how: Decoding = Decoding(),  # noqa: B008
    *,
    eos_ids: int | Sequence[int],
    batch: int = 16,
    compute_dtype: str = "float32",
    seed: int = 0,
    report: Callable[[int], None] = lambda done: None,
) -> Generated:
    """What the model writes after each prompt, until one of the tokens `eos_ids` (or one of several) or `how.new_tokens` tokens.

    Prompts of like length go together, `batch` at a time, padded on the left. Quantised matrices are dequantised once: each new
    token reads all of them. `report` is told how many prompts are done.

    Raises:
        ValueError: a setting outside its range, an empty prompt, token ids that the model does not have, or a prompt that with
            `how.new_tokens` tokens is longer than the model's positions; names the first prompts of each kind.
    """
    check(how)
    ends = _checked(model, eos_ids, batch, compute_dtype)
    check_prompts(model.config, prompts, how.new_tokens)
    began, steps = time.monotonic(), 0
    mesh = devices.mesh(batch)
    ready = devices.replicate(prepared(model, compute_dtype), mesh)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: dict[int, list[int]] = {}
    for at in range(0, len(order), batch):
        rows = order[at : at + batch]
        tokens, start = _padded(
            [prompts[i] for i in rows],
            batch,
            model.config.max_positions - how.new_tokens,
        )
        key = jax.random.fold_in(jax.random.key(seed), at) if how.temperature else None
        tokens, start = devices.shard_rows((tokens, start), mesh)
        written, took = texts(
            ready, tokens, start, key, how=how, ends=ends, compute_dtype=compute_dtype
        )
        steps += int(took)
        found |= {
            i: _until(text, ends)
            for i, text in zip(rows, np.asarray(written), strict=False)
        }
        report(len(found))
    ended = sum(len(text) < how.new_tokens for text in found.values())
    return Generated(
        [found[i] for i in range(len(prompts))], ended, steps, time.monotonic() - began
    )


def prepared(model: Decoder, compute_dtype: str) -> Decoder:
    """The model as generation reads it: single layers, arrays of the dtype of computation, a head that is not transposed.

    `materialize_in_order` says why of the head; slices of stacks would be copied for each token. `generate` takes what this gives
    as it is: for many calls it need not be made in each.
    """
    return (
        model
        if isinstance(model.blocks, tuple)
        else _prepared(model, compute_dtype=compute_dtype)
    )


@partial(jax.jit, static_argnames="compute_dtype")
def _prepared(model, compute_dtype):
    model = precision.cast_kernels(quant.dequantize_model(model), compute_dtype)
    blocks = tuple(
        layer for stack in stacks(model.blocks) for layer in tree.unstack(stack)
    )
    untied = Decoder(
        model.embed,
        model.blocks,
        model.norm,
        Linear(model.head().astype(compute_dtype)),
        config=model.config,
    )
    return tree.replace(untied, {"blocks": blocks})


def check_prompts(config: Any, prompts: Sequence[Sequence[int]], new: int) -> None:
    """Raises ValueError for what a model of that config cannot continue by so many tokens; names the first of each kind."""
    if isinstance(prompts, str) or any(not _is_ids(prompt) for prompt in prompts):
        first = next((prompt for prompt in prompts if not _is_ids(prompt)), prompts)
        raise ValueError(
            f"expected prompts that are lists of token ids, one list each, got {first!r} for one"
        )
    room, known = config.max_positions - new, config.vocabulary
    if room < 1:
        raise ValueError(
            f"new_tokens: expected fewer new tokens than the model's {config.max_positions} positions, got {new}"
        )
    kinds = {
        "empty": [i for i, prompt in enumerate(prompts) if not len(prompt)],
        f"with token ids outside 0 … {known - 1}": [
            i
            for i, prompt in enumerate(prompts)
            if len(prompt) and not 0 <= min(prompt) <= max(prompt) < known
        ],
        f"longer than {room} tokens ({config.max_positions} positions less {new} new tokens)": [
            i for i, prompt in enumerate(prompts) if len(prompt) > room
        ],
    }
    said = [
        f"{len(rows)} {kind} (the first: prompt {rows[0]})"
        for kind, rows in kinds.items()
        if rows
    ]
    if said or not len(prompts):
        raise ValueError(
            f"expected prompts of 1 to {room} tokens that the model has, got {'; '.join(said) or 'none'}"
        )


def _is_ids(prompt: Any) -> bool:
    try:
        array = np.asarray(prompt)
    except ValueError:  # rows of several lengths
        return False
    return array.ndim == 1 and (
        not array.size or np.issubdtype(array.dtype, np.integer)
    )


def _padded(
    prompts: list[Sequence[int]], rows: int, room: int
) -> tuple[np.ndarray, np.ndarray]:
    """[rows, P] tokens with padding on the left, repeated to fill all rows; and where each begins."""
    longest = max(map(len, prompts))
    width = min(
        room, max(32, 1 << (longest - 1).bit_length())
    )  # few widths: each is compiled
    filled = [prompts[i % len(prompts)] for i in range(rows)]
    tokens = np.zeros((rows, width), np.int32)
    for row, prompt in zip(tokens, filled, strict=True):
        row[width - len(prompt) :] = prompt
    return tokens, np.array([width - len(prompt) for prompt in filled], np.int32)


def _until(tokens: np.ndarray, ends: Sequence[int]) -> list[int]:
    stop = np.flatnonzero(np.isin(tokens, ends))
    return tokens[: stop[0] if len(stop) else None].tolist()
