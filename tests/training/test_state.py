"""The moving average of weights and statistics: its values by hand, and what a run does with it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dks_jax.runtime.devices import Devices
from dks_jax.training.state import Average, AveragedState, TrainState, to_use, update_average, with_average
from dks_jax.weights import load_weights
from support.comparison import as_numpy, assert_same_bits
from support.runs import last_checkpoint, records, run, signal_after, without_speed
from support.tiny_steps import initial_state, numbers, setting

pytestmark = pytest.mark.usefixtures("usual_fusions")

EMA = "--config.ema_decay=0.9"


def test_the_average_follows_quickly_at_first_and_by_the_decay_later(x64):
    average = Average({"w": jnp.zeros(1)}, {"mean": jnp.ones(1), "count": jnp.array([3])})
    new = {"w": jnp.ones(1)}, {"mean": jnp.zeros(1), "count": jnp.array([4])}
    # (step, share that is kept): (1 + step) / (10 + step), but not more than 0.5.
    for step, kept in ((0, 0.1), (1, 2 / 11), (7, 8 / 17), (8, 0.5), (1000, 0.5)):
        after = update_average(average, *new, jnp.int32(step), 0.5)
        np.testing.assert_allclose(after.params["w"], [1 - kept], rtol=1e-12)
        np.testing.assert_allclose(after.batch_stats["mean"], [kept], rtol=1e-12)
        assert after.batch_stats["count"] == jnp.array([4])


def test_an_average_of_what_does_not_change_does_not_change():
    values = {"w": jnp.asarray(np.random.default_rng(0).normal(size=100).astype(np.float32))}
    after = update_average(Average(values, {}), values, {}, jnp.int32(5), 0.9999)
    np.testing.assert_array_equal(after.params["w"], values["w"])


def test_what_is_used_is_the_average_where_there_is_one():
    state = TrainState(jnp.int32(0), {"w": jnp.zeros(1)}, {}, ())
    assert to_use(state) is state
    averaged = with_average(state)
    assert to_use(averaged) is averaged.ema
    # Without averages the tree of a state has no entry for them.
    assert len(jax.tree.leaves(state)) == 2


def test_the_steps_average_every_state_and_evaluate_the_average(x64):
    steps, _ = setting(Devices(batches_per_call=1), dtype=jnp.float64, drop_last=True, ema_decay=0.15)
    state = initial_state(steps, jnp.float64)
    expected = {**as_numpy(state.params), **as_numpy(state.batch_stats)}
    # 1 / 10, then 2 / 11 and 3 / 12, which are above the decay.
    for chunk, kept in zip(steps.train_feed.chunks(0), (0.1, 0.15, 0.15), strict=True):
        state, _ = steps.train(state, chunk)
        arrays = {**as_numpy(state.params), **as_numpy(state.batch_stats)}
        expected = {name: kept * expected[name] + (1 - kept) * array for name, array in arrays.items()}
        for name, array in {**state.ema.params, **state.ema.batch_stats}.items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-12, atol=1e-15)
    plain, _ = setting(Devices(batches_per_call=1), dtype=jnp.float64, drop_last=True)
    as_network = TrainState(state.step, state.ema.params, state.ema.batch_stats, state.opt_state)
    for chunk in steps.test_feed.chunks(0):
        found, due = steps.evaluate(state, chunk), plain.evaluate(as_network, chunk)
        assert {n: v.tolist() for n, v in found.items()} == {n: v.tolist() for n, v in due.items()}


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_only_with_a_decay_the_state_has_averages(ema_decay):
    _, state = setting(Devices(batches_per_call=1), ema_decay=ema_decay)
    assert isinstance(state, AveragedState if ema_decay else TrainState)
    assert any("ema" in name for name in numbers(state)) == bool(ema_decay)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory, tiny_model):
    """The workdir of a run of three epochs with averages."""
    folder = tmp_path_factory.mktemp("runs") / "averaged"
    assert run(folder, EMA) == 0
    return folder


def arrays_of(path):
    weights = load_weights(path)
    return dict(weights.params), dict(weights.batch_stats)


def test_a_run_saves_the_average_as_its_weights_and_the_raw_ones_beside(averaged, unbroken):
    state = last_checkpoint(averaged)
    assert_same_bits(arrays_of(averaged / "weights"), (state["ema"]["params"], state["ema"]["batch_stats"]))
    assert_same_bits(arrays_of(averaged / "raw_weights"), (state["params"], state["batch_stats"]))
    # The average has no influence on training.
    assert_same_bits(arrays_of(averaged / "raw_weights"), arrays_of(unbroken / "weights"))
    lines, expected = ([without_speed(line) for line in records(folder)] for folder in (averaged, unbroken))
    assert [line for line in lines if line["split"] == "train"] == [
        line for line in expected if line["split"] == "train"
    ]
    metadata = json.loads((averaged / "raw_weights" / "metadata.json").read_text())
    assert (metadata["epoch"], metadata.get("test_error")) == (3, None)


def test_without_a_decay_a_run_has_neither_averages_nor_raw_weights(unbroken):
    assert "ema" not in last_checkpoint(unbroken)
    assert not (unbroken / "raw_weights").exists()


STILL = ["--config.optimizer.schedule=step", "--config.optimizer.warmup_epochs=0"]
STILL += ["--config.optimizer.learning_rate=0.0", "--config.epochs=1"]


def start(path, workdir, *more):
    """The weights of a run that starts from a path and changes nothing but statistics."""
    assert run(workdir, f"--config.init_weights={path}", *STILL, *more) == 0
    return dict(load_weights(workdir / "weights").params)


@pytest.mark.slow
def test_a_run_starts_from_the_average_of_another(averaged, tmp_path, monkeypatch):
    average, raw = (arrays_of(averaged / name)[0] for name in ("weights", "raw_weights"))
    assert not np.array_equal(average["stem.kernel"], raw["stem.kernel"])
    assert_same_bits(start(averaged, tmp_path / "finished"), average)
    assert_same_bits(start(averaged / "raw_weights", tmp_path / "raw"), raw)
    with monkeypatch.context() as patch:
        signal_after(patch, "train", 5, 15)
        assert run(tmp_path / "unfinished", EMA) == 143
    state = last_checkpoint(tmp_path / "unfinished")
    assert_same_bits(start(tmp_path / "unfinished", tmp_path / "more"), state["ema"]["params"])


def test_with_the_momentum_it_goes_on_from_the_raw_weights(averaged, tmp_path):
    raw = arrays_of(averaged / "raw_weights")[0]
    more = ["--config.init_optimizer=True", "--config.epochs=4"]
    assert_same_bits(start(averaged, tmp_path / "more", *more), raw)
