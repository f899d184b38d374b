"""The values of a GGUF header, one after the other, within bounds.

Whatever a damaged header asks for, no more is read than the file has, and no more than
a model needs is made of it: a count of 2^60 is an error, not a long loop.
"""

from typing import Any

import numpy as np

# The types of values in the format, by number.
STRING, ARRAY = 8, 9
SCALARS = {
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
# Eight times the largest vocabularies, and twenty times the largest headers.
MAX_ITEMS = 2**21
MAX_BYTES = 200_000_000


class Cursor:
    """A place in the bytes of a file, which moves on as values are taken."""

    def __init__(self, data: np.ndarray, start: int):
        # Slices of it are views, which cost less than numpy's.
        numbers: Any = np.asarray(data)
        self.data = memoryview(numbers)
        self.position = start

    def take(self, size: int) -> memoryview:
        """Return the next bytes.

        Raises:
            ValueError: the file has fewer, or the header is larger than any is.
        """
        start = self.position
        end = start + size
        if end > len(self.data):
            raise ValueError(
                f"expected {size} bytes from byte {start} on, the file has "
                f"{len(self.data)}"
            )
        if end > MAX_BYTES:
            raise ValueError(f"expected a header of up to {MAX_BYTES:,} bytes")
        self.position = end
        return self.data[start:end]

    def number(self, size: int) -> int:
        """Return the next unsigned number of `size` bytes."""
        return int.from_bytes(self.take(size), "little")

    def count(self, size: int, largest: int) -> int:
        """Return the next number, of things that are read next.

        Raises:
            ValueError: there are more than any model has.
        """
        count = self.number(size)
        if count > largest:
            raise ValueError(f"expected up to {largest:,} items, got {count:,}")
        return count

    def text(self) -> str:
        """Return the next text: its length, then UTF-8."""
        return str(self.take(self.number(8)), "utf-8")

    def value(self, kind: int) -> Any:
        """Return the next value of a type: a number, a truth, a text, or a list."""
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self._array()
        return self._scalars(kind, 1)[0]

    def _array(self) -> list[Any]:
        kind, count = self.number(4), self.count(8, MAX_ITEMS)
        if kind == ARRAY:
            raise ValueError("expected numbers or texts in an array, got arrays")
        if kind == STRING:
            return [self.text() for _ in range(count)]
        return self._scalars(kind, count)

    def _scalars(self, kind: int, count: int) -> list[Any]:
        if kind not in SCALARS:
            numbers = ", ".join(map(str, [*SCALARS, STRING, ARRAY]))
            raise ValueError(f"expected a type among {numbers}, got {kind}")
        dtype = SCALARS[kind]
        content = self.take(count * dtype.itemsize)
        return np.frombuffer(content, dtype).tolist()
