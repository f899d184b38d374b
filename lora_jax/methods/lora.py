"""LoRA: h = W0 x + (alpha/r) B A x (Hu et al. 2021, arXiv 2106.09685, section 4.1).

A is Gaussian and B zero, so training starts at the pretrained model; alpha is the same at every rank. In our layout
(kernel [i, o], y = x kernel) A is `lora_a` [i, r] and B is `lora_b` [r, o], both with the base's leading layer axis if it has one.
"""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from lora_jax.methods import base
from lora_jax.nn.dense import dense
from lora_jax.nn.layers import dropout


class LoRA(nnx.Module):
    """An adapted linear layer.

    `scale` [r] holds alpha/r for each of the r directions, as data: a sweep compiles once for all its alphas, and a zero marks
    a direction (or, with a layer axis, a whole layer) that is not there. Such a direction gets no gradient and adds nothing.
    """

    def __init__(self, layer: Any, a: Any, b: Any, scale: Any, *, rate: float = 0.0):
        self.base = layer
        self.lora_a, self.lora_b, self.scale = (
            nnx.Param(a),
            nnx.Param(b),
            nnx.Param(scale),
        )
        self.rate = rate

    def __call__(
        self, x: Float[Array, "... i"], key: Any = None
    ) -> Float[Array, "... o"]:
        low = dense(dropout(key, self.rate, x), self.lora_a[...]) * self.scale[
            ...
        ].astype(x.dtype)
        return self.base(x) + dense(low, self.lora_b[...])

    def delta(self) -> Float[Array, "... i o"]:
        """(alpha/r) B A as a kernel [i, o]."""
        return jnp.einsum(
            "...ir,...r,...ro->...io",
            self.lora_a[...],
            self.scale[...],
            self.lora_b[...],
        )

    def factors(self) -> tuple[Float[Array, "... i r"], Float[Array, "... r o"]]:
        """(A, B) of the directions that are there, with alpha/r in B: delta = A B. An idle adapter has none."""
        scale = self.scale[...]
        there = np.asarray(scale).reshape(-1, scale.shape[-1]).any(0)
        return self.lora_a[...][..., there], (scale[..., None] * self.lora_b[...])[
            ..., there, :
        ]

    def merged(self) -> Any:
        """The base layer with delta added to its matrix."""
        name = "kernel" if hasattr(self.base, "kernel") else "embedding"
        old = getattr(self.base, name).get_value()
        return base.tree.replace(
            self.base, {name: (old + self.delta()).astype(old.dtype)}
        )

    def parameters(self) -> int:
        """Learning parameters: r (i + o) for each layer, without the directions that are not there."""
        return int(np.count_nonzero(self.scale[...])) * (
            self.lora_a.shape[-2] + self.lora_b.shape[-1]
        )


class LoRAEmbedding(LoRA):
    """An adapted embedding: rows of A instead of a product; here A [V, r] starts at zero and B [r, D] Gaussian, as in loralib."""

    def __call__(self, x: Int[Array, "..."], key: Any = None) -> Float[Array, "... D"]:
        rows = self.base(x)
        return rows + dense(
            self.lora_a[...][x].astype(rows.dtype) * self.scale[...], self.lora_b[...]
        )


def lora(
    targets: str = "query,value",
    rank: int | Mapping[str, int] = 8,
    alpha: float | Mapping[str, float] = 16.0,
    *,
    dropout: float = 0.0,
    init: str = "gaussian",
    rank_stabilized: bool = False,
    bias: str = "none",
    layers: Sequence[int] | None = None,
    pad: int = 1,
    beside: str | None = None,
) -> base.Method:
    """The method of the paper.

    Args:
        targets: layer names (`query,value`) or a regex on paths.
        rank, alpha: one number, or one for each target pattern; the first pattern that matches a layer counts.
        dropout: share of LoRA's input dropped in training.
        init: of A, "gaussian": N(0, 1/(3 i)), the paper's Gaussian with the variance of the official code's uniform;
            "kaiming_uniform": U(±1/sqrt(i)), the official code.
        rank_stabilized: scale by alpha/sqrt(r) (arXiv 2312.03732) instead of alpha/r.
        bias: which biases learn too: "none", "all", or "lora_only", those of the adapted layers.
        layers: which blocks to adapt, by index; all by default.
        pad: matrices are stored with r rounded up to a multiple of this, so that ranks share one compiled program.
        beside: more layers that get an adapter, an idle one of scale 0, so that target sets share one compiled program.

    Raises:
        ValueError: an option outside its range; from `adapt`: a pattern that matches nothing, a rank above min(i, o).
    """
    _choice("init", init, INITS)
    _choice("bias", bias, BIASES)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: expected 0 <= dropout < 1, got {dropout}")
    ranks = rank if isinstance(rank, Mapping) else {targets: rank}
    alphas = alpha if isinstance(alpha, Mapping) else {targets: alpha}
    if wrong := [
        value
        for value in ranks.values()
        if not (isinstance(value, Integral) and value >= 1)
    ]:
        raise ValueError(
            f"rank: expected an integer >= 1, got {', '.join(map(str, wrong))}"
        )
    if wrong := [value for value in alphas.values() if not value > 0]:
        raise ValueError(
            f"alpha: expected a number > 0, got {', '.join(map(str, wrong))}"
        )

    def adapt(key, model):
        chosen = base.targets(model, targets)
        by_path = {
            "rank": _by_path(model, "rank", ranks, chosen),
            "alpha": _by_path(model, "alpha", alphas, chosen),
        }
        new = {}
        for path, layer in chosen.items():
            r, strength = by_path["rank"][path], by_path["alpha"][path]
            scale = strength / (r**0.5 if rank_stabilized else r)
            new[path] = _layer(
                base.key_of(key, path),
                path,
                layer,
                r,
                scale,
                init,
                layers,
                pad,
                dropout,
            )
        for path, layer in (
            base.targets(model, beside, setting="beside").items() if beside else ()
        ):
            if path not in new:
                widest = max(by_path["rank"].values())
                idle = _layer(key, path, layer, widest, 0.0, init, None, pad, dropout)
                new[path] = base.tree.replace(
                    idle, {"lora_a": jnp.zeros_like(idle.lora_a[...])}
                )
        return base.tree.replace(model, new)

    return base.Method("lora", adapt, rf"(^|/)lora_[ab]$|{BIASES[bias]}")


INITS = ("gaussian", "kaiming_uniform")
BIASES = {
    "none": r"(?!)",
    "all": r"(^|/)bias$",
    "lora_only": r"/base/bias$",
}  # (?!) matches nothing


def _choice(name: str, got: str, choices) -> None:
    if got not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {got!r}")


def _by_path(
    model: Any, name: str, values: Mapping[str, Any], chosen: Mapping[str, Any]
) -> dict[str, Any]:
    """The value of each chosen path, by the first pattern that matches it."""
    matched = {
        pattern: base.targets(model, pattern, setting=name) for pattern in values
    }
    found = {
        path: next((values[p] for p in values if path in matched[p]), None)
        for path in chosen
    }
    if without := [path for path, value in found.items() if value is None]:
        raise ValueError(
            f"{name}: no pattern of {', '.join(values)} gives one for {', '.join(without)}"
        )
    return found


def _layer(key, path, layer, rank, scale, init, layers, pad, rate):
    """The adapter of one layer, or of all the layers of one stack."""
    embedding = not hasattr(layer, "kernel")
    *stack, i, o = (layer.embedding if embedding else layer.kernel).shape
    if rank > min(i, o):
        raise ValueError(
            f"rank: expected 1 <= rank <= {min(i, o)} for {path} ({i} x {o}), got {rank}"
        )
    scales = jnp.full((*stack, rank), scale, jnp.float32)
    if layers is not None:
        if (
            not stack
            or not layers
            or not all(0 <= index < stack[0] for index in layers)
        ):
            there = (
                f"indices in 0 … {stack[0] - 1}"
                if stack
                else "none, it is no layer of a stack"
            )
            raise ValueError(
                f"layers: expected for {path} {there}, got {tuple(layers)}"
            )
        scales = scales * jnp.zeros((*stack, 1)).at[jnp.array(layers)].set(1)
    # The rank is folded in: adapters of two ranks share no direction by construction (it would feign subspace similarity).
    key = jax.random.fold_in(key, rank)
    if embedding:
        a, b = jnp.zeros((*stack, i, rank)), jax.random.normal(key, (*stack, rank, o))
    else:
        a, b = _draw(key, init, (*stack, i, rank)), jnp.zeros((*stack, rank, o))
    extra = [(0, -rank % pad)]
    same = [(0, 0)] * len(stack)
    a, b, scales = (
        jnp.pad(a, [*same, (0, 0), *extra]),
        jnp.pad(b, [*same, *extra, (0, 0)]),
        jnp.pad(scales, [*same, *extra]),
    )
    return (LoRAEmbedding if embedding else LoRA)(layer, a, b, scales, rate=rate)


def _draw(key, init, shape):
    i = shape[-2]
    if init == "gaussian":
        return jax.random.normal(key, shape) * (3 * i) ** -0.5
    return jax.random.uniform(key, shape, minval=-(i**-0.5), maxval=i**-0.5)
