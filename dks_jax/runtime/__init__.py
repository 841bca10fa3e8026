"""Runtime: devices, processes, signals, files, and the one exception that a user's input can raise."""

from dks_jax.runtime.devices import Devices
from dks_jax.runtime.errors import InputError

__all__ = ["Devices", "InputError"]
