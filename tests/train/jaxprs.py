"""What a traced program computes, for tests of what it must not compute."""

from collections.abc import Iterator
from typing import Any

import jax


def equations(jaxpr: Any) -> Iterator[Any]:
    """Yield all equations of a jaxpr, those inside of others included."""
    for equation in jaxpr.eqns:
        yield equation
        # Loops, conditionals and custom gradients hold jaxprs among their parameters.
        for parameter in jax.tree.leaves(equation.params, is_leaf=_is_jaxpr):
            if _is_jaxpr(parameter):
                yield from equations(getattr(parameter, "jaxpr", parameter))


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "jaxpr") or hasattr(value, "eqns")


def output_shapes(equation: Any) -> list[tuple[int, ...]]:
    """Return the shapes of what an equation computes."""
    return [variable.aval.shape for variable in equation.outvars]
