"""A model whose matrices are quantized."""

import re
from typing import Any, NamedTuple

from lora_jax import tree
from lora_jax.quant.formats import CODECS
from lora_jax.quant.value import Quantized, is_quantized, quantize

BODY = r"^blocks/(.*/)?kernel$"  # what is quantised unless asked otherwise: the matrices of the blocks


class Spec(NamedTuple):
    """How a model is quantised: data type, block, double quantisation, and which leaves, by a regex on their paths."""

    codec: str
    block: int | None = None
    double: bool = False
    paths: str = BODY

    def __call__(self, path: str, w: Any) -> Any:
        """A kernel [.., i, o] or embedding [V, D] of that path quantised as bitsandbytes would, lora_a [.., i, r] as a kernel;
        another leaf as it is.

        Raises:
            ValueError: what `quantize` raises, with the path.
        """
        if not re.search(self.paths, path) or is_quantized(w):
            return w
        try:
            if path.endswith(("kernel", "lora_a")):
                return quantize(
                    w.swapaxes(-1, -2), self.codec, block=self.block, double=self.double
                ).T
            return quantize(w, self.codec, block=self.block, double=self.double)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


FORMATS = {
    **{codec: Spec(codec) for codec in CODECS},
    "nf4_double": Spec("nf4", double=True),
    "fp4_double": Spec("fp4", double=True),
}


def find_spec(name: str | Spec) -> Spec:
    """The Spec of a name in `FORMATS`. Raises ValueError for another."""
    if isinstance(name, Spec):
        return name
    if name not in FORMATS:
        raise ValueError(
            f"quantize: expected one of {', '.join(FORMATS)}, got {name!r}"
        )
    return FORMATS[name]


def quantized_leaves(model: Any) -> dict[str, Quantized]:
    """The quantised values of a model by path."""
    return {
        path: leaf for path, leaf in tree.leaves(model).items() if is_quantized(leaf)
    }


def quantize_model(model: Any, how: str | Spec) -> Any:
    """The model with the leaves that `how` names quantised.

    Raises:
        ValueError: no leaf matches, or a leaf cannot be quantised; names it.
    """
    how, leaves = find_spec(how), tree.leaves(model)
    chosen = {path: leaf for path, leaf in leaves.items() if re.search(how.paths, path)}
    if not chosen:
        raise ValueError(
            f"{how.paths!r} matches no leaf; there are: {tree.near(how.paths, list(leaves))}"
        )
    return tree.replace(model, {path: how(path, leaf) for path, leaf in chosen.items()})


def dequantize_model(model: Any) -> Any:
    """The model with an array in place of each quantised value."""
    return tree.replace(
        model,
        {path: value.dequantize() for path, value in quantized_leaves(model).items()},
    )


def bits_per_parameter(of: Any) -> float:
    """Bits stored for each number of a quantised value, or of all those of a model."""
    every = [of] if is_quantized(of) else list(quantized_leaves(of).values())
    return 8 * sum(value.nbytes for value in every) / sum(value.size for value in every)
