"""Stopping and going on: the end is that of an unbroken run, bit for bit."""

import json
import os
import shutil
import signal

import pytest

from dks_jax.runtime.signals import SIGNALS
from dks_jax.training.steps import Steps
from dks_jax.weights import load_weights
from support.comparison import assert_same_bits
from support.runs import (
    after_call,
    assert_same_end,
    file_times,
    records,
    run,
    signal_after,
    user_error,
    whole_checkpoints,
)

pytestmark = pytest.mark.usefixtures("default_signals")

# So short a time that every step is saved.
EVERY_STEP = ["--config.checkpoint_every_epochs=1000", "--config.checkpoint_every_minutes=1e-9"]
# (compiled step, its calls until a signal comes, signal, steps that are done then, further arguments).
STOPS = [
    # Within the second epoch.
    ("train", 3, signal.SIGTERM, 3, EVERY_STEP),
    # After the last step of an epoch, before its evaluation.
    ("train", 1, signal.SIGINT, 4, []),
    # Within an evaluation, after no step of its own.
    ("evaluate", 1, signal.SIGINT, 4, []),
    ("train", 1, signal.SIGUSR1, 5, []),
    # Within the last evaluation.
    ("evaluate", 1, signal.SIGUSR2, 6, []),
    ("evaluate", 1, signal.SIGHUP, 6, []),
]


def test_a_run_that_signals_stop_again_and_again_ends_as_the_unbroken_one(
    unbroken, tmp_path, monkeypatch, capsys
):
    workdir = tmp_path / "run"
    for method, calls, number, step, arguments in STOPS:
        with monkeypatch.context() as patch:
            signal_after(patch, method, calls, number)
            assert run(workdir, *arguments) == 128 + number
        error = capsys.readouterr().err
        assert error.startswith(f"stopped after step {step} of 6")
        assert error.count("\n") == 1
        # By the minute checkpoints come within an epoch; with the first signal the third is written.
        assert whole_checkpoints(workdir)[-1] == step
        assert len(whole_checkpoints(workdir)) == 2
        assert not (workdir / "weights").exists()
    assert run(workdir) == 0
    assert_same_end(workdir, unbroken)
    # Now it is finished for good.
    before = (workdir / "metrics.jsonl").read_text()
    assert run(workdir) == 0
    assert (workdir / "metrics.jsonl").read_text() == before


@pytest.mark.usefixtures("tiny_model")
@pytest.mark.parametrize(
    ("numbers", "status"),
    [
        ((signal.SIGINT, signal.SIGINT), 130),
        ((signal.SIGTERM, signal.SIGTERM), 143),
        ((signal.SIGUSR1, signal.SIGTERM), 143),
        ((signal.SIGTERM, signal.SIGHUP), 129),
    ],
)
def test_a_second_signal_stops_at_once(tmp_path, monkeypatch, capsys, numbers, status):
    for number in numbers:
        signal_after(monkeypatch, "train", 1, number)
    assert run(tmp_path / "run") == status
    assert capsys.readouterr().err.startswith("stopped at once")
    assert whole_checkpoints(tmp_path / "run") == []


def test_a_signal_before_the_first_step_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Steps, "__init__", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    assert run(tmp_path / "run") == 143
    assert capsys.readouterr().err.startswith("stopped before the first step")
    assert not (tmp_path / "run").exists()


def test_signal_handlers_are_given_back(tmp_path):
    before = [signal.getsignal(number) for number in SIGNALS]
    assert run(tmp_path / "run", "--config.epochs=0") == 2
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_run_under_nohup_outlives_its_terminal(unbroken, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        signal_after(monkeypatch, "train", 2, signal.SIGHUP)
        assert run(tmp_path / "run") == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert_same_end(tmp_path / "run", unbroken)


def test_epochs_after_the_last_whole_checkpoint_are_repeated_in_the_log(
    unbroken, tmp_path, monkeypatch, capsys
):
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        signal_after(patch, "train", 5, signal.SIGTERM)
        assert run(workdir, "--config.checkpoint_keep=3") == 143
    assert whole_checkpoints(workdir) == [2, 4, 5]
    for step in ("4", "5"):
        (workdir / "checkpoints" / step / "manifest.ocdbt").write_bytes(b"")
    (workdir / "checkpoints" / "99.orbax-checkpoint-tmp").mkdir()
    # The second epoch is logged, which is trained again.
    assert len(records(workdir)) == 4
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "cut sh')
    assert run(workdir) == 0
    assert "manifest.ocdbt" in capsys.readouterr().out
    assert_same_end(workdir, unbroken)
    assert not list((workdir / "checkpoints").glob("99*"))


@pytest.mark.parametrize("line", ["\0\0\0", "{}", "[1]", '{"epoch": "one"}', None])
def test_a_damaged_log_or_no_whole_checkpoint_is_named_and_nothing_is_lost(unbroken, tmp_path, capsys, line):
    shutil.copytree(unbroken, tmp_path / "copy")
    named = tmp_path / "copy" / ("metrics.jsonl" if line else "checkpoints")
    if line:
        named.write_text(f"{line}\n" + named.read_text())
    else:
        for seal in named.glob("*/complete.json"):
            seal.unlink()
    before = file_times(tmp_path)
    assert run(tmp_path / "copy") == 2
    assert str(named) in user_error(capsys)
    after = file_times(tmp_path)
    assert {path: after[path] for path in before} == before


def test_best_weights_are_those_of_the_best_epoch(unbroken):
    tests = [line for line in records(unbroken) if line["split"] == "test"]
    best = min(tests, key=lambda line: line["error"])
    for name, line in (("best_weights", best), ("weights", tests[-1])):
        metadata = json.loads((unbroken / name / "metadata.json").read_text())
        assert (metadata["epoch"], metadata["test_error"]) == (line["epoch"], line["error"])


def test_a_second_program_in_the_same_workdir_is_refused(unbroken, tmp_path, monkeypatch, capsys):
    statuses = []
    after_call(monkeypatch, "evaluate", 1, lambda: statuses.append(run(tmp_path / "run")))
    assert run(tmp_path / "run") == 0
    assert statuses == [2]
    assert str(tmp_path / "run") in user_error(capsys)
    assert_same_end(tmp_path / "run", unbroken)


# With each of them all else that acts in training.
EVERYTHING = ["--config.ema_decay=0.9", "--config.model.drop_path=0.3", "--config.model.head_dropout=0.2"]
EVERYTHING += ["--config.optimizer.layer_decay=0.8", "--config.optimizer.clip_norm=1.0"]
EVERYTHING += ["--config.optimizer.schedule=one_cycle", "--config.optimizer.warmup_epochs=0"]
EVERYTHING += ["--config.optimizer.learning_rate=0.01"]


@pytest.mark.usefixtures("tiny_model")
@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(["sgd", "nesterov=True"], marks=pytest.mark.slow),
        pytest.param(["adamw"], marks=pytest.mark.slow),
        ["lamb"],
    ],
    ids=lambda own: own[0],
)
def test_with_every_optimizer_averages_and_regularisers_a_stopped_run_ends_as_the_unbroken_one(
    optimizer, tmp_path, monkeypatch
):
    name, *own = optimizer
    arguments = [*EVERYTHING, f"--config.optimizer.name={name}", *(f"--config.optimizer.{f}" for f in own)]
    assert run(tmp_path / "unbroken", *arguments) == 0
    for method, calls, more in (("train", 3, EVERY_STEP), ("evaluate", 1, [])):
        with monkeypatch.context() as patch:
            signal_after(patch, method, calls, signal.SIGTERM)
            assert run(tmp_path / "run", *arguments, *more) == 143
    assert run(tmp_path / "run", *arguments) == 0
    assert_same_end(tmp_path / "run", tmp_path / "unbroken")
    for folder in ("weights", "best_weights", "raw_weights"):
        one, other = (load_weights(tmp_path / name / folder) for name in ("run", "unbroken"))
        assert_same_bits(dict(one.params), dict(other.params))
        assert_same_bits(dict(one.batch_stats), dict(other.batch_stats))
