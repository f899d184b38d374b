"""Two codes of a byte: half a matrix apart in memory, neighbors in files."""

import jax.numpy as jnp
import numpy as np

from lora_jax.quant.packing import (
    halves_to_neighbors,
    neighbors_to_halves,
    pack,
    packed_rows,
    unpack,
)
from tests.quant.numbers import normal, quantize


class TestPack:
    def test_the_first_half_of_the_codes_is_in_the_high_bits(self):
        assert pack(jnp.uint8([1, 2, 15, 0])).tolist() == [0x1F, 0x20]

    def test_an_odd_end_is_filled(self):
        stack = jnp.uint8([[1, 2, 3], [4, 5, 6]])
        assert pack(stack).tolist() == [[0x13, 0x20], [0x46, 0x50]]
        assert pack(jnp.uint8([1, 2, 3]), 7).tolist() == [0x13, 0x27]

    def test_nf4_is_filled_as_by_bitsandbytes(self):
        value = quantize(normal(3, 35), "nf4")
        assert value.codes[-1] & 15 == 7

    def test_unpack_returns_the_codes_in_order(self):
        packed = jnp.uint8([[0x13, 0x20]])
        assert unpack(packed).tolist() == [[1, 2, 3, 0]]

    def test_files_have_neighbors_in_a_byte(self):
        neighbors = np.array([[0x12, 0x37]], np.uint8)
        halves = pack(jnp.uint8([[1, 2, 3]]), 7)
        assert neighbors_to_halves(neighbors).tolist() == halves.tolist()
        assert halves_to_neighbors(halves).tolist() == neighbors.tolist()

    def test_unpacked_by_row(self):
        packed = jnp.uint8([[0x13, 0x20], [0x45, 0x67]])
        expected = [[1, 2], [4, 6], [3, 0], [5, 7]]
        assert unpack(packed, axis=-2).tolist() == expected

    def test_rows_of_an_even_and_of_an_odd_number(self):
        for row_count in (4, 5):
            codes = jnp.arange(3 * row_count, dtype=jnp.uint8)
            by_row = codes.reshape(row_count, 3)
            index = jnp.array([[row_count - 1, 0], [2, 1]])
            rows = packed_rows(pack(codes), (row_count, 3), index)
            assert rows.tolist() == by_row[index].tolist()
