"""A run starts from the last checkpoint of another, with its branches, its momentum and its epochs."""

import shutil
import signal

import numpy as np
import pytest

from dks_jax.weights import load_weights
from dks_jax.weights.folder import METADATA
from dks_jax.weights.run_checkpoint import SEAL
from support.comparison import assert_same_bits
from support.runs import last_checkpoint, records, run, signal_after, user_error, whole_checkpoints

pytestmark = pytest.mark.usefixtures("tiny_model")
# The rate does not depend on the number of epochs.
CONSTANT = ["--config.optimizer.schedule=step", "--config.optimizer.warmup_epochs=0.0"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_model):
    """The workdir of a run of two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run(folder, "--config.epochs=2", *CONSTANT) == 0
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, tiny_model):
    """The workdir of a run that was stopped after the first of two steps of its third epoch."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        signal_after(patch, "train", 5, signal.SIGTERM)
        run(folder, *CONSTANT)
    assert whole_checkpoints(folder) == [4, 5]
    return folder


@pytest.fixture
def unfinished(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "unfinished")


def start_from(path, workdir, *more):
    return run(workdir, f"--config.init_weights={path}", *CONSTANT, *more)


def test_a_run_goes_on_as_if_it_had_never_ended(finished, tmp_path):
    assert run(tmp_path / "unbroken", *CONSTANT) == 0
    assert start_from(finished, tmp_path / "more", "--config.init_optimizer=True") == 0
    assert_same_bits(last_checkpoint(tmp_path / "more"), last_checkpoint(tmp_path / "unbroken"))
    assert [line["epoch"] for line in records(tmp_path / "more")] == [3, 3]


def test_an_unfinished_run_is_started_from_with_its_branches(unfinished, tmp_path, capsys):
    place, flag = unfinished / "checkpoints", "--config.optimizer.learning_rate=1e-12"
    assert start_from(place, tmp_path / "more", flag) == 0
    out = capsys.readouterr().out
    assert str(place) in out
    assert "initial values" not in out
    before = last_checkpoint(unfinished)["params"]
    assert any(name.startswith("branches.") for name in before)
    for name, value in load_weights(tmp_path / "more").params.items():
        np.testing.assert_allclose(value, before[name], atol=1e-6)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(unfinished, tmp_path, capsys):
    first, last = (unfinished / "checkpoints" / str(step) for step in whole_checkpoints(unfinished))
    (last / SEAL).write_text("{")
    assert start_from(unfinished, tmp_path / "more", "--config.init_optimizer=True") == 0
    assert str(first) in capsys.readouterr().out
    assert records(tmp_path / "more")[0]["epoch"] == 3
    next(path for path in first.rglob("*") if path.parent.name == "d").write_bytes(b"")
    assert start_from(unfinished, tmp_path / "other") == 2
    assert "checkpoints" in user_error(capsys)
    assert not (tmp_path / "other").exists()


def test_a_run_without_a_complete_epoch_is_refused(tmp_path, capsys, monkeypatch):
    signal_after(monkeypatch, "train", 1, signal.SIGTERM)
    run(tmp_path / "first")
    assert whole_checkpoints(tmp_path / "first") == [1]
    monkeypatch.undo()
    capsys.readouterr()
    assert not (tmp_path / "first" / "best_weights" / METADATA).exists()
    assert start_from(tmp_path / "first", tmp_path / "more") == 2
    assert "epoch" in user_error(capsys)


def test_weights_of_a_finished_run_have_no_momentum(finished, tmp_path, capsys):
    assert start_from(finished / "weights", tmp_path / "more", "--config.init_optimizer=True") == 2
    assert "`init_optimizer`" in user_error(capsys)
