"""Where the bytes of a QLoRA training step of LLaMA go, by formula.

Dettmers et al. 2023 (arXiv 2305.14314v1), pages 4 and 26. Letters: L layers, h width,
f feed-forward width, r rank, T tokens. S is the sum of inputs and outputs over the
matrices of a block: 11 h + 3 f for query, key, value, output, gate, up and down.
"""

from typing import NamedTuple

from lora_jax import quant
from lora_jax.accounting.optimizer_states import PRECISIONS, stored_bytes

# Bytes of a number.
FLOAT16 = 2
FLOAT32 = 4

VOCABULARY = 32_000  # tokens, of all sizes


class LlamaSizes(NamedTuple):
    """The sizes of a LLaMA: no biases, RMSNorms, and a head of its own."""

    layers: int
    width: int
    ffn: int

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """Inputs and outputs of each matrix of a block.

        Query, key, value and output, then gate, up and down.
        """
        h, f = self.width, self.ffn
        attention = [(h, h), (h, h), (h, h), (h, h)]
        mlp = [(h, f), (h, f), (f, h)]
        return attention + mlp

    @property
    def sides(self) -> int:
        """S, the sum of inputs and outputs over the matrices of a block."""
        return sum(map(sum, self.matrices))

    @property
    def block_parameters(self) -> int:
        """Parameters of the matrices of all blocks."""
        block = 0
        for inputs, outputs in self.matrices:
            block += inputs * outputs
        return self.layers * block

    @property
    def other_parameters(self) -> int:
        """Parameters of embedding, head and norms."""
        # Two norms in each block, and the last.
        norms = 2 * self.layers + 1
        # A row of each table for every token.
        return (2 * VOCABULARY + norms) * self.width

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.block_parameters + self.other_parameters


LLAMAS = {
    "LLaMA 7B": LlamaSizes(layers=32, width=4096, ffn=11008),
    "LLaMA 13B": LlamaSizes(layers=40, width=5120, ffn=13824),
    "LLaMA 33B": LlamaSizes(layers=60, width=6656, ffn=17920),
    "LLaMA 65B": LlamaSizes(layers=80, width=8192, ffn=22016),
}
"""The models of QLoRA's Figure 6 by name."""

PARTS = ("model", "adapters", "weight gradient", "optimizer", "input gradient")
"""The parts of the memory, as the figure has them."""


def quantized_bytes(numbers: int, block: int, *, double: bool) -> int:
    """Return the bytes of a matrix of so many numbers in 4 bits, scales included.

    A scale for each block of numbers is in FP32, or with double quantization in 8 bits
    with an FP32 scale for each block of scales and the mean of all scales.
    """
    # Two codes a byte.
    codes = _divide_up(numbers, 2)
    blocks = _divide_up(numbers, block)
    if not double:
        return codes + FLOAT32 * blocks
    # Scales of a byte, their own scales, and their mean.
    nested_blocks = _divide_up(blocks, quant.NESTED)
    nested = FLOAT32 * nested_blocks
    return codes + blocks + nested + FLOAT32


def _divide_up(numerator: int, denominator: int) -> int:
    """The quotient, rounded up."""
    return -(-numerator // denominator)


def part_bytes(
    sizes: LlamaSizes,
    *,
    rank: int,
    block: int,
    tokens: int,
    double: bool,
    sides: int | None = None,
) -> dict[str, int]:
    """Return the bytes of each of `PARTS`, for one sequence with checkpointing.

    Adapters of rank r are on every matrix of the blocks, in 16 bits, and so are their
    gradients; Adam's two moments are in FP32. Checkpointing has the gradients of the
    inputs and outputs of one block at a time, in 16 bits. `sides` stands for S, which
    is that of the model by default.
    """
    if sides is None:
        sides = sizes.sides
    # The quantized matrices of one block.
    block_bytes = 0
    for inputs, outputs in sizes.matrices:
        numbers = inputs * outputs
        block_bytes += quantized_bytes(numbers, block, double=double)
    blocks = sizes.layers * block_bytes
    # Embedding, head and norms in 16 bits.
    others = FLOAT16 * sizes.other_parameters
    adapter_parameters = sizes.layers * rank * sides
    moments = 2 * FLOAT32 * adapter_parameters
    return {
        "model": blocks + others,
        "adapters": FLOAT16 * adapter_parameters,
        "weight gradient": FLOAT16 * adapter_parameters,
        "optimizer": moments,
        "input gradient": FLOAT16 * tokens * sides,
    }


def bits_by_growth(
    small: LlamaSizes, large: LlamaSizes, *, small_bytes: float, large_bytes: float
) -> float:
    """Return by how many bits a model grows for each parameter of its blocks.

    `small_bytes` and `large_bytes` are what two models take. Embedding, head and norms,
    which are in 16 bits, are taken off them. What any model takes beside its weights
    does not count, as long as it is the same for both.
    """
    small_blocks = small_bytes - FLOAT16 * small.other_parameters
    large_blocks = large_bytes - FLOAT16 * large.other_parameters
    parameters = large.block_parameters - small.block_parameters
    return 8 * (large_blocks - small_blocks) / parameters


def step_bytes(base: str, rank: int, block: int, tokens: int) -> dict[str, int]:
    """Return the bytes of a QLoRA step of a LLaMA, by two accounts.

    `ours/model` and so on are with double quantization and the model's own S;
    `fitted/model` and so on are by what comes nearest to the bars of Figure 6: single
    quantization and S = 18 h. `full/total` is full fine-tuning in 16 bits, of
    `full/parameters`, and `sequence/inputs_of_blocks` what checkpointing keeps.

    Raises:
        KeyError: no such model.
    """
    sizes = LLAMAS[base]
    step = {"rank": rank, "block": block, "tokens": tokens}
    # 18 h are 8 h for attention and 10 h for an MLP of two matrices, 4 h wide.
    fitted_sides = 18 * sizes.width
    accounts = {
        "ours": part_bytes(sizes, **step, double=True),
        "fitted": part_bytes(sizes, **step, double=False, sides=fitted_sides),
    }
    metrics = {}
    # One flat table, as a row has it.
    for account, parts in accounts.items():
        for part, size in parts.items():
            metrics[f"{account}/{part}"] = size
        metrics[f"{account}/total"] = sum(parts.values())
    # Every parameter is trained.
    precision = PRECISIONS["FP16, moments FP32"]
    full = stored_bytes(sizes.parameters, sizes.parameters, precision)
    metrics["full/parameters"] = sizes.parameters
    metrics["full/total"] = full.total
    # The input of each block, for all tokens.
    inputs = FLOAT16 * sizes.layers * tokens * sizes.width
    metrics["sequence/inputs_of_blocks"] = inputs
    return metrics
