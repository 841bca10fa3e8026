"""Counts the multiply-accumulate operations (MACs) of a network."""

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from dks_jax.runtime.forms import forms


def count_macs(function: Callable[..., Any], *arguments: Any) -> int:
    """The multiply-accumulate operations in the convolutions and matrix products of `function(*arguments)`.

    Other operations do not count, as is usual. The function is traced, not run: a conditional counts as its
    most expensive branch, and a loop of unknown length as one iteration.

    Args:
      function: any function that JAX can trace.
      arguments: arrays, or jax.ShapeDtypeStruct in their place.
    """
    # The count is that of the convolution itself; the form for CPUs may need fewer multiplications.
    with forms("accelerator"):
        return _count(jax.make_jaxpr(function)(*arguments).jaxpr.eqns)


def _count(equations: Iterable[JaxprEqn]) -> int:
    return sum(_count_one(equation) for equation in equations)


def _count_one(equation: JaxprEqn) -> int:
    # All of them are shaped values, although their declared type does not say so.
    inputs: list[Any] = [variable.aval for variable in equation.invars]
    outputs = sum(cast(Any, variable.aval).size for variable in equation.outvars)
    if equation.primitive.name == "conv_general_dilated":
        kernel = inputs[1]
        out_channels = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
        return outputs * kernel.size // out_channels
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return outputs * math.prod(inputs[0].shape[axis] for axis in contracted)
    if equation.primitive.name == "cond":
        return max(_count(branch.jaxpr.eqns) for branch in equation.params["branches"])
    # Other primitives may contain functions: jit, checkpoint, custom derivatives, scan.
    inner = [part for value in equation.params.values() for part in _jaxprs(value)]
    return equation.params.get("length", 1) * sum(_count(jaxpr.eqns) for jaxpr in inner)


def _jaxprs(value: Any) -> list[Jaxpr]:
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    return [value] if isinstance(value, Jaxpr) else []
