"""Training runs as the command line makes them, small ones, and what they leave."""

import json
import os
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

from dks_jax import train
from dks_jax.training.steps import Steps
from support.comparison import assert_same_bits

ROOT = Path(__file__).parent.parent.parent
CONFIGS = ROOT / "configs"
DIGITS = f"--config={CONFIGS / 'digits_wrn.py'}"
# 100 training digits in two batches, of one size, since a step is compiled for each; 20 held-out ones.
SMALL = ["--config.data.train_per_class=10", "--config.data.test_per_class=2", "--config.epochs=3"]
SMALL += ["--config.checkpoint_every_epochs=1", "--config.data.batch_size=50"]

# The environment of a process with four devices.
FOUR_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}


def run(workdir, *arguments):
    return train.main([DIGITS, *SMALL, f"--workdir={workdir}", *arguments])


def train_on(folder, workdir, *arguments):
    fields = ["source=folder", f"root={folder}", "mean=(0.5,0.5,0.5)", "std=(0.25,0.25,0.25)", "batch_size=4"]
    fields = [f"--config.data.{field}" for field in fields]
    return train.main([DIGITS, "--config.epochs=1", f"--workdir={workdir}", *fields, *arguments])


def user_error(capsys, *, alone=False):
    """The one line, and no traceback, in which a program says what is wrong with its input.

    alone: whether it has shown nothing else.
    """
    shown, error = capsys.readouterr()
    assert error.startswith("error: "), error
    assert error.count("\n") == 1, error
    assert not (alone and shown), shown
    return error


def after_call(monkeypatch, method, calls, action):
    """Does something after so many calls of a compiled step, "train" or "evaluate", have been started."""
    method = f"{method}_async"
    whole, count = getattr(Steps, method), 0

    def call(*arguments):
        nonlocal count
        result = whole(*arguments)
        count += 1
        if count == calls:
            action()
        return result

    monkeypatch.setattr(Steps, method, call)


def signal_after(monkeypatch, method, calls, number):
    """Sends a signal to this very process after so many calls of a compiled step have been started."""
    after_call(monkeypatch, method, calls, lambda: os.kill(os.getpid(), number))


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses(workdir):
    """The losses of training, by epoch."""
    return [record["loss"] for record in records(workdir) if record["split"] == "train"]


def assert_falling(values):
    """All are finite, and the last one is below the first."""
    assert np.isfinite(values).all()
    assert values[-1] < values[0]


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


def assert_same_end(workdir, unbroken):
    """Two runs have ended with the same bits and the same log."""
    assert_same_bits(last_checkpoint(workdir), last_checkpoint(unbroken))
    lines, expected = ([without_speed(line) for line in records(run)] for run in (workdir, unbroken))
    assert lines == expected


def file_times(folder):
    """When each file below a folder was last written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
