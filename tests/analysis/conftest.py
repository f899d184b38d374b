"""What the tests of analyses share."""

import jax
import jax.numpy as jnp
import pytest


@pytest.fixture
def temporary_bytes():
    """Return the temporary memory of a jitted function on arrays of these shapes."""

    def measure(function, shapes):
        arrays = []
        for shape in shapes:
            arrays.append(jax.ShapeDtypeStruct(shape, jnp.float32))
        # Compiled for shapes alone: nothing is allocated.
        compiled = function.lower(*arrays).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    return measure
