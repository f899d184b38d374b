"""`load`: a pretrained model and its tokenizer, by name.

The files come from `sources.py`, the layers from the model's family (`bert.py`,
`gpt2.py`, `llama.py`), and the rules that place a checkpoint's tensors in the model from
`checkpoints/placement.py`.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from tokenizers import Tokenizer

from lora_jax import quant, tree
from lora_jax.checkpoints import bitsandbytes, placement
from lora_jax.models import bert, gpt2, llama, tiny
from lora_jax.models.files import ModelFiles
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
FLOAT = "float"  # for `quantize`: dequantize what the checkpoint has in few bits


def load(
    name_or_path: str | Path,
    *,
    labels: int = 2,
    key: jax.Array | None = None,
    dtype: str = "float32",
    quantize: str | quant.Spec | None = None,
    revision: str | None = None,
) -> tuple[Any, Tokenizer]:
    """Return a pretrained model and its tokenizer.

    The model is an encoder with a classification head (BERT, RoBERTa) or a language
    model (GPT-2, Llama and its relatives).

    Args:
        name_or_path: a directory, a GGUF file, a name in `sources.ZOO`, a hub id, or
            "tiny" or "tiny-llama" for a small random model.
        labels: the number of classes of an encoder's head; 1 for regression.
        key: the random key of leaves of the head that the checkpoint lacks (seed 0 by
            default). Nothing else is ever initialized at random.
        dtype: what all leaves are stored in: float32, bfloat16 or float16.
        quantize: a name in `quant.FORMATS` or a `Spec`: the matrices of the blocks are
            quantized one by one as they are read. Matrices that the checkpoint has in
            few bits (bitsandbytes, GGUF) stay so, unless this names another format, or
            is "float", which makes arrays of them.
        revision: the branch, tag or commit of a hub id.

    Raises:
        ValueError: an option outside its range, an architecture that is not in
            `FAMILIES`, or a checkpoint or tokenizer that does not fit the model.
        OSError: the files cannot be found or fetched (see `sources.find_files`).
    """
    spec = None if quantize in (None, FLOAT) else quant.find_spec(quantize)
    _check_options(dtype, labels)
    if name_or_path in tiny.MODELS:
        return _load_tiny(str(name_or_path), labels, key, dtype, spec)

    files = find_files(name_or_path, revision=revision)
    hf_config = files.config()
    family = _find_family(files, hf_config)
    config = family.Config.from_hf(hf_config)
    tokenizer = files.tokenizer()
    _check_vocabulary(files.source, tokenizer, hf_config["vocab_size"])

    # Shapes first, so that what does not fit is an error before any weight is read.
    init = partial(family.init, config=config)
    if family is bert:  # the one family with a head of labels
        init = partial(init, labels=labels)
    key = jax.random.key(0) if key is None else key
    shapes = jax.eval_shape(init, key)
    if spec:
        tree.find(shapes, spec.paths)  # raises if the pattern matches no leaf

    arrays = placement.load(
        bitsandbytes.collect_quantized(files.tensors()),
        family.rules(config),
        tree.leaves(shapes),
        ignore=family.IGNORE,
        dtype=dtype,
        convert=_converter(spec, to_float=quantize == FLOAT),
    )
    leaves = _move_to_device(arrays)

    missing = [path for path in tree.leaves(shapes) if path not in leaves]
    for path, leaf in _draw_leaves(init, key, missing, dtype).items():
        leaves[path] = spec(path, leaf) if spec else leaf
    return tree.replace(shapes, leaves), tokenizer


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
    name: str,
    labels: int,
    key: jax.Array | None,
    dtype: str,
    spec: quant.Spec | None,
) -> tuple[Any, Tokenizer]:
    model, tokenizer = tiny.MODELS[name](labels=labels, key=key)
    model = jax.tree.map(lambda leaf: leaf.astype(dtype), model)
    if spec:
        model = quant.quantize_model(model, spec)
    return model, tokenizer


def _find_family(files: ModelFiles, hf_config: dict[str, Any]) -> Any:
    model_type = hf_config.get("model_type")
    # A broken config.json may hold a list here, which cannot be looked up.
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ValueError(
            f"{files.source}: expected a model_type among {sorted(FAMILIES)} in "
            f"config.json, got {model_type!r}"
        )
    return FAMILIES[model_type]


def _check_vocabulary(source: str, tokenizer: Tokenizer, vocabulary: int) -> None:
    ids = tokenizer.get_vocab(with_added_tokens=True)
    if not ids:
        return
    token = max(ids, key=lambda token: ids[token])
    if ids[token] >= vocabulary:
        raise ValueError(
            f"{source}: the tokenizer does not belong to this model: expected token ids "
            f"below {vocabulary} (vocab_size in config.json), got {ids[token]} for "
            f"{token!r}"
        )


def _converter(spec: quant.Spec | None, *, to_float: bool) -> Callable[[str, Any], Any]:
    """Return what `placement.load` does to each leaf's numbers as they are read."""

    def convert(path: str, numbers: Any) -> Any:
        if quant.is_quantized(numbers):
            another_format = (
                spec is not None
                and re.search(spec.paths, path)
                and numbers.codec != spec.codec
            )
            if another_format or to_float:
                numbers = numbers.dequantize()
        return spec(path, numbers) if spec else numbers

    return convert


def _move_to_device(arrays: dict[str, Any]) -> dict[str, Any]:
    """Return the leaves as JAX arrays; `arrays` is emptied, so that none is kept twice."""
    leaves = {}
    for path in list(arrays):
        leaves[path] = jax.tree.map(jnp.asarray, arrays.pop(path))
    return leaves


def _draw_leaves(
    init: Callable[[jax.Array], Any], key: jax.Array, paths: list[str], dtype: str
) -> dict[str, jax.Array]:
    """Return only these leaves of `init(key)`: jit leaves out what they do not need."""

    def draw(key: jax.Array) -> dict[str, jax.Array]:
        leaves = tree.leaves(init(key))
        return {path: leaves[path].astype(dtype) for path in paths}

    return jax.jit(draw)(key)
