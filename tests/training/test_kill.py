"""SIGKILL at random moments, during saves too: nothing but the work since the last checkpoint is lost.

The other signals cost nothing, and the exit status tells which one it was.
"""

import random
import re
import signal
import subprocess
import sys
import time

import pytest

from dks_jax import train
from support.runs import DIGITS, ROOT, assert_same_end, whole_checkpoints

# Processes inherit from it what makes them quick.
pytestmark = pytest.mark.usefixtures("tiny_model", "default_signals")

PROGRAM = str(ROOT / "tests" / "support" / "tiny_train.py")
EPOCHS, STEPS_PER_EPOCH = 4, 100
# So many steps an epoch that a checkpoint about every sixteenth of a second comes within one too.
RUN = [DIGITS, f"--config.epochs={EPOCHS}", "--config.data.batch_size=2"]
RUN += ["--config.data.train_per_class=20", "--config.data.test_per_class=4"]
RUN += ["--config.checkpoint_every_epochs=1", "--config.checkpoint_every_minutes=0.001"]


def half_written(workdir):
    return {path for path in (workdir / "checkpoints").glob("*tmp*") if path.is_dir()}


def last_step(workdir):
    return max(whole_checkpoints(workdir), default=0)


def start(workdir, output):
    """A process that trains, and a function that waits for a condition or for its end."""
    with output.open("w") as file:
        command = [sys.executable, PROGRAM, *RUN, f"--workdir={workdir}"]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    def wait_until(condition):
        end = time.monotonic() + 120
        while process.poll() is None and not condition():
            assert time.monotonic() < end, "nothing happened"
            time.sleep(0.0005)

    return process, wait_until


def kill_once(workdir, output, moment, draw):
    """Starts the run and kills it at a moment; returns whether it was still running."""
    seen = half_written(workdir)
    process, wait_until = start(workdir, output)
    if moment == "any":
        time.sleep(draw.uniform(0, 8))
    elif moment == "training":
        step = last_step(workdir) + draw.randint(0, 150)
        wait_until(lambda: last_step(workdir) > step)
        time.sleep(draw.uniform(0, 0.1))
    else:
        for _ in range(draw.randint(1, 4)):
            # A save leaves no trace of its beginning but this.
            wait_until(lambda before=frozenset(seen): half_written(workdir) - before)
            seen |= half_written(workdir)
        time.sleep(draw.choice([0, 0, draw.uniform(0, 0.05)]))
    process.kill()
    assert process.wait() in (0, -9), output.read_text()
    return process.returncode == -9


def resumed_step(text):
    """The step from which a run says that it goes on; 0 where it says nothing of the kind."""
    found = re.search(rf"going on after (\d+) of {EPOCHS} epochs(?: and (\d+) of)?", text)
    return STEPS_PER_EPOCH * int(found[1]) + int(found[2] or 0) if found else 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_model):
    """The workdir of a run that nothing has stopped."""
    workdir = tmp_path_factory.mktemp("kill") / "whole"
    assert train.main([*RUN, f"--workdir={workdir}"]) == 0
    return workdir


def kill_and_compare(whole, folder, moments, draw, capsys):
    """A run killed several times, then left alone to its end.

    Returns for each kill the step of the last whole checkpoint, and whether a half-written one was left.
    """
    folder.mkdir()
    workdir, output = folder / "run", folder / "output.txt"
    kills, step = [], 0
    for moment in moments:
        if not kill_once(workdir, output, moment, draw):
            step = EPOCHS * STEPS_PER_EPOCH
            break
        if "epochs of" in output.read_text():
            assert resumed_step(output.read_text()) == step
        assert last_step(workdir) >= step
        step = last_step(workdir)
        kills.append((step, bool(half_written(workdir))))
    capsys.readouterr()
    assert train.main([*RUN, f"--workdir={workdir}"]) == 0
    # Work was not started over: the last start went on from the last whole checkpoint.
    assert resumed_step(capsys.readouterr().out) == step
    assert_same_end(workdir, whole)
    assert {path.name for path in workdir.iterdir()} >= {"weights", "best_weights"}
    # Nothing half-written is left, and one checkpoint.
    assert not [path for path in workdir.rglob("*") if "partial" in path.name or "tmp" in path.name]
    assert len(whole_checkpoints(workdir)) == 1
    return kills


def test_a_run_killed_while_it_trains_and_while_it_saves_ends_as_the_unbroken_one(whole, tmp_path, capsys):
    kills = kill_and_compare(whole, tmp_path / "killed", ["training", "saving"], random.Random(0), capsys)
    assert len(kills) == 2
    assert kills[0][0] > 0


@pytest.mark.slow
def test_a_run_that_every_signal_stops_in_turn_ends_as_the_unbroken_one(whole, tmp_path, capsys):
    workdir, output, step = tmp_path / "run", tmp_path / "output.txt", 0
    for name, status in (("INT", 130), ("TERM", 143), ("USR1", 138), ("USR2", 140), ("HUP", 129)):
        process, wait_until = start(workdir, output)
        wait_until(lambda before=step: last_step(workdir) > before)
        process.send_signal(signal.Signals[f"SIG{name}"])
        assert process.wait(120) == status, output.read_text()
        step = last_step(workdir)
        stopped = output.read_text().splitlines()[-1]
        assert stopped.startswith(f"stopped after step {step} of {EPOCHS * STEPS_PER_EPOCH} and saved")
    assert train.main([*RUN, f"--workdir={workdir}"]) == 0
    assert resumed_step(capsys.readouterr().out) == step
    assert_same_end(workdir, whole)


@pytest.mark.slow
def test_twenty_runs_killed_at_random_end_as_the_unbroken_one(whole, tmp_path, capsys):
    kills = []
    for seed in range(20):
        draw = random.Random(seed)
        moments = [draw.choice(["any", "training", "saving", "saving"]) for _ in range(draw.randint(2, 4))]
        kills += kill_and_compare(whole, tmp_path / str(seed), moments, draw, capsys)
    assert len(kills) >= 40
    assert sum(saving for _, saving in kills) >= 10
    assert sum(step % STEPS_PER_EPOCH > 0 for step, _ in kills) >= 10
