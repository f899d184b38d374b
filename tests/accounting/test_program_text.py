"""The text of a compiled program, read line by line."""

import jax
import jax.numpy as jnp
import pytest

from lora_jax.accounting.program_text import arrays_of, parse

TEXT = """HloModule jit_step, is_scheduled=true

%body (arg: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %arg = (s32[], /*index=1*/f32[4,8]{1,0}) parameter(0)
  ROOT %both = (s32[], f32[4,8]{1,0}) tuple(%arg, %arg)
}

ENTRY %main.3 (x.1: f32[4,8]) -> f32[4,8] {
  %x.1 = f32[4,8]{1,0:T(8,128)S(1)} parameter(0), metadata={op_name="x (first)"}
  %zero = s32[] constant(7)
  %loop = (s32[], f32[4,8]{1,0}) while(%zero, %x.1), condition=%until, body=%body, \
backend_config={"known_trip_count":{"n":"12"}}
  ROOT %last = f32[4,8]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_instructions_are_read_with_shapes_operands_and_what_they_call():
    program = parse(TEXT)
    assert program.entry == "main.3"
    main = program.computations["main.3"]
    assert list(main) == ["x.1", "zero", "loop", "last"]
    loop = main["loop"]
    assert loop.opcode == "while"
    assert loop.operands == ("zero", "x.1")
    assert loop.called == {"condition": "until", "body": "body"}
    assert loop.trips == 12
    assert loop.size == 4 + 4 * 8 * 4
    assert main["last"].is_root and not loop.is_root
    # A parameter's index and a constant's value are no operands.
    assert (main["x.1"].attributes, main["zero"].attributes) == ("0", "7")
    assert main["x.1"].arrays[0].on_chip
    assert [array.text for array in program.computations["body"]["arg"].arrays] == [
        "s32[]",
        "f32[4,8]",
    ]


def test_sizes_are_in_whole_bytes():
    sizes = [
        array.size for array in arrays_of("(bf16[3,5], u4[3]{0}, token[], pred[])")
    ]
    assert sizes == [30, 2, 1]


def test_a_program_of_this_compiler_is_read():
    x = jnp.ones((4, 4))
    compiled = jax.jit(lambda x: jnp.tanh(x @ x)).lower(x).compile()
    program = parse(compiled.as_text())
    (root,) = [
        item for item in program.computations[program.entry].values() if item.is_root
    ]
    assert root.size == 64


def test_a_text_without_entry_is_refused():
    with pytest.raises(ValueError, match="got none with ENTRY"):
        parse("HloModule nothing")
