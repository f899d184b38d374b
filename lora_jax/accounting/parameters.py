"""How many parameters a method trains, by the closed forms of the LoRA paper.

Hu et al. 2021 (arXiv 2106.09685v2), section 5.1. As in the paper, the head of a task is
never counted, though it is trained too. A method is a value:
`trainable_parameters(LoRA("query,value", 4), "gpt3-175b")`. `tree_parameters` counts
the same on the library's own model.

Letters: L layers, d width, f feed-forward width, r rank.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax

from lora_jax import methods, tree
from lora_jax.accounting.architectures import (
    MODEL_FAMILIES,
    Architecture,
    abstract_model,
    find_architecture,
)


class _Surroundings(NamedTuple):
    """What an architecture has beside tables and blocks.

    Numbers of d x d matrices and of vectors of d, and how many of these are biases.
    """

    matrices: int
    vectors: int
    biases: int


_SURROUNDINGS = {
    # The norm of the embeddings, and the pooler.
    "bert": _Surroundings(matrices=1, vectors=3, biases=2),
    # The norm of the embeddings.
    "roberta": _Surroundings(matrices=0, vectors=2, biases=1),
    # The norms of embeddings and positions, a convolution over three tokens, its norm.
    "deberta": _Surroundings(matrices=3, vectors=7, biases=4),
    # The last norm.
    "gpt2": _Surroundings(matrices=0, vectors=2, biases=1),
}


@dataclass(frozen=True)
class FineTune:
    """Train everything, or only the last `blocks` blocks (two in FT^Top2)."""

    blocks: int | None = None

    def count(self, sizes: Architecture) -> int:
        d, f = sizes.width, sizes.ffn
        # Four matrices of attention and two of the MLP; biases and two norms.
        matrices = 4 * d * d + 2 * d * f
        vectors = 9 * d + f
        block = matrices + vectors
        if self.blocks is not None:
            return _adapted_blocks(self.blocks, sizes) * block
        # Rows of the three tables of embeddings.
        rows = sizes.vocabulary + sizes.max_positions + sizes.segments
        surroundings = _SURROUNDINGS[sizes.family]
        beside = surroundings.matrices * d * d
        beside += surroundings.vectors * d
        tables = rows * d
        blocks = sizes.layers * block
        return tables + blocks + beside


@dataclass(frozen=True)
class BitFit:
    """Train the bias vectors, those of the norms included."""

    def count(self, sizes: Architecture) -> int:
        # Query, key, value, output, down and two norms have d; up has f.
        block = 7 * sizes.width + sizes.ffn
        biases = _SURROUNDINGS[sizes.family].biases
        beside = biases * sizes.width
        return sizes.layers * block + beside


@dataclass(frozen=True)
class Prefix:
    """Train l_p tokens before the prompt and l_i after it.

    They have d (l_p + l_i) parameters as embeddings, and L times that if `every_layer`
    has its own.
    """

    prefix: int
    infix: int = 0
    every_layer: bool = False

    def count(self, sizes: Architecture) -> int:
        # Either may be left out.
        _check_at_least(0, prefix=self.prefix, infix=self.infix)
        layers = sizes.layers if self.every_layer else 1
        tokens = self.prefix + self.infix
        return layers * sizes.width * tokens


@dataclass(frozen=True)
class Adapter:
    """Train bottlenecks of width r with biases, and some LayerNorms.

    Each of `blocks` blocks (all by default) has `per_block` bottlenecks and `norms`
    trained LayerNorms. Adapter^H has 2 per block (the default), ^P has 1, ^L has 1 and
    a norm, ^D has 1 in some of the blocks.
    """

    rank: int
    per_block: int = 2
    norms: int = 0
    blocks: int | None = None

    def count(self, sizes: Architecture) -> int:
        _check_at_least(1, rank=self.rank, per_block=self.per_block)
        _check_at_least(0, norms=self.norms)
        # Down and up, a bias each.
        matrices = 2 * sizes.width * self.rank
        biases = self.rank + sizes.width
        bottleneck = matrices + biases
        # A scale and a bias.
        norm = 2 * sizes.width
        block = self.per_block * bottleneck
        block += self.norms * norm
        return _adapted_blocks(self.blocks, sizes) * block


@dataclass(frozen=True)
class LoRA:
    """Train A and B of rank r on the targets (`query,value`) of every layer.

    They have r (i + o) parameters for a matrix of i x o, and no biases.
    """

    targets: str = "query,value"
    rank: int = 8

    def count(self, sizes: Architecture) -> int:
        shapes = target_shapes(self.targets, sizes)
        _check_at_least(1, rank=self.rank)
        # Beyond it, A and B are rank deficient.
        largest = min(map(min, shapes))
        if self.rank > largest:
            raise ValueError(
                f"rank: expected 1 <= rank <= {largest} for {self.targets} of "
                f"{sizes.name}, got {self.rank}"
            )
        # Inputs and outputs of all targets of a block.
        sides = sum(map(sum, shapes))
        return sizes.layers * self.rank * sides


@dataclass(frozen=True)
class Both:
    """Train two methods at once: LoRA+PE and LoRA+PL."""

    first: "Method"
    second: "Method"

    def count(self, sizes: Architecture) -> int:
        first = self.first.count(sizes)
        second = self.second.count(sizes)
        return first + second


Method = FineTune | BitFit | Prefix | Adapter | LoRA | Both


def trainable_parameters(method: Method, architecture: Architecture | str) -> int:
    """Return how many parameters are trained, without those of the head.

    Raises:
        ValueError: no such architecture or target, with the candidates, or a size that
            is out of range.
    """
    return method.count(find_architecture(architecture))


def total_parameters(architecture: Architecture | str) -> int:
    """Return how many weights the pretrained model has, without a head.

    RoBERTa's pooler is counted here; a classifier has its head in its place.

    Raises:
        ValueError: no such architecture.
    """
    sizes = find_architecture(architecture)
    total = FineTune().count(sizes)
    if sizes.family == "roberta":
        # The pooler's matrix and bias.
        total += sizes.width**2 + sizes.width
    return total


def tree_parameters(method: Method, architecture: Architecture | str) -> int | None:
    """Return `trainable_parameters`, counted on the library's own abstract model.

    None where the library does not have the model or the method.

    Raises:
        ValueError: no such architecture or target, or a rank that is out of range.
    """
    sizes = find_architecture(architecture)
    adaptation = _adaptation(method)
    # DeBERTa, prefixes and adapters are counted by formula alone.
    if adaptation is None or sizes.family not in MODEL_FAMILIES:
        return None
    model = abstract_model(sizes)
    # Shapes alone: GPT-3's 175 billion take no memory.
    adapted = jax.eval_shape(adaptation.adapt, jax.random.key(0), model)
    # Not methods.counts, which reads LoRA's scales to leave out idle directions: an
    # abstract model has no values, and here no direction is idle.
    mask = methods.mask(adapted, adaptation, head=False)
    trainable, _ = tree.split(adapted, mask)
    return tree.count(trainable)


def _adaptation(method: Method) -> methods.Method | None:
    """The library's own method for a formula; None if there is none."""
    match method:
        case FineTune(None):
            return methods.full()
        case BitFit():
            return methods.bitfit()
        case LoRA(targets, rank):
            return methods.lora(targets, rank)
        case _:
            return None


def target_shapes(targets: str, sizes: Architecture) -> list[tuple[int, int]]:
    """Return inputs and outputs (i, o) of each of the targets' matrices, once each.

    Raises:
        ValueError: a target that no block has, with those there are.
    """
    d, f = sizes.width, sizes.ffn
    # (inputs, outputs)
    shapes = {
        "query": (d, d),
        "key": (d, d),
        "value": (d, d),
        "output": (d, d),
        "up": (d, f),
        "down": (f, d),
    }
    # In order, without repetitions.
    stripped = map(str.strip, targets.split(","))
    names = dict.fromkeys(stripped)
    unknown = [repr(name) for name in names if name not in shapes]
    if unknown:
        raise ValueError(
            f"targets: expected names of {', '.join(shapes)}, got {', '.join(unknown)}"
        )
    return [shapes[name] for name in names]


def _adapted_blocks(blocks: int | None, sizes: Architecture) -> int:
    """`blocks`, or all of them if it is None."""
    if blocks is None:
        return sizes.layers
    if not 1 <= blocks <= sizes.layers:
        raise ValueError(
            f"blocks: expected 1 <= blocks <= {sizes.layers} for {sizes.name}, "
            f"got {blocks}"
        )
    return blocks


def _check_at_least(least: int, **values: int) -> None:
    # All at once.
    wrong = [f"{name} = {value}" for name, value in values.items() if value < least]
    if wrong:
        raise ValueError(f"expected at least {least}, got {', '.join(wrong)}")
