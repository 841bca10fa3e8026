"""How much arithmetic a network does."""

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def count_macs(function: Callable[..., Any], *arguments: Any) -> int:
    """Multiply-accumulate operations of the convolutions and matrix products of `function(*arguments)`.

    Other operations are left out, as is usual. The function is traced, not run: of the branches of a
    condition the costliest counts, of a loop without a known length one turn.

    Args:
      arguments: arrays, or jax.ShapeDtypeStruct in their place.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr.eqns)


def _count(equations: Iterable[JaxprEqn]) -> int:
    return sum(_count_one(equation) for equation in equations)


def _count_one(equation: JaxprEqn) -> int:
    # Shaped values all of them, which their declared type does not tell.
    inputs: list[Any] = [variable.aval for variable in equation.invars]
    outputs = sum(cast(Any, variable.aval).size for variable in equation.outvars)
    if equation.primitive.name == "conv_general_dilated":
        kernel = inputs[1]
        out_channels = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
        return outputs * kernel.size // out_channels
    if equation.params.get("name") == "winograd":
        # What the convolution stands for, not the fewer multiplications that it is computed with.
        kernel = inputs[1]
        return outputs * kernel.size // kernel.shape[3]
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return outputs * math.prod(inputs[0].shape[axis] for axis in contracted)
    if equation.primitive.name == "cond":
        return max(_count(branch.jaxpr.eqns) for branch in equation.params["branches"])
    # Functions within functions: jit, checkpoint, custom derivatives, scan.
    inner = [part for value in equation.params.values() for part in _jaxprs(value)]
    return equation.params.get("length", 1) * sum(_count(jaxpr.eqns) for jaxpr in inner)


def _jaxprs(value: Any) -> list[Jaxpr]:
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    return [value] if isinstance(value, Jaxpr) else []
