"""The compiled steps: loops, donation, divergence, precision, devices."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dks_jax import all_pairs, objective, optim
from dks_jax.data.feed import Epochs
from dks_jax.data.images import Split
from dks_jax.data.preparation import Preparation
from dks_jax.data.resident import EvaluationFeed, TrainingFeed
from dks_jax.steps import Devices, Forward, Steps
from tiny_network import tiny_network

NUM_CLASSES = 4


def images(num=26, size=8, seed=0):
    random = np.random.default_rng(seed)
    return Split(
        random.integers(0, 256, (num, size, size, 3), np.uint8),
        random.integers(0, NUM_CLASSES, num).astype(np.int32),
    )


def setting(devices, *, dtype=jnp.float32, learning_rate=0.05, norm_groups=1, drop_last=False):
    """(steps, initial state, training feed, evaluation feed) of a small run with crops, flips and dropout."""
    network = tiny_network(NUM_CLASSES, norm_groups)
    loss = partial(objective, teaches=all_pairs(3), epsilon=1e-8)
    optimizer = optim.sgd(lambda step: learning_rate, weight_decay=5e-4)
    preparation = Preparation((0.5,) * 3, (0.25,) * 3, padding=2, flip=True, dtype=dtype)
    steps = Steps(network, loss, optimizer, seed=3, devices=devices)
    state = steps.initial_state()
    if dtype == jnp.float64:
        state = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, state)
    train = TrainingFeed(images(), preparation, Epochs(26, 8, drop_last, 3), devices)
    test = EvaluationFeed(images(seed=1), preparation, batch_size=8, devices=devices)
    return steps, state, train, test


def run_epoch(steps, state, feed, epoch=0):
    histories = []
    for chunk in feed.chunks(epoch):
        state, history = steps.train(state, feed, chunk)
        histories.append(history)
    return state, {name: np.concatenate([h[name] for h in histories]) for name in histories[0]}


def numbers(state):
    return {"/".join(map(str, path)): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}


def cut(feed, *lengths):
    """The first batches of an epoch in chunks of the given lengths."""
    arrays = next(iter(feed.chunks(0)))
    first = 0
    for length in lengths:
        yield arrays._replace(first=first, num_batches=length)
        first += length


# With the last batch, a smaller one, both are compiled for two sizes.
@pytest.mark.parametrize(("drop_last", "steps"), [(True, 3), pytest.param(False, 4, marks=pytest.mark.slow)])
def test_a_loop_of_steps_equals_single_calls(drop_last, steps):
    def train(batches_per_call):
        devices = Devices(batches_per_call=batches_per_call)
        return run_epoch(*setting(devices, dtype=jnp.float64, drop_last=drop_last)[:3])

    with jax.enable_x64(True):
        looped, history = train(batches_per_call=8)
        single, expected = train(batches_per_call=1)
    assert int(looped.step) == steps
    for name, value in numbers(single).items():
        np.testing.assert_allclose(numbers(looped)[name], value, rtol=1e-9, atol=1e-11)
    for name, value in expected.items():
        np.testing.assert_allclose(history[name], value, rtol=1e-9, atol=1e-11)


def test_how_an_epoch_is_cut_into_chunks_changes_no_bit():
    results = []
    for lengths in [(3,), (1, 2), (2, 1)]:
        steps, state, feed, _ = setting(Devices(batches_per_call=8))
        for chunk in cut(feed, *lengths):
            state, _ = steps.train(state, feed, chunk)
        results.append(numbers(state))
    for other in results[1:]:
        for name, value in results[0].items():
            np.testing.assert_array_equal(other[name], value)


@pytest.fixture(scope="module")
def single():
    return setting(Devices(batches_per_call=1))


def test_history_names_every_measurement(single):
    steps, _, feed, _ = single
    state = steps.initial_state()
    _, history = run_epoch(steps, state, feed)
    assert history["examples"].tolist() == [8, 8, 8, 2]
    names = ("branch1", "branch2", "main")
    terms = [f"cross_entropy/{name}" for name in names]
    terms += [f"kl/{t}->{s}" for t in names for s in names if t != s]
    assert set(history) == {"examples", "loss", *terms, *(f"errors/{name}" for name in names)}
    np.testing.assert_allclose(history["loss"], sum(history[term] for term in terms), rtol=1e-5)


def test_the_state_is_donated(single):
    steps, _, feed, _ = single
    state = steps.initial_state()
    run_epoch(steps, state, feed)
    assert state.params["stem.kernel"].is_deleted()


def test_a_second_run_of_the_same_seed_is_bit_identical(single):
    steps, _, feed, _ = single
    first, second = (numbers(run_epoch(steps, steps.initial_state(), feed)[0]) for _ in range(2))
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value)


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_compiler_is_asked_for_deterministic_operations(deterministic, tmp_path):
    steps, state, _, feed = setting(Devices(batches_per_call=1, deterministic=deterministic))
    (chunk, *_) = feed.chunks(0)
    arguments = (state.params, state.batch_stats, chunk.arrays, chunk.first, chunk.num_batches)
    lowered = steps._evaluate.lower(*arguments, feed=feed, batch_size=8)
    # XLA itself writes down what it was asked for.
    lowered.compile({"xla_dump_to": str(tmp_path), "xla_dump_hlo_as_text": True})
    (options,) = tmp_path.glob("*debug_options")
    assert ("xla_gpu_deterministic_ops: true" in options.read_text()) == deterministic


def test_evaluation_counts_every_example_once_and_changes_nothing(single):
    steps, _, _, feed = single
    state = steps.initial_state()
    before = numbers(state)
    histories = [steps.evaluate(state, feed, chunk) for chunk in feed.chunks(0)]
    assert [h["examples"][0] for h in histories] == [8, 8, 8, 2]
    network = tiny_network(NUM_CLASSES)
    network.eval()
    pixels = (feed.resident["images"].astype(jnp.float32) / 255 - 0.5) / 0.25
    wrong = np.sum(np.argmax(network(pixels), axis=-1) != feed.resident["labels"], axis=-1)
    for name, expected in zip(("branch1", "branch2", "main"), wrong, strict=True):
        assert sum(h[f"errors/{name}"][0] for h in histories) == expected
    for name, value in before.items():
        np.testing.assert_array_equal(numbers(state)[name], value)


@pytest.mark.parametrize("batches_per_call", [1, 8])
def test_training_stops_at_the_first_loss_that_is_not_finite(batches_per_call):
    steps, state, feed, _ = setting(Devices(batches_per_call), learning_rate=1e20)
    chunk = next(cut(feed, 3 if batches_per_call > 1 else 1))
    state, history = steps.train(state, feed, chunk)
    if batches_per_call == 1:
        assert np.isfinite(history["loss"][-1])
        state, history = steps.train(state, feed, chunk._replace(first=1))
    assert int(state.step) == 2
    assert not np.isfinite(history["loss"][-1])


def test_bfloat16_keeps_parameters_statistics_and_loss_in_float32():
    steps, state, feed, _ = setting(Devices(batches_per_call=1), dtype=jnp.bfloat16)
    wide = setting(Devices(batches_per_call=1))
    state, history = steps.train(state, feed, next(cut(feed, 1)))
    _, expected = wide[0].train(wide[1], wide[2], next(cut(wide[2], 1)))
    arrays = {**state.params, **state.batch_stats}
    assert {str(array.dtype) for array in arrays.values()} == {"float32"}
    assert history["loss"].dtype == np.float32
    # bfloat16 keeps 8 bits; the loss is a sum of nine terms of order one.
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=0.05)


DEVICES_PROGRAM = """
import sys
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp
sys.path.insert(0, sys.argv[1])
from test_steps import numbers, run_epoch, setting
from dks_jax.steps import Devices
steps, state, feed, _ = setting(Devices(), dtype=jnp.float64, norm_groups=int(sys.argv[3]), drop_last=True)
for epoch in range(2):
    state, history = run_epoch(steps, state, feed, epoch)
np.savez(sys.argv[2], devices=jax.device_count(), loss=history["loss"], **numbers(state))
"""


# With groups test_hosts.py compares them too.
@pytest.mark.parametrize("norm_groups", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_four_devices_match_one(tmp_path, norm_groups):
    results = []
    for count in (1, 4):
        flags = f"--xla_force_host_platform_device_count={count}"
        file = tmp_path / f"{count}.npz"
        subprocess.run(
            [sys.executable, "-c", DEVICES_PROGRAM, str(Path(__file__).parent), str(file), str(norm_groups)],
            env=os.environ | {"XLA_FLAGS": flags},
            check=True,
        )
        results.append(dict(np.load(file)))
    one, four = results
    assert (one.pop("devices"), four.pop("devices")) == (1, 4)
    for name, value in one.items():
        largest = np.abs(value).max() if value.size else 0
        np.testing.assert_allclose(four[name], value, rtol=0, atol=1e-10 * max(largest, 1e-30))


def test_the_forward_pass_multiplies_float32_in_full():
    devices = Devices(batches_per_call=1)
    feed = EvaluationFeed(images(4), Preparation((0.5,) * 3, (0.25,) * 3), batch_size=4, devices=devices)
    forward = Forward(tiny_network(NUM_CLASSES), devices)
    (chunk,) = feed.chunks(0)
    lowered = forward._apply.lower(*forward._arrays, chunk.arrays, chunk.first, feed=feed, batch_size=4)
    lines = lowered.as_text().splitlines()
    for operation, count in (("stablehlo.convolution", 4), ("stablehlo.dot_general", 3)):
        found = [line for line in lines if operation in line]
        assert len(found) == count
        for line in found:
            assert line.count("HIGHEST") == 2
