"""LoRA: h = W0 x + (alpha/r) B A x (Hu et al. 2021, arXiv 2106.09685, section 4.1).

A is Gaussian and B zero, so training starts at the pretrained model. alpha is the same at
every rank. In our layout (kernel [i, o], y = x kernel) A is `lora_a` [i, r] and B is
`lora_b` [r, o]. Both have the leading layer axis of the matrix they adapt, if it has one.
"""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from lora_jax import tree
from lora_jax.methods import base
from lora_jax.methods.lora_start import (
    INITS,
    initial_factors,
    padded,
    scales,
    zero_factors,
)
from lora_jax.nn.dense import dense
from lora_jax.nn.layers import dropout

# The biases to train, by regex on their paths.
BIASES = {
    "none": r"(?!)",  # matches nothing
    "all": r"(^|/)bias$",
    "lora_only": r"/base/bias$",
}


class LoRA(nnx.Module):
    """An adapted linear layer.

    `scale` [r] holds alpha/r for each of the r directions. It is data, so that a sweep
    compiles once for all its alphas. A direction of scale zero is idle: it adds nothing
    and gets no gradient. With a layer axis, so may a whole layer be.
    """

    CONSTANTS = ("scale",)

    def __init__(
        self,
        layer: Any,
        a: Any,
        b: Any,
        scale: Any,
        *,
        rate: float = 0.0,
    ):
        self.base = layer
        self.lora_a = nnx.Param(a)
        self.lora_b = nnx.Param(b)
        self.scale = nnx.Param(scale)
        self.rate = rate

    def __call__(
        self,
        x: Float[Array, "... i"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "... o"]:
        # Only the adapter's input is dropped, as in the official code.
        dropped = dropout(key, self.rate, x)
        # [..., r]; the scale is not rounded to the dtype of x.
        low = dense(dropped, self.lora_a[...]) * self.scale[...]
        change = dense(low.astype(x.dtype), self.lora_b[...])
        return self.base(x) + change

    def delta(self) -> Float[Array, "... i o"]:
        """Return (alpha/r) B A as a kernel [i, o]."""
        return jnp.einsum(
            "...ir,...r,...ro->...io",
            self.lora_a[...],
            self.scale[...],
            self.lora_b[...],
        )

    def factors(
        self,
    ) -> tuple[
        Float[Array, "... i r"],
        Float[Array, "... r o"],
    ]:
        """Return A and B with alpha/r in B, so that delta = A B, without idle directions.

        An idle adapter has no directions.
        """
        scale = self.scale[...]
        scaled_b = scale[..., None] * self.lora_b[...]
        # Stored in 16 bits it is computed with in 32.
        a = self.lora_a[...].astype(scaled_b.dtype)
        # A direction that any layer of a stack uses is kept in all of them.
        rank = scale.shape[-1]
        by_layer = np.asarray(scale).reshape(-1, rank)
        active = by_layer.any(axis=0)  # [r]
        active_a = a[..., active]
        active_b = scaled_b[..., active, :]
        return active_a, active_b

    def merged(self) -> Any:
        """Return the base layer with delta added to its matrix."""
        name = base.matrix_name(self.base)
        # A quantized base has to be dequantized before (see `merge`).
        matrix = getattr(self.base, name).get_value()
        # Added in float32, and stored as the matrix was.
        summed = matrix + self.delta()
        summed = summed.astype(matrix.dtype)
        return tree.replace(self.base, {name: summed})

    def parameters(self) -> int:
        """Return the trainable parameters: r (i + o) a layer, without idle directions."""
        # With a layer axis, the directions of all layers are counted.
        scale = self.scale[...]
        directions = int(np.count_nonzero(scale))
        inputs = self.lora_a.shape[-2]
        outputs = self.lora_b.shape[-1]
        return directions * (inputs + outputs)


class LoRAEmbedding(LoRA):
    """An adapted embedding, which looks up rows of A instead of multiplying by it.

    Here A [V, r] starts at zero and B [r, D] is Gaussian, as in loralib.
    """

    def __call__(
        self,
        x: Int[Array, "..."],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "... D"]:
        rows = self.base(x)
        # [..., r]
        a = self.lora_a[...]
        low = a[x].astype(rows.dtype)
        scaled = low * self.scale[...]
        return rows + dense(scaled, self.lora_b[...])


def lora(
    targets: str = "query,value",
    rank: int | Mapping[str, int] = 8,
    alpha: float | Mapping[str, float] = 16.0,
    *,
    dropout: float = 0.0,
    init: Literal["gaussian", "kaiming_uniform"] = "gaussian",
    rank_stabilized: bool = False,
    bias: Literal["none", "all", "lora_only"] = "none",
    layers: Sequence[int] | None = None,
    rank_multiple: int = 1,
    idle_targets: str | None = None,
) -> base.Method:
    """Return the method of the paper.

    `rank` and `alpha` may be mappings from target patterns to numbers. The first pattern
    that matches a layer counts. The last two options change how adapters are stored but
    not what they compute: the runs of a sweep that are stored alike share one compiled
    program.

    Args:
        targets: Layers to adapt, as names separated by commas or as a regex on paths.
        rank: Rank r of the adapters.
        alpha: Numerator of the scale alpha/r of the adapters.
        dropout: Share of the adapters' input that is dropped in training.
        init: Distribution of A. gaussian is N(0, 1/(3 i)) for i inputs, the paper's
            Gaussian with the variance of the official code's distribution;
            kaiming_uniform is the official code's, U(±1/sqrt(i)).
        rank_stabilized: Scale of alpha/sqrt(r) instead of alpha/r (arXiv 2312.03732).
        bias: Biases that are trained too, where lora_only are those of adapted layers.
        layers: Indices of the blocks to adapt, by default all.
        rank_multiple: Number that the stored rank is rounded up to a multiple of.
        idle_targets: Layers that get an adapter too, with a scale of 0, unless they
            are among the targets.

    Raises:
        ValueError: an option is outside its range; from `adapt`: a pattern matches
            nothing, or a rank is larger than a side of its matrix.
    """
    # What can be known without a model.
    _check_choice("init", init, INITS)
    _check_choice("bias", bias, BIASES)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: expected 0 <= dropout < 1, got {dropout}")
    # One number is that of the pattern that selects all targets.
    ranks = rank if isinstance(rank, Mapping) else {targets: rank}
    alphas = alpha if isinstance(alpha, Mapping) else {targets: alpha}
    _check_ranks(ranks.values())
    _check_alphas(alphas.values())

    def adapt(key, model):
        base.check_first(model, "lora", LoRA)
        chosen = base.targets(model, targets)
        # Each target has its rank and its alpha, that of the first pattern it matches.
        rank_by_path = _by_path(model, "rank", ranks, chosen)
        alpha_by_path = _by_path(model, "alpha", alphas, chosen)
        adapters = {}
        for path, layer in chosen.items():
            r = rank_by_path[path]
            divisor = r**0.5 if rank_stabilized else r
            value = alpha_by_path[path] / divisor
            layer_key = base.path_key(key, path)
            # Of a stack these are all its layers' at once.
            a, b = initial_factors(layer_key, path, layer, r, init)
            scale = scales(path, layer, r, value, layers)
            adapters[path] = _adapter(layer, a, b, scale, rank_multiple, dropout)

        # Idle adapters are stored like the widest of the targets'.
        r = max(rank_by_path.values())
        idle_layers = {}
        if idle_targets:
            idle_layers = base.targets(model, idle_targets, setting="idle_targets")
        for path, layer in idle_layers.items():
            if path in adapters:
                continue
            # All zeros, so that the rank may be larger than a side of the matrix.
            a, b = zero_factors(layer, r)
            scale = scales(path, layer, r, 0.0, None)
            adapters[path] = _adapter(layer, a, b, scale, rank_multiple, dropout)
        return tree.replace(model, adapters)

    return base.Method("lora", adapt, trainable=rf"(^|/)lora_[ab]$|{BIASES[bias]}")


def _check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        candidates = ", ".join(choices)
        raise ValueError(f"{name}: expected one of {candidates}, got {value!r}")


def _check_ranks(ranks: Iterable[Any]) -> None:
    wrong = []
    for rank in ranks:
        if not (isinstance(rank, Integral) and int(rank) >= 1):
            wrong.append(str(rank))
    if wrong:
        raise ValueError(f"rank: expected an integer >= 1, got {', '.join(wrong)}")


def _check_alphas(alphas: Iterable[Any]) -> None:
    wrong = []
    for alpha in alphas:
        # Not the same as alpha <= 0: NaN is wrong too.
        if not alpha > 0:
            wrong.append(str(alpha))
    if wrong:
        raise ValueError(f"alpha: expected a number > 0, got {', '.join(wrong)}")


def _by_path(
    model: Any,
    setting: str,
    values: Mapping[str, Any],
    chosen: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the value of each chosen path: that of the first pattern that matches it."""
    value_by_path: dict[str, Any] = {}
    for pattern, value in values.items():
        # A pattern may also match layers that are not chosen.
        for path in base.targets(model, pattern, setting=setting):
            value_by_path.setdefault(path, value)
    missing = [path for path in chosen if path not in value_by_path]
    if missing:
        patterns = ", ".join(values)
        paths = ", ".join(missing)
        raise ValueError(f"{setting}: no pattern of {patterns} gives one for {paths}")
    return value_by_path


def _adapter(
    layer: Any,
    a: Float[Array, "... i r"],
    b: Float[Array, "... r o"],
    scale: Float[Array, "... r"],
    rank_multiple: int,
    rate: float,
) -> LoRA:
    """Return the layer with its adapter, whose rank is padded with idle directions."""
    a, b, scale = padded(a, b, scale, rank_multiple)
    if base.matrix_name(layer) == "embedding":
        return LoRAEmbedding(layer, a, b, scale, rate=rate)
    return LoRA(layer, a, b, scale, rate=rate)
