"""The switch for forward-mode derivatives of layers in training mode."""

from contextlib import AbstractContextManager

import jax

# JAX includes this value in the keys of its caches, so that each setting has its own trace of a function.
_switched_on = jax.make_user_context(default_value=False)


def forward_mode() -> AbstractContextManager[None]:
    """A context manager within which all layers have forward-mode derivatives (`jax.jvp`, `jax.jacfwd`).

    In evaluation mode they have them anyway. In training mode convolutions on a CPU and batch normalisation
    otherwise define their own reverse-mode derivatives, which are faster and exclude forward mode. Within
    the context they leave both modes to JAX; the results agree up to rounding.
    """
    return _switched_on(True)


def is_forward_mode() -> bool:
    """Whether the program is traced within `forward_mode`."""
    return _switched_on.value
