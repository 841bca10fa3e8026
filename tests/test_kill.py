"""SIGKILL at random moments, during saves too: nothing but the work since the last checkpoint is lost."""

import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from comparison import assert_same_bits
from runs import DIGITS, last_checkpoint, records, whole_checkpoints, without_speed

# So many steps an epoch that a checkpoint about every fifth of a second comes within one too.
TRAIN = str(Path(__file__).parent / "tiny_train.py")
RUN = [sys.executable, TRAIN, DIGITS, "--config.epochs=4", "--config.data.batch_size=2"]
RUN += ["--config.data.train_per_class=40", "--config.data.test_per_class=4"]
RUN += ["--config.checkpoint_every_epochs=1", "--config.checkpoint_every_minutes=0.003"]
STEPS_PER_EPOCH = 200


class Kill(NamedTuple):
    """A killed start of a run.

    step: of the last whole checkpoint that it left, 0 without one.
    saving: whether it left a half-written one.
    """

    step: int
    saving: bool


def half_written(workdir):
    return [path for path in (workdir / "checkpoints").glob("*tmp*") if path.is_dir()]


def start(workdir, output):
    with output.open("w") as file:
        return subprocess.Popen([*RUN, f"--workdir={workdir}"], stdout=file, stderr=subprocess.STDOUT)


def wait_until(condition, process, seconds=120.0):
    """Returns once the condition holds or the process has ended."""
    end = time.monotonic() + seconds
    while process.poll() is None and not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.0005)


def kill_once(workdir, output, draw, seconds):
    """Starts the run and kills it at a random moment; None where it ended before.

    seconds: how long a whole run takes.
    """
    left_behind = set(half_written(workdir))
    process = start(workdir, output)
    moment = draw.choice(["any", "training", "saving", "saving"])
    if moment == "any":
        time.sleep(draw.uniform(0, seconds))
    else:
        wait_until(lambda: "epochs of" in output.read_text(), process)
        if moment == "training":
            time.sleep(draw.uniform(0, seconds / 3))
        else:
            for _ in range(draw.randint(1, 4)):
                # A save leaves no trace of its beginning but this.
                wait_until(lambda: set(half_written(workdir)) - left_behind, process)
                left_behind.update(half_written(workdir))
            time.sleep(draw.choice([0, 0, draw.uniform(0, 0.05)]))
    process.kill()
    if process.wait() == 0:
        return None
    assert process.returncode == -9, output.read_text()
    whole = whole_checkpoints(workdir)
    return Kill(whole[-1] if whole else 0, bool(half_written(workdir)))


def resumed_step(text):
    """The step from which a run says that it goes on; 0 where it says nothing of the kind."""
    found = re.search(r"going on after (\d+) of 4 epochs(?: and (\d+) of 200 steps)?", text)
    return STEPS_PER_EPOCH * int(found[1]) + int(found[2] or 0) if found else 0


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The folder of a run, and how long such a run takes where its programs are compiled already."""
    folder = tmp_path_factory.mktemp("kill")
    for name in ("run", "again"):
        begin = time.monotonic()
        process = start(folder / name, folder / "output.txt")
        assert process.wait() == 0, (folder / "output.txt").read_text()
    return folder / "run", time.monotonic() - begin


def kill_and_compare(unbroken, folder, seed):
    """A run killed several times, then left alone to its end; returns its kills."""
    unbroken, seconds = unbroken
    folder.mkdir()
    draw, workdir, output = random.Random(seed), folder / "run", folder / "output.txt"
    kills = []
    for _ in range(draw.randint(2, 4)):
        before = kills[-1].step if kills else 0
        kill = kill_once(workdir, output, draw, seconds)
        if kill is None:
            break
        text = output.read_text()
        if "epochs of" in text and kills:
            assert resumed_step(text) == before, text
        assert kill.step >= before
        kills.append(kill)
    process = start(workdir, output)
    assert process.wait() == 0, output.read_text()
    # Work was not started over: the last start went on from the last whole checkpoint.
    assert resumed_step(output.read_text()) == (kill.step if kill else 4 * STEPS_PER_EPOCH)
    assert_same_bits(last_checkpoint(workdir), last_checkpoint(unbroken))
    lines, expected = ([without_speed(line) for line in records(run)] for run in (workdir, unbroken))
    assert lines == expected
    for weights in ("weights", "best_weights"):
        description = json.loads((workdir / weights / "metadata.json").read_text())
        assert description["model"] == json.loads((unbroken / weights / "metadata.json").read_text())["model"]
    # Nothing half-written is left, and no more than two checkpoints.
    assert not [path for path in workdir.rglob("*") if "partial" in path.name or "tmp" in path.name]
    assert len(whole_checkpoints(workdir)) == 2
    return kills


def test_a_run_killed_several_times_ends_as_the_unbroken_one(unbroken, tmp_path):
    # With this seed twice, each time within a save that is not the first.
    kills = kill_and_compare(unbroken, tmp_path / "killed", seed=54)
    assert len(kills) >= 2


@pytest.mark.slow
def test_twenty_runs_killed_at_random_end_as_the_unbroken_one(unbroken, tmp_path):
    kills = [kill_and_compare(unbroken, tmp_path / str(seed), seed) for seed in range(100, 120)]
    flat = [kill for run in kills for kill in run]
    during_saves = sum(kill.saving for kill in flat)
    middle = sum(kill.step > 0 and kill.step % STEPS_PER_EPOCH > 0 for kill in flat)
    print(f"{len(kills)} runs, {len(flat)} kills, {during_saves} during a save, {middle} resumed mid-epoch")
    assert len(flat) >= 40
    assert during_saves >= 10
    assert middle >= 10
