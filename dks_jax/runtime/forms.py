"""The choice between the forms of an operation for CPUs, GPUs and TPUs."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import jax
from jax import lax

from dks_jax.runtime.errors import InputError

T = TypeVar("T")
FORMS = ("cpu", "accelerator", "tpu")
# JAX includes this value in the keys of its caches, so that each form has its own trace of a function.
_fixed_form = jax.make_user_context(default_value="")


def forms(form: str) -> AbstractContextManager[None]:
    """A context manager that fixes the form of all operations in the programs traced within it.

    Args:
      form: "cpu"; "tpu"; or "accelerator" for GPUs and all others.

    Raises:
      InputError: the form is unknown.
    """
    if form not in FORMS:
        raise InputError(f"`form` must be one of {', '.join(FORMS)}; got {form!r}.")
    return _fixed_form(form)


def by_platform(
    *arguments: Any, cpu: Callable[..., T], accelerator: Callable[..., T], tpu: Callable[..., T] | None = None
) -> T:
    """Calls one of several functions that compute the same up to rounding in forms that suit the platforms.

    A TPU has the form of the other accelerators unless it has one of its own.

    Unless `forms` fixes the form, it follows the platform that the program is compiled for, which may differ
    from the platform that traces it.
    """
    functions = {"cpu": cpu, "accelerator": accelerator, "tpu": tpu or accelerator}
    if _fixed_form.value:
        return functions[_fixed_form.value](*arguments)
    return lax.platform_dependent(*arguments, cpu=cpu, tpu=functions["tpu"], default=accelerator)
