"""Runtime: devices, processes, signals, files, output, and the exception that a user's input can raise.

Importing it is light, because the commands do so before all else.
"""

from dks_jax.runtime.errors import InputError

__all__ = ["InputError"]
