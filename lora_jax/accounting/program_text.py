"""The text of a compiled program as values: computations of instructions.

XLA prints a compiled program as computations: the entry, the bodies of loops, and what
is fused into one kernel. `program_cost.py` counts in them.
"""

import math
import re
from typing import NamedTuple

# Bits of a number by its type; a type that is not here (a token) has none.
BITS = {
    "pred": 8,
    "s4": 4,
    "u4": 4,
    "s8": 8,
    "u8": 8,
    "f8e4m3fn": 8,
    "f8e5m2": 8,
    "bf16": 16,
    "f16": 16,
    "s16": 16,
    "u16": 16,
    "f32": 32,
    "s32": 32,
    "u32": 32,
    "f64": 64,
    "s64": 64,
    "u64": 64,
}

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# On a TPU: memory of the chip itself, S(1), and scalars' memory, S(2).
_ON_CHIP = re.compile(r"S\([12]\)")


class Array(NamedTuple):
    """An array of a shape as it is printed."""

    text: str  # `bf16[32,512,4096]`
    size: int  # bytes
    on_chip: bool  # in memory of the chip itself


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]  # of its result
    operands: tuple[str, ...]  # names of instructions of the same computation
    called: dict[str, str]  # computations by role: calls, body, condition, …
    trips: int | None  # of a loop, where XLA knows
    attributes: str  # what follows the operands; a constant's value
    is_root: bool

    @property
    def size(self) -> int:
        """Bytes of the result."""
        return sum(array.size for array in self.arrays)


class Program(NamedTuple):
    """Computations by name, each a list of instructions by name, in order."""

    entry: str
    computations: dict[str, dict[str, Instruction]]


def parse(text: str) -> Program:
    """Return the computations in the text of a compiled program.

    Raises:
        ValueError: the text has no entry.
    """
    entry = ""
    computations: dict[str, dict[str, Instruction]] = {}
    current: dict[str, Instruction] = {}
    for line in text.splitlines():
        if header := _HEADER.match(line):
            is_entry, name = header.groups()
            current = computations.setdefault(name, {})
            if is_entry:
                entry = name
        elif match := _INSTRUCTION.match(line):
            instruction = _instruction(*match.groups())
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("expected the text of a compiled program, got none with ENTRY")
    return Program(entry, computations)


def _instruction(root: str | None, name: str, text: str) -> Instruction:
    """Return an instruction of its name and of `shape opcode(operands), attributes`."""
    shape, after_shape = _split_shape(text)
    opcode, _, inner = after_shape.partition("(")
    stop = _closing(inner)
    operands, attributes = inner[:stop], inner[stop + 1 :]
    called = dict(_CALLED.findall(attributes))
    if branches := _BRANCHES.search(attributes):
        for index, branch in enumerate(branches[1].split(",")):
            called[f"branch {index}"] = branch.strip(" %")
    trips = _TRIPS.search(attributes)
    names = tuple(_NAME.findall(operands))
    # These have a value, or an index, in the place of operands.
    if opcode in ("constant", "parameter"):
        names, attributes = (), operands
    return Instruction(
        name,
        opcode,
        arrays_of(shape),
        names,
        called,
        int(trips[1]) if trips else None,
        attributes,
        is_root=root is not None,
    )


def _split_shape(text: str) -> tuple[str, str]:
    # A tuple has spaces, an array has none.
    stop = text.find(" ")
    if text.startswith("("):
        stop = 2 + _closing(text[1:])
    return text[:stop], text[stop:].strip()


def _closing(text: str) -> int:
    """Return the index of the parenthesis that closes one before the text."""
    depth = 1
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    return len(text)


def arrays_of(shape: str) -> tuple[Array, ...]:
    """Return the arrays of a shape; a tuple has several, a token none."""
    arrays = []
    for kind, sizes, layout in _ARRAY.findall(shape):
        if kind not in BITS:
            continue
        dimensions = [int(size) for size in sizes.split(",") if size]
        bits = BITS[kind] * math.prod(dimensions)
        on_chip = bool(_ON_CHIP.search(layout))
        arrays.append(Array(f"{kind}[{sizes}]", -(-bits // 8), on_chip))
    return tuple(arrays)
