"""What training, evaluation and prediction do, read from the programs compiled for them: nothing runs.

For each program: the operations of a step by kind, the bytes of their operands and results, as if none were
left in a cache, and for TPUs the cycles that the compiler estimates, except for gathers, communication and
copies; the largest operations; the memory of a device. Communication is between devices, and one device's
share of the batch is counted. Nothing is timed but the compiler: the algorithms of the convolutions, which a
GPU chooses by trying them, may take further memory and copies.

The devices need not be there. --gpus N is for H100s and takes `pip install 'jax[cuda12]'`; --tpus takes a
topology, e.g. v5e:1x1 or v5p:2x2x2, and the libtpu of this JAX, e.g. `pip install libtpu==0.0.42.1` for
0.10.2. Both take JAX_PLATFORMS=cpu where there is no accelerator. --form shows what the operations would do
there in the form for other devices.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from benchmarks import ours
from benchmarks.hlo import operations_of, parse, step_of
from benchmarks.measuring import InputError, add_count, markdown_table
from dks_jax.runtime.forms import FORMS

# What XLA wants to know about the GPU.
GPU = Path(__file__).with_name("h100.txtpb")
# A topology of one chip has to be told that its host has no more.
ONE_CHIP = {"chips_per_host_bounds": [1, 1, 1]}
# By the makers, GB of memory of a device.
MEMORY = {"H100": 80, "TPU v4": 32, "TPU v5 lite": 16, "TPU v5": 95, "TPU v6 lite": 32}
LARGEST = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    ours.add_arguments(parser)
    parser.add_argument("--bfloat16", action="store_true", help="in bfloat16; default float32")
    add_count(parser, "--gpus", None, "number of H100 to compile for; default the devices at hand")
    parser.add_argument("--tpus", metavar="TOPOLOGY", help="TPUs to compile for, e.g. v5e:2x4")
    parser.add_argument(
        "--program", choices=ours.PROGRAMS, action="append", help="one of the programs; default all"
    )
    parser.add_argument("--form", choices=FORMS, help="of the operations; default the one for the devices")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    devices = find_devices(options.gpus, options.tpus)
    fields = {"precision": "bfloat16" if options.bfloat16 else "float32"} | options.fields
    setting = ours.load(options.config, ours.given_sizes(options), fields)
    names = options.program or ours.PROGRAMS
    programs = {name: _read(setting, devices, name, options.form) for name in names}
    return {"devices": [len(devices), devices[0].device_kind], "programs": programs}


def _read(setting: ours.Setting, devices: Sequence[Any], name: str, form: str | None) -> dict[str, Any]:
    lowered = ours.lower(setting, devices, name, form)
    begin = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - begin
    memory: Any = compiled.memory_analysis()
    program = parse(compiled.as_text() or "")
    largest = sorted(operations_of(program), key=lambda own: (own[2].cycles, own[2].bytes), reverse=True)
    return {
        "step": {kind: traffic._asdict() for kind, traffic in step_of(program).items()},
        "largest": [[name, kind, traffic._asdict()] for name, kind, traffic in largest[:LARGEST]],
        "memory_bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        "seconds_to_compile": seconds,
    }


def find_devices(gpus: int | None, tpus: str | None) -> Sequence[Any]:
    """So many GPUs, or a topology of TPUs, which need not be there; else the devices at hand.

    Raises:
      InputError: both are given, or JAX cannot compile for them.
    """
    if gpus and tpus:
        raise InputError(f"`--tpus` must not stand beside `--gpus`; got {tpus}.")
    if gpus:
        needs = "`--gpus` needs the part of JAX that compiles for GPUs: pip install 'jax[cuda12]'"
        topology = f"1x1x{gpus}"
        return _topology(needs, platform="cuda", target_config=GPU.read_text(), topology=topology)
    if tpus:
        # Neither asks the metadata server of a cloud, nor locks the TPU of this machine.
        os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
        needs = "`--tpus` needs a topology, e.g. v5e:2x4, and the libtpu of this JAX: pip install libtpu"
        one = ONE_CHIP if tpus.endswith(":1x1") else {}
        return _topology(needs, platform="tpu", topology_name=tpus, **one)
    return jax.devices()


def _topology(needs: str, **description: Any) -> Sequence[Any]:
    try:
        return topologies.get_topology_desc(**description).devices
    except Exception as error:  # Whatever is missing, JAX has many ways to say so.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{needs} ({reason}).") from error


def show(result: dict[str, Any]) -> list[str]:
    lines = [f"for {' '.join(map(str, result['devices']))}"]
    for name, program in result["programs"].items():
        traffic = dict(sorted(program["step"].items(), key=lambda item: -item[1]["bytes"]))
        keys = ("operations", "bytes", "cycles")
        traffic["all"] = {key: sum(own[key] for own in traffic.values()) for key in keys}
        by_kind = [[kind, str(own["operations"]), *_sizes(own)] for kind, own in traffic.items()]
        largest = [[own, kind, *_sizes(traffic)] for own, kind, traffic in program["largest"]]
        sizes = ["GB read and written", "million cycles"]
        lines += [markdown_table([[f"a step of {name}", "operations", *sizes], *by_kind])]
        lines += [markdown_table([["largest", "kind", *sizes], *largest])]
        room = next((f" of {gb} GB" for kind, gb in MEMORY.items() if kind in result["devices"][1]), "")
        memory = f"memory of a device: {1e-9 * program['memory_bytes']:.2f} GB{room}"
        lines += [f"{memory}; compiled in {program['seconds_to_compile']:.0f} s"]
    return lines


def _sizes(traffic: dict[str, int]) -> list[str]:
    cycles = f"{1e-6 * traffic['cycles']:.2f}" if traffic["cycles"] else "-"
    return [f"{1e-9 * traffic['bytes']:.2f}", cycles]
