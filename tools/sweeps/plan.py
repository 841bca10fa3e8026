"""The runs of a sweep: every combination of method, seed and values of fields, in workdirs of their own."""

import itertools
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from summary.reading import read_run

from dks_jax import models
from dks_jax.config import Config, find_config
from dks_jax.runtime.errors import InputError
from dks_jax.training import workdir

# Fields that have a flag of their own.
FLAGS = {"method": "--methods", "seed": "--seeds"}


class PlannedRun(NamedTuple):
    """A run of a sweep.

    folder: its workdir.
    arguments: command line of dks_jax.train.
    config: what they say.
    """

    folder: Path
    arguments: tuple[str, ...]
    config: Config

    @property
    def is_finished(self) -> bool:
        """Whether its workdir holds as many epochs as the config wants, and the final weights."""
        try:
            return len(read_run(self.folder).test) == self.config.epochs
        except InputError:
            return False


def plan(
    file: str,
    *,
    methods: Sequence[str],
    seeds: Sequence[int],
    varied: Sequence[tuple[str, Sequence[str]]],
    fixed: Mapping[str, str],
    output: Path,
) -> list[PlannedRun]:
    """The runs of a sweep, all methods of a seed before the next seed.

    Args:
      file: config file.
      methods, seeds: what is combined with each other and with the values of `varied`.
      varied: fields of the config by dotted name, with their values as typed on a command line.
      fixed: values of fields for all runs.
      output: folder of the workdirs.

    Raises:
      InputError: the config of a run is wrong, a field is given twice, or a workdir belongs to another run.
    """
    if find_config(file)[1]:
        raise InputError(
            f"`--config` must be given without a method, since --methods has the methods; got {file}."
        )
    given = [*(name for name, _ in varied), *fixed]
    for name in given:
        if name in FLAGS:
            raise InputError(f"`{name}` must be given by {FLAGS[name]}, not by --set or --config.{name}.")
        if given.count(name) > 1:
            raise InputError(f"`{name}` must be given once; --set and --config.{name} give it again.")
    combinations = list(itertools.product(*(dict.fromkeys(values) for _, values in varied)))
    runs = []
    for seed, values, method in itertools.product(seeds, combinations, methods):
        own = dict(zip((name for name, _ in varied), values, strict=True))
        fields = {"seed": str(seed), **fixed, **own}
        folder = output / run_name(method, seed, own)
        config = models.load_config(f"{file}:{method}", fields)
        workdir.check(folder, workdir.adopt(folder, config))
        overrides = (f"--config.{name}={value}" for name, value in fields.items())
        runs.append(
            PlannedRun(folder, (f"--config={file}:{method}", f"--workdir={folder}", *overrides), config)
        )
    return runs


def run_name(method: str, seed: int, values: Mapping[str, str]) -> str:
    """The name of a workdir, e.g. "dks-seed3-label_smoothing0.1".

    A field goes by the last part of its name, unless another one has the same. A value of other characters
    than letters, digits, "_", "." and "+", or a long one, is shortened and gets a checksum.
    """
    last = [name.rpartition(".")[2] for name in values]
    short = {n: own if last.count(own) == 1 else n for n, own in zip(values, last, strict=True)}
    parts = [f"{short[name]}{_safe(value)}" for name, value in values.items()]
    return "-".join([method, f"seed{seed}", *parts])


def _safe(value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_.+-]{1,40}", value):
        return value
    readable = re.sub(r"[^A-Za-z0-9_.+-]+", "_", value)[:40].strip("_")
    return f"{readable}-{zlib.crc32(value.encode()):08x}"
