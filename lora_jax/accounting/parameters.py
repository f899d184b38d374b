"""How many parameters a method trains: the closed forms of the LoRA paper, and a count of the parameter tree itself.

Hu et al. 2021 (arXiv 2106.09685v2), section 5.1. Letters: L layers, d width, f feed-forward, r rank. As in the paper a task's head
is never counted, though it learns too. A method is a value: `trainable_parameters(LoRA("query,value", 4), "gpt3-175b")`.
"""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax

from lora_jax import methods, tree
from lora_jax.models import bert, gpt2


class Architecture(NamedTuple):
    """The sizes of a transformer; 0 for a table its family does not have."""

    name: str
    family: str  # "bert", "roberta", "deberta" or "gpt2"
    layers: int
    width: int
    heads: int
    ffn: int
    vocabulary: int
    max_positions: int  # rows of the table of positions; DeBERTa's are relative
    segments: int


ARCHITECTURES = {
    sizes.name: sizes
    for sizes in (
        Architecture("minilm-l6", "bert", 6, 384, 12, 1536, 30522, 512, 2),
        Architecture("roberta-base", "roberta", 12, 768, 12, 3072, 50265, 514, 1),
        Architecture("roberta-large", "roberta", 24, 1024, 16, 4096, 50265, 514, 1),
        Architecture("deberta-v2-xxl", "deberta", 48, 1536, 24, 6144, 128100, 512, 0),
        Architecture("gpt2", "gpt2", 12, 768, 12, 3072, 50257, 1024, 0),
        Architecture("gpt2-medium", "gpt2", 24, 1024, 16, 4096, 50257, 1024, 0),
        Architecture("gpt2-large", "gpt2", 36, 1280, 20, 5120, 50257, 1024, 0),
        Architecture("gpt3-175b", "gpt2", 96, 12288, 96, 49152, 50257, 2048, 0),
    )
}


class _Rest(NamedTuple):
    """What there is beside tables and blocks: how many d x d matrices and vectors of d, and how many of these are biases."""

    matrices: int
    vectors: int
    biases: int


_REST = {
    "bert": _Rest(1, 3, 2),  # the embeddings' norm, the pooler
    "roberta": _Rest(0, 2, 1),  # the embeddings' norm
    "deberta": _Rest(
        3, 7, 4
    ),  # the norms of embeddings and positions; a convolution over three tokens, and its norm
    "gpt2": _Rest(0, 2, 1),  # the last norm
}


@dataclass(frozen=True)
class FineTune:
    """Everything learns, or only the last `blocks` blocks (two in FT^Top2)."""

    blocks: int | None = None

    def count(self, a: Architecture) -> int:
        d, rest = a.width, _REST[a.family]
        block = 4 * d * d + 2 * d * a.ffn + 9 * d + a.ffn
        if self.blocks is not None:
            return _blocks(self.blocks, a) * block
        tables = (a.vocabulary + a.max_positions + a.segments) * d
        return tables + a.layers * block + rest.matrices * d * d + rest.vectors * d


@dataclass(frozen=True)
class BitFit:
    """The bias vectors learn, the norms' too."""

    def count(self, a: Architecture) -> int:
        return a.layers * (7 * a.width + a.ffn) + _REST[a.family].biases * a.width


@dataclass(frozen=True)
class Prefix:
    """l_p tokens before the prompt and l_i after it: d (l_p + l_i) for their embeddings, or L times that for every layer."""

    prefix: int
    infix: int = 0
    every_layer: bool = False

    def count(self, a: Architecture) -> int:
        _at_least(0, prefix=self.prefix, infix=self.infix)
        return (
            (a.layers if self.every_layer else 1) * a.width * (self.prefix + self.infix)
        )


@dataclass(frozen=True)
class Adapter:
    """Bottlenecks of r with biases, `per_block` of them and `norms` trained LayerNorms in each of `blocks` blocks (all by default).

    Adapter^H has 2 per block (the default), ^P 1, ^L 1 and a norm, ^D 1 in some of the blocks.
    """

    rank: int
    per_block: int = 2
    norms: int = 0
    blocks: int | None = None

    def count(self, a: Architecture) -> int:
        _at_least(1, rank=self.rank, per_block=self.per_block)
        _at_least(0, norms=self.norms)
        bottleneck = 2 * a.width * self.rank + self.rank + a.width
        return _blocks(self.blocks, a) * (
            self.per_block * bottleneck + self.norms * 2 * a.width
        )


@dataclass(frozen=True)
class LoRA:
    """A and B of rank r on the targets (`query,value`) of every layer: r (i + o) for a matrix of i x o, no biases."""

    targets: str = "query,value"
    rank: int = 8

    def count(self, a: Architecture) -> int:
        shapes = _shapes(self.targets, a)
        _at_least(1, rank=self.rank)
        if self.rank > (most := min(map(min, shapes))):
            raise ValueError(
                f"rank: expected 1 <= rank <= {most} for {self.targets} of {a.name}, got {self.rank}"
            )
        return a.layers * self.rank * sum(map(sum, shapes))


@dataclass(frozen=True)
class Both:
    """Two methods at once: LoRA+PE, LoRA+PL."""

    first: "Method"
    second: "Method"

    def count(self, a: Architecture) -> int:
        return self.first.count(a) + self.second.count(a)


Method = FineTune | BitFit | Prefix | Adapter | LoRA | Both


def trainable_parameters(method: Method, architecture: Architecture | str) -> int:
    """How many parameters learn, the head's apart.

    Raises:
        ValueError: no such architecture or target, with those there are; a size out of range.
    """
    return method.count(_architecture(architecture))


def total_parameters(architecture: Architecture | str) -> int:
    """All weights of the pretrained model, without a head: RoBERTa's pooler counts here, but a classifier has its head instead."""
    a = _architecture(architecture)
    return FineTune().count(a) + (
        a.width * (a.width + 1) if a.family == "roberta" else 0
    )


class Fit(NamedTuple):
    """The largest LoRA within a budget: its rank, the parameters it has, and what is left."""

    rank: int
    parameters: int
    left: int


def rank_for(budget: int, architecture: Architecture | str, targets: str) -> Fit:
    """The largest r whose LoRA on the targets has at most `budget` parameters; at most the matrices' own rank.

    Raises:
        ValueError: not even r = 1 fits, with its cost; no such architecture or target.
    """
    a = _architecture(architecture)
    one = LoRA(targets, 1).count(a)
    if budget < one:
        raise ValueError(
            f"budget: expected at least {one:,} parameters, what r = 1 on {targets} of {a.name} has; got {budget:,}"
        )
    rank = min(budget // one, *map(min, _shapes(targets, a)))
    return Fit(rank, rank * one, budget - rank * one)


def tree_parameters(method: Method, architecture: Architecture | str) -> int | None:
    """The same number counted on the tree of the library's own model, of which only shapes are made.

    None where the library has not the model or the method.
    """
    a = _architecture(architecture)
    match method:
        case FineTune(None):
            adaptation = methods.full()
        case BitFit():
            adaptation = methods.bitfit()
        case LoRA(targets, rank):
            adaptation = methods.lora(targets, rank)
        case _:
            return None
    if a.family == "deberta":
        return None
    # Not methods.counts, which reads LoRA's scales: here they have no values, but neither is a direction stored in vain.
    adapted = jax.eval_shape(adaptation.adapt, jax.random.key(0), _model(a))
    return tree.count(
        tree.split(adapted, methods.mask(adapted, adaptation, head=False))[0]
    )


@cache
def _model(a: Architecture) -> Any:
    """The architecture's model, every leaf a shape."""
    names = ("layers", "width", "heads", "ffn", "vocabulary", "max_positions")
    sizes: dict[str, Any] = {name: getattr(a, name) for name in names} | {
        "epsilon": 1e-5,
        "activation": "gelu",
    }
    if a.family == "gpt2":
        init = partial(gpt2.init, config=gpt2.Config(**sizes))
    else:
        init = partial(
            bert.init,
            config=bert.Config(kind=a.family, segments=a.segments, pad=0, **sizes),
            labels=2,
        )
    return jax.eval_shape(init, jax.random.key(0))


def _architecture(wanted: Architecture | str) -> Architecture:
    if isinstance(wanted, Architecture):
        return wanted
    if wanted not in ARCHITECTURES:
        raise ValueError(
            f"architecture: expected one of {tree.near(wanted, list(ARCHITECTURES))}, got {wanted!r}"
        )
    return ARCHITECTURES[wanted]


def _shapes(targets: str, a: Architecture) -> list[tuple[int, int]]:
    """(i, o) of each target's matrix."""
    d, f = a.width, a.ffn
    known = {
        **dict.fromkeys(("query", "key", "value", "output"), (d, d)),
        "up": (d, f),
        "down": (f, d),
    }
    names = dict.fromkeys(name.strip() for name in targets.split(","))
    if wrong := [name for name in names if name not in known]:
        raise ValueError(
            f"targets: expected names of {', '.join(known)}, got {', '.join(map(repr, wrong))}"
        )
    return [known[name] for name in names]


def _blocks(blocks: int | None, a: Architecture) -> int:
    if blocks is not None and not 1 <= blocks <= a.layers:
        raise ValueError(
            f"blocks: expected 1 <= blocks <= {a.layers} for {a.name}, got {blocks}"
        )
    return a.layers if blocks is None else blocks


def _at_least(least: int, **values: int) -> None:
    if wrong := [
        f"{name} = {value}" for name, value in values.items() if value < least
    ]:
        raise ValueError(f"expected at least {least}, got {', '.join(wrong)}")
