"""What a program does, counted by hand in a text that XLA might print."""

import jax
import jax.numpy as jnp
import pytest

from lora_jax.accounting.program_cost import program_cost
from lora_jax.accounting.program_text import parse

# A stack of 10 matrices of 400 bytes: a loop reads one in each pass, and adds to x.
LOOP = """
%add_slice (stack: f32[10,100], index: s32[], x: f32[100]) -> f32[100] {
  %stack = f32[10,100]{1,0} parameter(0)
  %index = s32[] parameter(1)
  %x = f32[100]{0} parameter(2)
  %slice = f32[1,100]{1,0} dynamic-slice(%stack, %index, %index)
  %flat = f32[100]{0} bitcast(%slice)
  ROOT %sum = f32[100]{0} add(%flat, %x)
}

%body (arg: (s32[], f32[100], f32[10,100])) -> (s32[], f32[100], f32[10,100]) {
  %arg = (s32[], f32[100]{0}, f32[10,100]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %x = f32[100]{0} get-tuple-element(%arg), index=1
  %stack = f32[10,100]{1,0} get-tuple-element(%arg), index=2
  %sum = f32[100]{0} fusion(%stack, %i, %x), kind=kLoop, calls=%add_slice
  ROOT %next = (s32[], f32[100]{0}, f32[10,100]{1,0}) tuple(%i, %sum, %stack)
}

%until (arg: (s32[], f32[100], f32[10,100])) -> pred[] {
  %arg = (s32[], f32[100]{0}, f32[10,100]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %bound = s32[] constant(10)
  ROOT %less = pred[] compare(%i, %bound), direction=LT
}

ENTRY %main (stack: f32[10,100], x: f32[100]) -> f32[100] {
  %stack = f32[10,100]{1,0} parameter(0)
  %x = f32[100]{0} parameter(1)
  %zero = s32[] constant(0)
  %start = (s32[], f32[100]{0}, f32[10,100]{1,0}) tuple(%zero, %x, %stack)
  %loop = (s32[], f32[100]{0}, f32[10,100]{1,0}) while(%start), condition=%until, body=%body
  ROOT %last = f32[100]{0} get-tuple-element(%loop), index=1
}
"""


def cost_of(text, loops=1):
    return program_cost(parse(text), loops=loops)


def entry(*lines):
    body = "\n".join(f"  {line}" for line in lines)
    return f"ENTRY %main (x: f32[100]) -> f32[100] {{\n{body}\n}}\n"


def test_a_loop_reads_a_slice_in_each_pass():
    cost = cost_of(LOOP)
    # 400 bytes of the stack, 400 of x, 4 of the index; 400 written; ten times.
    assert cost.accessed == 10 * (400 + 400 + 4 + 400)
    assert cost.collectives == {}
    assert cost.largest == [
        {"shape": "f32[100]", "bytes": 400, "operation": "fusion"},
    ]


def test_a_loop_of_unknown_length_runs_as_often_as_is_told():
    text = LOOP.replace("constant(10)", "get-tuple-element(%arg), index=0")
    assert cost_of(text, loops=3).accessed == 3 * 1204


def test_an_update_in_place_moves_the_update_alone():
    text = entry(
        "%x = f32[100]{0} parameter(0)",
        "%new = f32[5]{0} negate(%x)",
        "%zero = s32[] constant(0)",
        "ROOT %y = f32[100]{0} dynamic-update-slice(%x, %new, %zero)",
    )
    assert cost_of(text).accessed == (400 + 20) + 2 * 20


def test_a_fused_update_in_place_moves_the_update_alone():
    fused = """
%put (x: f32[100], new: f32[5], at: s32[]) -> f32[100] {
  %x = f32[100]{0} parameter(0)
  %new = f32[5]{0} parameter(1)
  %at = s32[] parameter(2)
  ROOT %y = f32[100]{0} dynamic-update-slice(%x, %new, %at)
}
"""
    text = fused + entry(
        "%x = f32[100]{0} parameter(0)",
        "%new = f32[5]{0} parameter(1)",
        "%zero = s32[] parameter(2)",
        "ROOT %y = f32[100]{0} fusion(%x, %new, %zero), kind=kLoop, calls=%put",
    )
    assert cost_of(text).accessed == 20 + 4 + 20


def test_memory_of_the_chip_itself_is_not_counted():
    text = entry(
        "%x = f32[100]{0} parameter(0)",
        "%near = f32[100]{0:S(1)} negate(%x)",
        "ROOT %y = f32[100]{0} negate(%near)",
    )
    assert cost_of(text).accessed == 400 + 400


def test_messages_are_counted_by_kind_with_the_larger_of_both_sides():
    text = entry(
        "%x = f32[100]{0} parameter(0)",
        "%all = f32[400]{0} all-gather(%x), dimensions={0}",
        "%started = (f32[400]{0}, f32[100]{0}) reduce-scatter-start(%all)",
        "%part = f32[100]{0} reduce-scatter-done(%started)",
        "ROOT %sum = f32[100]{0} all-reduce(%part), to_apply=%add",
    )
    assert cost_of(text).collectives == {
        "all-gather": {"count": 1, "bytes": 1600},
        "all-reduce": {"count": 1, "bytes": 400},
        "reduce-scatter": {"count": 1, "bytes": 1600},
    }


def test_the_largest_results_are_named_by_their_operation():
    text = entry(
        "%x = f32[100]{0} parameter(0)",
        '%a = f32[7]{0} negate(%x), metadata={op_name="jit(f)/neg"}',
        "%b = f32[9]{0} negate(%x)",
        "%c = f32[8]{0} negate(%x)",
    )
    largest = program_cost(parse(text), loops=1, largest=2).largest
    assert largest == [
        {"shape": "f32[9]", "bytes": 36, "operation": "negate"},
        {"shape": "f32[8]", "bytes": 32, "operation": "negate"},
    ]
    by_name = program_cost(parse(text), loops=1).largest
    assert by_name[-1]["operation"] == "jit(f)/neg"


@pytest.mark.parametrize("layers", [1, 6])
def test_a_scan_of_this_compiler_reads_each_matrix_once(layers):
    width = 64

    def step(x, w):
        return x @ w, None

    stack = jax.ShapeDtypeStruct((layers, width, width), "float32")
    x = jnp.ones((1, width))
    scan = jax.jit(lambda stack: jax.lax.scan(step, x, stack)[0])
    program = parse(scan.lower(stack).compile().as_text())
    accessed = program_cost(program, loops=1).accessed
    matrices = 4 * layers * width * width
    # What x and a copy of the slice take comes on top.
    assert matrices <= accessed <= 3 * matrices + 20_000
