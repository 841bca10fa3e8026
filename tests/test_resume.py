"""Stopping and going on: the end is that of an unbroken run, bit for bit."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from comparison import assert_same_bits
from dks_jax.steps import Steps
from runs import DIGITS, SMALL, last_checkpoint, records, run, without_speed


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, tiny_model):
    """The workdir of a whole run: three epochs of two steps."""
    workdir = tmp_path_factory.mktemp("runs") / "unbroken"
    assert run(workdir) == 0
    return workdir


def assert_same_end(workdir, unbroken):
    assert_same_bits(last_checkpoint(workdir), last_checkpoint(unbroken))
    lines, expected = ([without_speed(line) for line in records(run)] for run in (workdir, unbroken))
    assert lines == expected


def signal_after(monkeypatch, method, calls, number):
    """Sends a signal to this very process after so many calls of a compiled step."""
    whole, count = getattr(Steps, method), 0

    def call(*arguments):
        nonlocal count
        result = whole(*arguments)
        count += 1
        if count == calls:
            os.kill(os.getpid(), number)
        return result

    monkeypatch.setattr(Steps, method, call)


@pytest.mark.parametrize(
    "case",
    [
        ("train", 1, signal.SIGTERM, 1, "0 of 3 epochs and 1 of 2 steps"),
        ("train", 2, signal.SIGINT, 2, "0 of 3 epochs and 2 of 2 steps"),
        ("train", 3, signal.SIGINT, 3, "1 of 3 epochs and 1 of 2 steps"),
        ("evaluate", 2, signal.SIGTERM, 4, "1 of 3 epochs and 2 of 2 steps"),
        ("train", 6, signal.SIGTERM, 6, "2 of 3 epochs and 2 of 2 steps"),
    ],
)
def test_a_run_stopped_by_a_signal_is_saved_and_ends_as_the_unbroken_one(
    unbroken, tmp_path, monkeypatch, capsys, case
):
    method, calls, number, step, position = case
    with monkeypatch.context() as patch:
        signal_after(patch, method, calls, number)
        assert run(tmp_path / "run") == {signal.SIGTERM: 0, signal.SIGINT: 130}[number]
    assert capsys.readouterr().err == (
        f"stopped after step {step} of 6 and saved: the same command goes on from there\n"
    )
    assert not (tmp_path / "run" / "weights").exists()
    assert run(tmp_path / "run") == 0
    assert f"going on after {position}" in capsys.readouterr().out
    assert_same_end(tmp_path / "run", unbroken)


@pytest.mark.usefixtures("tiny_model")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_stops_at_once(tmp_path, monkeypatch, capsys, number, status):
    with monkeypatch.context() as patch:
        signal_after(patch, "train", 1, number)
        signal_after(patch, "train", 1, number)
        assert run(tmp_path / "run") == status
    assert capsys.readouterr().err.startswith(
        "stopped at once: the same command goes on from the last checkpoint"
    )
    assert not list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))


def test_a_signal_before_the_first_step_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Steps, "__init__", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    assert run(tmp_path / "run") == 0
    assert "stopped before the first step" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_signal_handlers_are_given_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert run(tmp_path / "run", "--config.epochs=0") == 2
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_checkpoints_by_the_minute_come_within_an_epoch(unbroken, tmp_path, monkeypatch):
    # So short a time that every step is saved.
    by_minutes = ["--config.checkpoint_every_epochs=1000", "--config.checkpoint_every_minutes=1e-9"]
    signal_after(monkeypatch, "train", 3, signal.SIGTERM)
    assert run(tmp_path / "run", *by_minutes) == 0
    steps = sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert steps == [2, 3]
    assert run(tmp_path / "run", *by_minutes) == 0
    assert_same_end(tmp_path / "run", unbroken)


def test_a_run_stopped_in_its_last_evaluation_is_finished_for_good(unbroken, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        signal_after(patch, "evaluate", 3, signal.SIGTERM)
        assert run(tmp_path / "run") == 0
    assert run(tmp_path / "run") == 0
    assert "going on after 2 of 3 epochs and 2 of 2 steps" in capsys.readouterr().out
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert run(tmp_path / "run") == 0
    assert "going on after 3 of 3 epochs\n" in capsys.readouterr().out
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before
    assert_same_end(tmp_path / "run", unbroken)


@pytest.mark.parametrize("line", ["\0\0\0", "{}", "[1]", '{"epoch": "one"}'])
def test_a_damaged_log_is_one_sentence_and_nothing_is_lost(unbroken, tmp_path, capsys, line):
    shutil.copytree(unbroken, tmp_path / "copy")
    log = tmp_path / "copy" / "metrics.jsonl"
    log.write_text(f"{line}\n" + log.read_text())
    before = log.read_text()
    assert run(tmp_path / "copy") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {log} has a line that is no record of a run")
    assert error.count("\n") == 1
    assert log.read_text() == before


def test_epochs_after_the_last_whole_checkpoint_are_repeated_in_the_log(unbroken, tmp_path, capsys):
    shutil.copytree(unbroken, tmp_path / "copy")
    (tmp_path / "copy" / "checkpoints" / "6" / "manifest.ocdbt").write_bytes(b"")
    (tmp_path / "copy" / "checkpoints" / "99.orbax-checkpoint-tmp").mkdir()
    with (tmp_path / "copy" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "cut sh')
    assert run(tmp_path / "copy") == 0
    output = capsys.readouterr().out
    assert "the checkpoint of step 6 is damaged: manifest.ocdbt has changed since it was written" in output
    assert "going on from step 4" in output
    assert_same_end(tmp_path / "copy", unbroken)
    assert not list((tmp_path / "copy" / "checkpoints").glob("99*"))


def test_all_checkpoints_damaged_is_one_sentence_and_nothing_is_lost(unbroken, tmp_path, capsys):
    shutil.copytree(unbroken, tmp_path / "copy")
    for seal in (tmp_path / "copy" / "checkpoints").glob("*/complete.json"):
        seal.unlink()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    assert run(tmp_path / "copy") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: No checkpoint in ")
    assert error.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_best_weights_are_those_of_the_best_epoch(unbroken):
    tests = [line for line in records(unbroken) if line["split"] == "test"]
    best = min(tests, key=lambda line: line["error"])
    metadata = json.loads((unbroken / "best_weights" / "metadata.json").read_text())
    assert (metadata["epoch"], metadata["test_error"]) == (best["epoch"], best["error"])
    metadata = json.loads((unbroken / "weights" / "metadata.json").read_text())
    assert (metadata["epoch"], metadata["test_error"]) == (3, tests[-1]["error"])


def test_a_second_program_in_the_same_workdir_is_refused(unbroken, tmp_path, monkeypatch, capsys):
    whole, second = Steps.evaluate, []

    def evaluate(*arguments):
        if not second:
            second.append(None)
            command = [sys.executable, "-m", "dks_jax.train", DIGITS, *SMALL, f"--workdir={tmp_path / 'run'}"]
            second[0] = subprocess.run(command, capture_output=True, text=True, check=False)
        return whole(*arguments)

    monkeypatch.setattr(Steps, "evaluate", evaluate)
    assert run(tmp_path / "run") == 0
    assert second[0].returncode == 2
    assert f"Another program trains in {tmp_path / 'run'}" in second[0].stderr
    assert second[0].stderr.count("\n") == 1
    assert_same_end(tmp_path / "run", unbroken)
