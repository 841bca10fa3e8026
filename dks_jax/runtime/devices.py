"""The mesh of devices, which places arrays and knows how programs for the devices are compiled."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dks_jax.runtime.compilation import CPU_OPTIONS, DETERMINISTIC


class Devices:
    """A mesh of devices with one axis, over which a batch is divided.

    Args:
      batches_per_call: largest number of batches for one call of a compiled step; None for 1 on a CPU and
        1024 elsewhere. With a loop inside the program an accelerator does not wait for the host. On a CPU
        there is no loop, because XLA runs the same convolutions 4 to 5 times slower inside one (WRN-16-1 on
        64 digits, 2 cores: 327 ms per step instead of 67 ms).
      deterministic: whether a GPU must compute bitwise reproducible results.
      devices: devices to use; None for all of them.

    Attributes:
      batches_per_call: the number that results from the argument.
      count: number of devices, over all processes.
      on_cpu: whether the devices are CPUs.
      form: form of the operations for these devices; see `runtime.forms`.
      compiler_options: options for XLA's compiler.
      replicated, divided: shardings of an array that is copied to all devices, and of one that is divided
        along its first axis.
    """

    def __init__(
        self,
        batches_per_call: int | None = None,
        *,
        deterministic: bool = False,
        devices: Sequence[Any] | None = None,
    ) -> None:
        devices = jax.devices() if devices is None else devices
        self.count = len(devices)
        self.on_cpu = devices[0].platform == "cpu"
        self.form = devices[0].platform if devices[0].platform in ("cpu", "tpu") else "accelerator"
        self.compiler_options = {
            **(CPU_OPTIONS if self.on_cpu else {}),
            **(DETERMINISTIC if deterministic else {}),
        }
        default = 1 if self.on_cpu else 1024
        self.batches_per_call = default if batches_per_call is None else batches_per_call
        # Auto axes, because sharding constraints do not apply to explicit ones.
        mesh = jax.make_mesh((self.count,), ("batch",), axis_types=(AxisType.Auto,), devices=devices)
        self.replicated = NamedSharding(mesh, PartitionSpec())
        self.divided = NamedSharding(mesh, PartitionSpec("batch"))

    def replicate(self, tree: Any) -> Any:
        """Copies every array of the pytree `tree` to every device."""
        # jax.device_put would first compare the arrays of all processes, which include entire data sets.
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(self.replicated, np.asarray(x)), tree
        )

    def rows(self, batch_size: int) -> np.ndarray:
        """The rows, rising, of a divided batch of `batch_size` that lie on the devices of this process."""
        slices = self.divided.addressable_devices_indices_map((batch_size,)).values()
        return np.unique(np.concatenate([np.arange(batch_size)[index] for index in slices]))

    def divide(self, tree: Any, batch_size: int) -> Any:
        """Divides the arrays of a batch over all devices.

        Args:
          tree: pytree of arrays [row, ...], the `rows` of this process.
          batch_size: number of rows of all processes together.
        """
        rows = self.rows(batch_size)

        def place(own: np.ndarray) -> jax.Array:
            def shard(index: Any) -> np.ndarray:
                wanted = np.arange(batch_size)[index[0]]
                return own[np.searchsorted(rows, wanted)]

            return jax.make_array_from_callback((batch_size, *own.shape[1:]), self.divided, shard)

        return jax.tree.map(place, tree)

    def shard(self, tree: Any) -> Any:
        """Divides the arrays of `tree` over the devices along their first axis, inside a jitted function."""
        return jax.lax.with_sharding_constraint(tree, self.divided)
