"""What a training step does, read from the program that is compiled for it: nothing runs.

How many operations there are in a step, and how many bytes they read and write; among them changes of layout,
which should be none, and communication between devices. With --gpus for GPUs (H100) that need not be there;
that takes `pip install 'jax[cuda12]'`, and JAX_PLATFORMS=cpu where there is none.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
from jax.experimental import topologies
from jax.stages import Compiled

from benchmarks import our_training
from benchmarks.hlo import parse, step_of
from benchmarks.measuring import require_positive
from benchmarks.train_step import add_sizes, describe, overrides
from dks_jax.errors import InputError, first_line
from dks_jax.steps import Devices
from dks_jax.tables import markdown_table

HELP = "what a step does, by the program compiled for it"
# What XLA wants to know about the GPU.
GPU = Path(__file__).with_name("h100.txtpb")
NOTES = """\
bytes: those of the operands and results of every operation, as if none were left in a cache. Not timed: the
algorithms of the convolutions, which a GPU chooses by trying them, may take further memory and copies.
one device's share of the batch where there are several; communication: bytes of the operands and results."""


class AbsentDevices(Devices):
    """Devices that hold nothing: a program can be compiled for them and not be run."""

    def replicate(self, tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.replicated), tree)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the subcommand."""
    add_sizes(parser)
    parser.add_argument("--bfloat16", action="store_true", help="in bfloat16; default float32")
    parser.add_argument("--gpus", type=int, metavar="N", help="so many H100; default the devices at hand")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Operations and bytes by kind, and the memory of a step.

    Raises:
      InputError: an option is wrong, or JAX cannot compile for GPUs here.
    """
    require_positive(options, ("classes",) if options.gpus is None else ("classes", "gpus"))
    replaced = overrides(options) | {"precision": "bfloat16" if options.bfloat16 else "float32"}
    given = {"config": options.config, "overrides": replaced}
    setting = our_training.load({**given, "classes": options.classes, "classifiers": None, "steps": 1})
    devices = jax.devices() if options.gpus is None else gpus(options.gpus)
    batch_size = setting.config.data.batch_size
    if batch_size % len(devices):
        raise InputError(
            f"`--batch_size` must be a multiple of the devices, {len(devices)}; got {batch_size}."
        )
    compiled = _compile(setting, devices)
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory
    assert text
    return {
        "setting": describe(setting),
        "precision": setting.config.precision,
        "devices": [len(devices), devices[0].device_kind],
        "step": {kind: traffic._asdict() for kind, traffic in step_of(parse(text)).items()},
        "memory_bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
    }


def gpus(count: int) -> Sequence[Any]:
    """GPUs of one host that need not be there.

    Raises:
      InputError: the part of JAX that compiles for them is not installed.
    """
    try:
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=GPU.read_text(), topology=f"1x1x{count}"
        )
    except Exception as error:  # Whatever is missing, JAX has many ways to say so.
        raise InputError(
            "`--gpus` needs the part of JAX that compiles for GPUs: pip install 'jax[cuda12]' "
            f"({first_line(error)})."
        ) from error
    return topology.devices


def _compile(setting: our_training.Setting, devices: Sequence[Any]) -> Compiled:
    # What our convolution goes by; the devices at hand are CPUs where those compiled for are not.
    there = {"default_backend": lambda: devices[0].platform, "device_count": lambda: len(devices)}
    with mock.patch.multiple(jax, **there):
        prepared = our_training.prepare(setting, AbsentDevices(devices=devices))
        return our_training.lower(*prepared).compile()


def show(result: Mapping[str, Any]) -> str:
    """The table of `measure`, and what its rows include."""
    count, name = result["devices"]
    rows = [[kind, str(t["operations"]), f"{1e-9 * t['bytes']:.2f}"] for kind, t in result["step"].items()]
    rows.sort(key=lambda row: -float(row[2]))
    total = [sum(t[key] for t in result["step"].values()) for key in ("operations", "bytes")]
    rows.append(["all", str(total[0]), f"{1e-9 * total[1]:.2f}"])
    table = markdown_table([["a step", "operations", "GB read and written"], *rows])
    return (
        f"\n{result['setting']}, {result['precision']}, for {count} {name}\n\n{table}\n\n"
        f"memory of a device: {result['memory_bytes'] / 2**20:.0f} MiB\n{NOTES}"
    )
