"""Packages that only some uses need, which the extras of pip install."""

from importlib import import_module
from importlib.util import find_spec

from dks_jax.runtime.errors import InputError, first_line, printable


def require_package(package: str, use: str, extra: str) -> None:
    """Raises InputError unless a package can be imported.

    Args:
      package: name of the package.
      use: what needs it, in the plural, e.g. "PyTorch checkpoints".
      extra: the extra of this library that installs it.
    """
    if find_spec(package) is None:
        raise InputError(
            f"{use} need the package {package}, which is not installed; run pip install 'dks-jax[{extra}]'."
        )
    try:
        import_module(package)
    except (ImportError, OSError) as error:
        raise InputError(
            f"{use} need the package {package}, which is installed but cannot be imported "
            f"({printable(first_line(error), 150)}); repair the installation."
        ) from error
