"""What a training step does, read from the program that is compiled for it: nothing runs.

The table has the operations of a step, and the bytes of their operands and results, as if none were left in
a cache. Changes of layout should be absent from it; communication is between devices, and one device's share
of the batch is counted. Nothing is timed: the algorithms of the convolutions, which a GPU chooses by trying
them, may take further memory and copies. --gpus is for GPUs (H100) that need not be there, which takes
`pip install 'jax[cuda12]'`, and JAX_PLATFORMS=cpu where there is none.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from benchmarks import ours
from benchmarks.hlo import parse, step_of
from benchmarks.measuring import InputError, add_count, markdown_table

# What XLA wants to know about the GPU.
GPU = Path(__file__).with_name("h100.txtpb")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    ours.add_arguments(parser)
    parser.add_argument("--bfloat16", action="store_true", help="in bfloat16; default float32")
    add_count(parser, "--gpus", None, "number of H100 to compile for; default the devices at hand")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    devices = _gpus(options.gpus) if options.gpus else jax.devices()
    fields = ours.NOT_AUGMENTED | {"precision": "bfloat16" if options.bfloat16 else "float32"}
    compiled = ours.compile_step(ours.load(options.config, ours.given_sizes(options), fields), devices)
    memory: Any = compiled.memory_analysis()
    step = step_of(parse(compiled.as_text() or ""))
    return {
        "devices": [len(devices), devices[0].device_kind],
        "step": {kind: traffic._asdict() for kind, traffic in step.items()},
        "memory_bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
    }


def _gpus(count: int) -> Sequence[Any]:
    """GPUs of one host that need not be there. Raises InputError where JAX cannot compile for them."""
    described = {"target_config": GPU.read_text(), "topology": f"1x1x{count}"}
    try:
        return topologies.get_topology_desc(platform="cuda", **described).devices
    except Exception as error:  # Whatever is missing, JAX has many ways to say so.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"`--gpus` needs the part of JAX that compiles for GPUs: pip install 'jax[cuda12]' ({reason})."
        ) from error


def show(result: dict[str, Any]) -> list[str]:
    traffic = dict(sorted(result["step"].items(), key=lambda item: -item[1]["bytes"]))
    traffic["all"] = {key: sum(own[key] for own in traffic.values()) for key in ("operations", "bytes")}
    rows = [[kind, str(own["operations"]), f"{1e-9 * own['bytes']:.2f}"] for kind, own in traffic.items()]
    devices = f"for {' '.join(map(str, result['devices']))}"
    memory = f"memory of a device: {result['memory_bytes'] / 2**20:.0f} MiB"
    return [devices, markdown_table([["a step", "operations", "GB read and written"], *rows]), memory]
