"""`load`: a pretrained model and its tokenizer, by name.

The files come from `sources.py`, the layers from the model's family (`bert.py`,
`gpt2.py`, `llama.py`). A family has its `Config`, `init` for a model with random
weights, and the `rules` by which `checkpoints/placement.py` puts a checkpoint's tensors
into that model.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from tokenizers import Tokenizer

from lora_jax import quant, tree
from lora_jax.checkpoints import bitsandbytes, placement
from lora_jax.checkpoints.tensor import Tensor
from lora_jax.models import bert, gpt2, llama, redundant, tiny
from lora_jax.models.boundary import errors_about
from lora_jax.models.files import ModelFiles
from lora_jax.models.neutral import check_storage
from lora_jax.models.sizes import check_sizes
from lora_jax.models.sources import find_files

FAMILIES = {  # by the model_type of config.json
    "bert": bert,
    "roberta": bert,
    "gpt2": gpt2,
    "llama": llama,
    "mistral": llama,
    "qwen2": llama,
}
DTYPES = ("float32", "bfloat16", "float16")
# The layers that may be drawn: a classifier's head, and BERT's pooler before it.
DRAWN = (r"^head/", r"^pooler/")
# For `quantize`, instead of a format: dequantize what the checkpoint has in few bits.
FLOAT = "float"
# Takes one line about what was done.
Report = Callable[[str], None]


class _Storage(NamedTuple):
    """How the leaves of a model are stored."""

    dtype: str
    spec: quant.Spec | None
    to_float: bool

    def convert(self, path: str, numbers: Any) -> Any:
        """Return what becomes of a leaf's numbers as they are read."""
        if quant.is_quantized(numbers) and self._is_dequantized(path, numbers.codec):
            numbers = numbers.dequantize()
        return self.quantize(path, numbers)

    def quantize(self, path: str, numbers: Any) -> Any:
        """Return the numbers, quantized where the spec has their path."""
        return self.spec(path, numbers) if self.spec else numbers

    def _is_dequantized(self, path: str, codec: str) -> bool:
        # What a checkpoint has in few bits stays so unless another format is named.
        if self.spec is None or not re.search(self.spec.paths, path):
            return self.to_float
        return codec != self.spec.codec


class _Checkpoint(NamedTuple):
    """A checkpoint's tensors, and where a family has them."""

    source: str
    tensors: dict[str, Tensor]
    rules: tuple[placement.Rule, ...]
    ignore: tuple[str, ...]


def _silent(line: str) -> None:
    pass


def load(
    name_or_path: str | Path,
    *,
    labels: int = 2,
    key: jax.Array | None = None,
    dtype: str = "float32",
    quantize: str | quant.Spec | None = None,
    revision: str | None = None,
    report: Report = _silent,
) -> tuple[Any, Tokenizer]:
    """Return a pretrained model and its tokenizer.

    The model is an encoder with a classification head (BERT, RoBERTa) or a language
    model (GPT-2, Llama and its relatives).

    Args:
        name_or_path: a directory, a GGUF file, a name in `sources.ZOO`, a hub id, or
            "tiny" or "tiny-llama" for a small random model.
        labels: the number of classes of an encoder's head; 1 for regression.
        key: the random key of what is drawn (seed 0 by default): layers of an encoder's
            head, its pooler included, that the checkpoint lacks or has for another
            task or another number of classes. Nothing else is ever drawn; heads of
            pretraining are left out.
        dtype: what all leaves are stored in: float32, bfloat16 or float16.
        quantize: a name in `quant.FORMATS` or a `Spec`: the matrices of the blocks are
            quantized one by one as they are read. Matrices that the checkpoint has in
            few bits (bitsandbytes, GGUF) stay so, unless this names another format, or
            is "float", which makes arrays of them.
        revision: the branch, tag or commit of a hub id.
        report: takes a line that names the leaves which were drawn, if any were.

    Raises:
        ValueError: an option outside its range, an architecture that is not in
            `FAMILIES`, or a checkpoint or tokenizer that does not fit the model.
        OSError: the files cannot be found or fetched (see `sources.find_files`).
    """
    # Options first, so that an error comes before any download.
    spec = None if quantize in (None, FLOAT) else quant.find_spec(quantize)
    storage = _Storage(dtype, spec, to_float=quantize == FLOAT)
    _check_options(dtype, labels)
    if name_or_path in tiny.MODELS:
        return _load_tiny(str(name_or_path), labels, key, storage)

    # Then the configuration, and whether its sizes are those in the headers of the
    # weights: nothing is built before.
    files = find_files(name_or_path, revision=revision)
    config = files.config()
    family = _find_family(files, config)
    check_storage(files.source, config)
    tensors = bitsandbytes.collect_quantized(files.tensors())
    check_sizes(files.source, config, family.SIZES, tensors)
    with errors_about(files.source):
        family_config = family.Config.from_hf(config)
    tokenizer = files.tokenizer()
    _check_vocabulary(files.source, tokenizer, config["vocab_size"])

    # Then the weights, into the shapes of a new model.
    redundant.check_buffers(files.source, tensors, config)
    init = partial(family.init, config=family_config)
    if family is bert:  # the one family with a head of labels
        init = partial(init, labels=labels)
        tensors = family.without_other_heads(
            tensors, config, family_config, labels=labels
        )
    checkpoint = _Checkpoint(
        files.source, tensors, family.rules(family_config), family.IGNORE
    )
    key = jax.random.key(0) if key is None else key
    model, drawn = _load_weights(checkpoint, init, key, storage)
    if drawn:
        report(f"{files.source}: no weights for {', '.join(drawn)}; drawn at random")
    return model, tokenizer


def load_tokenizer(
    name_or_path: str | Path, *, revision: str | None = None
) -> Tokenizer:
    """Return a model's tokenizer without the model. Raises what `load` raises of it."""
    if name_or_path in tiny.MODELS:
        _, tokenizer = tiny.MODELS[str(name_or_path)](labels=1)
        return tokenizer
    return find_files(name_or_path, revision=revision).tokenizer()


def _check_options(dtype: str, labels: int) -> None:
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    if labels < 1:
        raise ValueError(f"expected labels >= 1 (1 for regression), got {labels}")


def _load_tiny(
    name: str, labels: int, key: jax.Array | None, storage: _Storage
) -> tuple[Any, Tokenizer]:
    load_model = tiny.MODELS[name]
    model, tokenizer = load_model(labels=labels, key=key)
    model = jax.tree.map(lambda leaf: leaf.astype(storage.dtype), model)
    if storage.spec:
        model = quant.quantize_model(model, storage.spec)
    return model, tokenizer


def _find_family(files: ModelFiles, config: dict[str, Any]) -> Any:
    model_type = config.get("model_type")
    # A broken config.json may hold a list here, which cannot be looked up.
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ValueError(
            f"{files.source}: expected a model_type among {sorted(FAMILIES)} in "
            f"config.json, got {model_type!r}"
        )
    return FAMILIES[model_type]


def _check_vocabulary(source: str, tokenizer: Tokenizer, vocabulary: int) -> None:
    ids = tokenizer.get_vocab(with_added_tokens=True)
    # A token beyond the table would read its last row, in silence.
    if not ids:
        return
    token = max(ids, key=lambda token: ids[token])
    highest = ids[token]
    if highest >= vocabulary:
        raise ValueError(
            f"{source}: the tokenizer does not belong to this model: expected token "
            f"ids below {vocabulary} (vocab_size in config.json), got {highest} for "
            f"{token!r}"
        )


def _load_weights(
    checkpoint: _Checkpoint,
    init: Callable[[jax.Array], Any],
    key: jax.Array,
    storage: _Storage,
) -> tuple[Any, list[str]]:
    """Return the model with the checkpoint's weights, and the leaves that are drawn."""
    # Shapes first, so that what does not fit is an error before any weight is read.
    shapes = jax.eval_shape(init, key)
    expected = tree.leaves(shapes)
    if storage.spec:
        tree.find(shapes, storage.spec.paths)  # raises if they match no leaf

    if not any(path.startswith("lm_head/") for path in expected):
        redundant.check_tied_head(checkpoint.source, checkpoint.tensors)
    arrays = placement.load(
        checkpoint.tensors,
        checkpoint.rules,
        expected,
        ignore=checkpoint.ignore,
        optional=DRAWN,
        dtype=storage.dtype,
        convert=storage.convert,
    )
    leaves = _move_to_device(arrays)

    # What the checkpoint lacks: the head of a model that was only pretrained.
    missing = [path for path in expected if path not in leaves]
    drawn = _draw_leaves(init, key, missing, storage.dtype)
    for path, leaf in drawn.items():
        leaves[path] = storage.quantize(path, leaf)
    return tree.replace(shapes, leaves), missing


def _move_to_device(arrays: dict[str, Any]) -> dict[str, Any]:
    """Return the leaves as JAX arrays, and empty `arrays`."""
    leaves = {}
    # One by one, so that no more than one leaf is in memory twice.
    for path in list(arrays):
        leaves[path] = jax.tree.map(jnp.asarray, arrays.pop(path))
    return leaves


def _draw_leaves(
    init: Callable[[jax.Array], Any], key: jax.Array, paths: list[str], dtype: str
) -> dict[str, jax.Array]:
    """Return these leaves of `init(key)`."""

    # Under jit nothing is computed that the result does not need.
    def draw(key: jax.Array) -> dict[str, jax.Array]:
        leaves = tree.leaves(init(key))
        return {path: leaves[path].astype(dtype) for path in paths}

    return jax.jit(draw)(key)
