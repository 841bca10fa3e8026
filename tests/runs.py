"""Training runs as the command line makes them, small ones."""

import json
from pathlib import Path

import orbax.checkpoint as ocp

from dks_jax import train

CONFIGS = Path(__file__).parent.parent / "configs"
DIGITS = f"--config={CONFIGS / 'digits_wrn.py'}"
# 100 training digits in two batches, of one size, since a step is compiled for each; 20 held-out ones.
SMALL = ["--config.data.train_per_class=10", "--config.data.test_per_class=2", "--config.epochs=3"]
SMALL += ["--config.checkpoint_every_epochs=1", "--config.data.batch_size=50"]

# The environment of a process with four devices.
FOUR_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}


def run(workdir, *arguments):
    return train.main([DIGITS, *SMALL, f"--workdir={workdir}", *arguments])


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def without_speed(record):
    return {name: value for name, value in record.items() if name != "images_per_second"}


def whole_checkpoints(workdir):
    """The steps of the checkpoints that are complete, rising."""
    names = [path.parent.name for path in workdir.glob("checkpoints/*/complete.json")]
    return sorted(int(name) for name in names if name.isdecimal())


def last_checkpoint(workdir):
    """The newest checkpoint, as Orbax itself reads it."""
    newest = max(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal())
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore((workdir / "checkpoints" / str(newest)).resolve())


def train_on(folder, workdir, *arguments):
    fields = ["source=folder", f"root={folder}", "mean=(0.5,0.5,0.5)", "std=(0.25,0.25,0.25)", "batch_size=4"]
    return train.main(
        [
            DIGITS,
            "--config.epochs=1",
            f"--workdir={workdir}",
            *(f"--config.data.{field}" for field in fields),
            *arguments,
        ]
    )
