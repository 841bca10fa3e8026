"""Fresh branches teach a trained main classifier only after a while, in a run that began with weights."""

import signal
from pathlib import Path

import numpy as np
import pytest

from dks_jax import all_pairs, top_down
from dks_jax.config import AUTO
from dks_jax.models import load_config
from dks_jax.training.branch_warmup import FRESH, OFF, resolve_branch_warmup, teaching_schedule
from dks_jax.weights import load_weights
from support.runs import DIGITS, assert_same_end, records, run, signal_after, user_error
from support.tiny_network import save_tiny

FIELD = "--config.synergy.branch_warmup="


def test_what_branches_teach_upwards_is_held_back_and_then_rises():
    at = teaching_schedule(all_pairs(3), 2, 3, steps_per_epoch=10)
    for step, share in ((0, 0), (19, 0), (20, 0), (23, 0.1), (35, 0.5), (50, 1), (10**6, 1)):
        np.testing.assert_allclose(
            at(step)["teaches"], top_down(3) + share * np.triu(all_pairs(3)), atol=1e-6
        )
    at = teaching_schedule(all_pairs(2), 1.5, 0, steps_per_epoch=10)
    assert [float(at(step)["teaches"][0, 1]) for step in (14, 15)] == [0, 1]
    matrix = np.array([[0, 0.5], [2, 0]])
    np.testing.assert_array_equal(teaching_schedule(matrix, 1, 1, 10)(20)["teaches"], matrix)
    # So long a time that no step is as late.
    assert teaching_schedule(matrix, 10**6, 10**6, 10**6)(2**31 - 1)["teaches"][0, 1] == 0


@pytest.mark.parametrize(("teaches", "warmup"), [(all_pairs(3), (0, 0)), (top_down(3), (2, 3))])
def test_where_nothing_is_held_back_the_step_has_no_schedule(teaches, warmup):
    assert teaching_schedule(teaches, *warmup, steps_per_epoch=10) is None


@pytest.mark.usefixtures("tiny_model")
def test_it_is_on_by_itself_where_branches_start_fresh_beside_weights(tmp_path):
    save_tiny(tmp_path / "whole")
    save_tiny(tmp_path / "backbone", branches=False)

    def warmup(**overrides):
        overrides = {name.replace("__", "."): value for name, value in overrides.items()}
        config = load_config(DIGITS.removeprefix("--config="), overrides)
        given = load_weights(Path(config.init_weights)).metadata.branches if config.init_weights else None
        return resolve_branch_warmup(config, given).synergy.branch_warmup

    backbone = str(tmp_path / "backbone")
    assert warmup() == OFF
    assert warmup(init_weights=backbone) == FRESH
    assert warmup(init_weights=backbone, method="baseline") == OFF
    assert warmup(init_weights=str(tmp_path / "whole")) == OFF
    assert warmup(init_weights=str(tmp_path / "whole"), model__branches="((0,(2,),(8,)),)") == FRESH
    # What is set wins.
    assert warmup(init_weights=backbone, synergy__branch_warmup="(0.5, 1)") == (0.5, 1)


@pytest.mark.parametrize(
    ("value", "named"), [("(2,)", "(2,)"), ("(-1,0)", "at least 0"), ("soon", AUTO), ("3", "tuple")]
)
def test_anything_else_is_refused(value, named, tmp_path, capsys, tiny_model):
    assert run(tmp_path / "run", f"{FIELD}{value}") == 2
    error = user_error(capsys)
    assert "synergy.branch_warmup`" in error
    assert named in error
    assert not (tmp_path / "run").exists()


def loss(record, upward):
    """The sum of the terms, with what branches teach deeper classifiers multiplied."""
    names = ("branch1", "branch2", "main")
    total = sum(record[f"cross_entropy/{name}"] for name in names)
    for t, teacher in enumerate(names):
        total += sum(
            (upward if t < s else 1) * record[f"kl/{teacher}->{student}"]
            for s, student in enumerate(names)
            if t != s
        )
    return total


@pytest.fixture(scope="module")
def warmed(tmp_path_factory, tiny_model):
    """A run of three epochs of two steps whose warm-up ends after the third step."""
    workdir = tmp_path_factory.mktemp("runs") / "warmed"
    assert run(workdir, f"{FIELD}(1,0.5)") == 0
    return workdir


def test_training_counts_the_share_of_its_step_and_evaluation_everything(warmed):
    for record in records(warmed):
        whole = loss(record, 1)
        if record["split"] == "test" or record["epoch"] == 3:
            assert record["loss"] == pytest.approx(whole, rel=1e-5)
        elif record["epoch"] == 1:
            assert record["loss"] == pytest.approx(loss(record, 0), rel=1e-5)
        else:
            # Nothing in its first step and everything in its second.
            assert loss(record, 0) < record["loss"] < whole


def test_a_run_that_was_stopped_in_its_warm_up_ends_as_the_unbroken_one(warmed, tmp_path, monkeypatch):
    every_step = ["--config.checkpoint_every_epochs=1000", "--config.checkpoint_every_minutes=1e-9"]
    with monkeypatch.context() as patch:
        signal_after(patch, "train", 3, signal.SIGTERM)
        run(tmp_path / "run", f"{FIELD}(1,0.5)", *every_step)
    assert not (tmp_path / "run" / "weights").exists()
    assert run(tmp_path / "run", f"{FIELD}(1,0.5)") == 0
    assert_same_end(tmp_path / "run", warmed)


def test_fresh_branches_of_a_run_are_held_back_and_it_says_so(tmp_path, tiny_model, capsys):
    save_tiny(tmp_path / "backbone", branches=False)
    weights = f"--config.init_weights={tmp_path / 'backbone'}"
    assert run(tmp_path / "run", weights, "--config.epochs=1") == 0
    assert "after 4 epochs" in capsys.readouterr().out
    (first, *_) = records(tmp_path / "run")
    assert first["loss"] == pytest.approx(loss(first, 0), rel=1e-5)
