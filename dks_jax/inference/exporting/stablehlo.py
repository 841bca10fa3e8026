"""Programs of jax.export for CPUs, CUDA GPUs and TPUs, which JAX alone reads and runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import jax
from jax import export

from dks_jax.inference.exporting.classifier import Exported

PLATFORMS = ("cpu", "cuda", "tpu")
# A program names the source of each of its operations; the files of this machine are nobody's business, and
# the size of the program would depend on where they lie.
ANONYMOUS = {
    "jax_hlo_source_file_canonicalization_regex": ".*",
    "jax_include_full_tracebacks_in_locations": False,
}


def write(file: Path, exported: Exported) -> None:
    """Writes exactly the bytes that jax.export serialises."""
    (batch,) = export.symbolic_shape("batch")
    with _anonymous():
        program = export.export(jax.jit(exported.function()), platforms=PLATFORMS)(exported.images(batch))
        serialised = program.serialize()
    file.write_bytes(serialised)


def read(file: Path) -> Callable[..., Any]:
    """The function in a file, compiled for the devices of this machine."""
    return jax.jit(export.deserialize(bytearray(file.read_bytes())).call)


@contextmanager
def _anonymous() -> Iterator[None]:
    # The settings are created at run time, so a type checker does not know them.
    settings = cast(Any, jax.config)
    before = {name: getattr(settings, name) for name in ANONYMOUS}
    try:
        for name, value in ANONYMOUS.items():
            settings.update(name, value)
        yield
    finally:
        for name, value in before.items():
            settings.update(name, value)
