"""Quantized models: which weights are quantized, in which format, and back again."""

import re
from functools import partial
from typing import Any, NamedTuple

from lora_jax import tree
from lora_jax.quant.formats import CODECS
from lora_jax.quant.value import Quantized, is_quantized, quantize

# What is quantized by default: the matrices of the blocks.
BODY = r"^blocks/(.*/)?kernel$"


class Spec(NamedTuple):
    """How a model is quantized."""

    codec: str  # a name in `CODECS`
    block: int | None = None  # numbers that share a scale; None: `quantize`'s default
    double: bool = False  # quantize the scales too (QLoRA, section 3)
    paths: str = BODY  # regex on the paths of the leaves that are quantized

    def __call__(self, path: str, w: Any) -> Any:
        """Return the leaf `w` of that path, quantized if this spec asks for it.

        Blocks run as in bitsandbytes: along the rows of torch's weight [out, in], the
        transpose of a kernel or of `lora_a`, and along the rows of an embedding.

        Raises:
            ValueError: what `quantize` raises, with the path.
        """
        if is_quantized(w):
            return w
        if not re.search(self.paths, path):
            return w
        try:
            return self._quantize(path, w)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def _quantize(self, path: str, w: Any) -> Quantized:
        encode = partial(
            quantize,
            codec=self.codec,
            block=self.block,
            double=self.double,
        )
        # A torch weight [out, in] is the transpose of our kernel [in, out].
        if path.endswith(("kernel", "lora_a")):
            return encode(w.swapaxes(-1, -2)).T
        return encode(w)


# Every format by its name, as `--quantize` and the rows of results spell it.
FORMATS = {codec: Spec(codec) for codec in CODECS}
FORMATS["nf4_double"] = Spec("nf4", double=True)
FORMATS["fp4_double"] = Spec("fp4", double=True)


def find_spec(quantize: str | Spec) -> Spec:
    """Return the Spec of a name in `FORMATS`, or a Spec as it is.

    Raises:
        ValueError: there is no format of that name; lists those there are.
    """
    if isinstance(quantize, Spec):
        return quantize
    if quantize not in FORMATS:
        names = ", ".join(FORMATS)
        raise ValueError(f"quantize: expected one of {names}, got {quantize!r}")
    return FORMATS[quantize]


def quantized_leaves(model: Any) -> dict[str, Quantized]:
    """Return the quantized values of a model by path."""
    values = {}
    for path, leaf in tree.leaves(model).items():
        if is_quantized(leaf):
            values[path] = leaf
    return values


def quantize_model(model: Any, quantize: str | Spec) -> Any:
    """Return the model with weights in few bits, in a format's name or by a Spec.

    Leaves that are quantized already stay as they are.

    Raises:
        ValueError: no path matches `Spec.paths`, or a leaf cannot be quantized; names
            it.
    """
    # Leaves that are quantized already match too, and `spec` leaves them alone.
    spec = find_spec(quantize)
    leaves = tree.leaves(model)
    replacements = {}
    for path, leaf in leaves.items():
        if re.search(spec.paths, path):
            replacements[path] = spec(path, leaf)
    if not replacements:
        names = tree.near(spec.paths, list(leaves))
        raise ValueError(f"{spec.paths!r} matches no leaf; there are: {names}")
    return tree.replace(model, replacements)


def dequantize_model(model: Any) -> Any:
    """Return the model with an array in place of each quantized value."""
    arrays = {}
    for path, value in quantized_leaves(model).items():
        arrays[path] = value.dequantize()
    return tree.replace(model, arrays)


def bits_per_parameter(quantized: Any) -> float:
    """Return the bits stored per number, scales included.

    `quantized` is a quantized value, or a model: then only its quantized values count.
    """
    values = [quantized]
    if not is_quantized(quantized):
        leaves = quantized_leaves(quantized)
        values = list(leaves.values())
    # Matrices weigh by their size: the mean is over numbers, not over matrices.
    stored_bytes = 0
    count = 0
    for value in values:
        stored_bytes += value.nbytes
        count += value.size
    return 8 * stored_bytes / count
