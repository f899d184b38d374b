"""What a compiled program does, counted in its text.

XLA's own cost analysis counts the body of a loop once, and the compiler for GPUs says
nothing without a GPU. Here each instruction counts as often as its loop runs.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from lora_jax.accounting.program_text import Array, Instruction, Program

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
# Instructions that move no bytes themselves.
FREE = frozenset(
    (
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota"),
        *("while", "call", "conditional", "after-all", "opt-barrier", "async-start"),
        *("partition-id", "replica-id", "async-update", "async-done", "domain"),
    )
)
# Of their first operand they read as much as they return.
SLICES = ("dynamic-slice", "slice", "gather", "slice-start")
_OPERATION = re.compile(r'op_name="([^"]*)"')
_INTEGER = re.compile(r"^\d+$")


class Executed(NamedTuple):
    """An instruction, and how often a step runs it."""

    instruction: Instruction
    computation: str
    times: int
    is_fused: bool  # within a kernel


class Cost(NamedTuple):
    """What a program does on one device."""

    accessed: int  # bytes read and written in the device's memory
    collectives: dict[str, dict[str, int]]  # count and bytes by kind
    largest: list[dict[str, object]]  # results by size: shape, bytes, operation


def program_cost(program: Program, *, loops: int, largest: int = 5) -> Cost:
    """Return the cost of a program.

    `loops` is how often a loop runs of which the text does not say so. An instruction
    reads its operands and writes its result; one that takes a slice, fused or not,
    reads that slice alone. What lies in the chip's own memory is not counted.
    """
    accessed = 0
    collectives: dict[str, dict[str, int]] = {}
    results: dict[str, dict[str, object]] = {}
    for executed in _executed(program, program.entry, 1, loops, is_fused=False):
        instruction = executed.instruction
        kind = instruction.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            entry = collectives.setdefault(kind, {"count": 0, "bytes": 0})
            entry["count"] += executed.times
            entry["bytes"] += executed.times * _moved(program, executed)
        if executed.is_fused or _is_free(instruction):
            continue
        accessed += executed.times * _accessed(program, executed)
        for array in instruction.arrays:
            results.setdefault(array.text, _result(array, instruction))
    by_size = sorted(results.values(), key=_size, reverse=True)
    return Cost(accessed, dict(sorted(collectives.items())), by_size[:largest])


def _size(result: dict[str, object]) -> int:
    return int(str(result["bytes"]))


def _result(array: Array, instruction: Instruction) -> dict[str, object]:
    match = _OPERATION.search(instruction.attributes)
    # The name of the operation in the program that was compiled.
    operation = match[1] if match else instruction.opcode
    return {"shape": array.text, "bytes": array.size, "operation": operation}


def _is_free(instruction: Instruction) -> bool:
    return instruction.opcode in FREE or instruction.opcode.endswith("-done")


def _executed(
    program: Program, name: str, times: int, loops: int, *, is_fused: bool
) -> Iterator[Executed]:
    """Yield the instructions of a computation and of those it runs."""
    for instruction in program.computations.get(name, {}).values():
        yield Executed(instruction, name, times, is_fused)
        opcode = instruction.opcode
        for role, called in instruction.called.items():
            # The operation of a reduction, and the condition of a loop, are small.
            if role == "condition" or (role == "to_apply" and opcode != "call"):
                continue
            repeats = _trips(program, instruction, loops) if role == "body" else 1
            fused = is_fused or opcode == "fusion"
            yield from _executed(
                program, called, times * repeats, loops, is_fused=fused
            )


def _trips(program: Program, loop: Instruction, loops: int) -> int:
    """Return how often a loop runs: as XLA says, or by the bound of its condition."""
    if loop.trips is not None:
        return loop.trips
    bounds = []
    condition = program.computations.get(loop.called.get("condition", ""), {})
    for instruction in condition.values():
        # A loop of lax counts from 0 to a bound; one of an unknown length has none here.
        if instruction.opcode == "constant" and _INTEGER.match(instruction.attributes):
            bounds.append(int(instruction.attributes))
    return bounds[0] if len(bounds) == 1 else loops


def _moved(program: Program, executed: Executed) -> int:
    """Return the bytes of a collective on one device: of its operands or results."""
    instruction = executed.instruction
    operands = 0
    for name in instruction.operands:
        operands += program.computations[executed.computation][name].size
    results = instruction.size
    # An operation that is only started has its operands among the results.
    if instruction.opcode.endswith("-start") and results > operands:
        results -= operands
    return max(operands, results)


def _accessed(program: Program, executed: Executed) -> int:
    """Return the bytes that one run of an instruction reads and writes."""
    computation = program.computations[executed.computation]
    instruction = executed.instruction
    called = program.computations.get(instruction.called.get("calls", ""), {})
    if instruction.opcode == "fusion" and called:
        return _fused_bytes(computation, instruction, called)
    # A copy that is only started has its source among the results.
    if instruction.opcode in ("copy-start", "slice-start"):
        return sum(map(_memory_bytes, instruction.arrays[:1])) + _read_by_start(
            computation, instruction
        )
    if instruction.opcode == "dynamic-update-slice":
        # In place: the update is read and written.
        return 2 * _bytes(computation[instruction.operands[1]])
    written = _bytes(instruction)
    read = 0
    for index, name in enumerate(instruction.operands):
        is_sliced = index == 0 and instruction.opcode in SLICES
        read += written if is_sliced else _bytes(computation[name])
    return read + written


def _read_by_start(computation: dict[str, Instruction], start: Instruction) -> int:
    source = computation[start.operands[0]]
    # No more than arrives.
    arriving = start.arrays[0].size if start.arrays else 0
    return min(_bytes(source), arriving)


def _fused_bytes(
    computation: dict[str, Instruction],
    fusion: Instruction,
    fused: dict[str, Instruction],
) -> int:
    """Return the bytes that a kernel reads of its operands, and writes."""
    parameters = {}
    for instruction in fused.values():
        if instruction.opcode == "parameter":
            parameters[int(instruction.attributes)] = instruction
    total = 0
    users = _users(fused)
    for index, name in enumerate(fusion.operands):
        operand = _bytes(computation[name])
        if operand and index in parameters:
            operand = min(operand, _read(fused, users, parameters[index].name))
        total += operand
    if not _bytes(fusion):
        return total
    root = next(item for item in fused.values() if item.is_root)
    return total + min(_bytes(fusion), _written(fused, root))


def _users(fused: dict[str, Instruction]) -> dict[str, list[Instruction]]:
    users: dict[str, list[Instruction]] = {}
    for instruction in fused.values():
        for name in instruction.operands:
            users.setdefault(name, []).append(instruction)
    return users


def _read(
    fused: dict[str, Instruction], users: dict[str, list[Instruction]], name: str
) -> int:
    """Return the bytes that a kernel reads of one of its arrays."""
    total = 0
    for user in users.get(name, []):
        is_first = user.operands[0] == name
        if is_first and user.opcode in SLICES:
            total += user.size
        elif is_first and user.opcode == "dynamic-update-slice":
            continue  # written in place
        elif user.opcode == "bitcast":
            total += _read(fused, users, user.name)
        else:
            return fused[name].size
    return total


def _written(fused: dict[str, Instruction], result: Instruction) -> int:
    """Return the bytes that a kernel writes of a result."""
    if result.opcode == "tuple":
        return sum(_written(fused, fused[name]) for name in result.operands)
    if result.opcode == "bitcast":
        return _written(fused, fused[result.operands[0]])
    if result.opcode == "dynamic-update-slice":
        return fused[result.operands[1]].size
    return result.size


def _bytes(instruction: Instruction) -> int:
    return sum(map(_memory_bytes, instruction.arrays))


def _memory_bytes(array: Array) -> int:
    return 0 if array.on_chip else array.size
