"""What the submodules of a network return while it is called, whatever the network's own code looks like.

Python looks `__call__` up in the class of an object. For the length of a call, each watched module therefore
has a subclass of its own class that notes what it returns. Its attributes, its arrays and its place in the
graph stay as they are, so that paths, splits, gradients and the network itself are those without watching.
Everything happens while Python runs the call, so a compiled program holds nothing of it. (A module put around
the watched one would change the paths of its arrays, and `nnx.capture` changes classes for all networks of
the process.)
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from typing import Any, NamedTuple, cast

import jax.extend
from flax import nnx


class Call(NamedTuple):
    """A call of a watched module, or of the copy of one that a transform such as nnx.scan makes.

    Attributes:
      module: the module or the copy.
      output: what it returned.
      inside: whether it was called within a transform, outside of which its output cannot be used.
    """

    module: nnx.Module
    output: Any
    inside: bool


# What the calls that are under way do with each call of a watched module, the outermost first.
_NOTES: ContextVar[tuple[Callable[[nnx.Module, Any], None], ...]] = ContextVar("_NOTES", default=())


@contextmanager
def record_calls(modules: Iterable[nnx.Module]) -> Iterator[list[Call]]:
    """A context whose value is the list of the calls of `modules` within it, in the order of their ends."""
    classes = [(module, type(module)) for module in {id(module): module for module in modules}.values()]
    trace, calls = _trace(), []

    def note(module: nnx.Module, output: Any) -> None:
        calls.append(Call(module, output, _trace() != trace))

    token = _NOTES.set((*_NOTES.get(), note))
    try:
        for module, own in classes:
            # Past the module's own `__setattr__`, which would take it for a part of its state.
            object.__setattr__(module, "__class__", _watched(own))
        yield calls
    finally:
        for module, own in classes:
            object.__setattr__(module, "__class__", own)
        _NOTES.reset(token)


def find_submodule(network: nnx.Module, name: str) -> Any:
    """The submodule that can be called at a path such as "blocks.7", shared ones by any path, or None."""
    node: Any = network
    for part in name.split("."):
        if isinstance(node, list | tuple):
            node = dict(zip(map(str, range(len(node))), node, strict=True)).get(part)
        else:
            node = (node if isinstance(node, dict) else getattr(node, "__dict__", {})).get(part)
    return node if isinstance(node, nnx.Module) and callable(node) else None


def submodules(network: nnx.Module) -> dict[str, nnx.Module]:
    """All submodules that can be called, by name, a shared one once."""
    found = {".".join(map(str, path)): module for path, module in nnx.iter_modules(network)}
    return {name: module for name, module in found.items() if name and callable(module)}


def _trace() -> Any:
    """What stands for the innermost transform of JAX that is under way."""
    return jax.extend.core.get_opaque_trace_state(convention="nnx")


@cache
def _watched(own: type[Any]) -> type[Any]:
    """The subclass of a class that notes its calls; one for each class, since JAX keeps all of them."""
    if hasattr(own, "_notes_calls"):
        return own

    @wraps(own.__call__)
    def call(self, *args, **kwargs):
        output = super(made, self).__call__(*args, **kwargs)
        for note in _NOTES.get():
            note(self, output)
        return output

    names = {name: getattr(own, name) for name in ("__module__", "__qualname__", "__doc__")}
    content = {**names, "__call__": call, "_notes_calls": True}
    made = cast(Any, type(own))(own.__name__, (own,), content, pytree=own._pytree__is_pytree)
    return made
