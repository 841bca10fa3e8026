"""The compiled steps: loops, donation, divergence, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dks_jax.data.feeds.resident import EvaluationFeed
from dks_jax.data.images import Split
from dks_jax.data.preparation import Preparation
from dks_jax.inference.forward import Forward
from dks_jax.inference.metrics import example_scores, log_softmax, metrics
from dks_jax.nn.functional import set_arrays
from dks_jax.reporting.measurements import EpochMeans
from dks_jax.runtime.devices import Devices
from support.tiny_network import tiny_network
from support.tiny_steps import NUM_CLASSES, images, initial_state, numbers, run_epoch, setting

pytestmark = pytest.mark.usefixtures("quick_compilation")


def cut(feed, *lengths):
    """The first batches of an epoch in chunks of the given lengths."""
    arrays = next(iter(feed.chunks(0)))
    first = 0
    for length in lengths:
        yield arrays._replace(first=first, num_batches=length)
        first += length


def assert_same_bits(one, other):
    for name, value in numbers(one).items():
        np.testing.assert_array_equal(numbers(other)[name], value)


@pytest.fixture(scope="module")
def single():
    """(steps, state), with a program for a step."""
    with jax.enable_x64(True):
        return setting(Devices(batches_per_call=1), dtype=jnp.float64, drop_last=True)


@pytest.fixture(scope="module")
def looped():
    """The same with a program for up to eight steps."""
    with jax.enable_x64(True):
        return setting(Devices(batches_per_call=8), dtype=jnp.float64, drop_last=True)


def assert_loop_equals_single_calls(looped, single):
    (state, history), (expected_state, expected) = (
        run_epoch(steps, initial_state(steps, jnp.float64)) for steps, _ in (looped, single)
    )
    assert int(state.step) == len(expected["loss"])
    for name, value in numbers(expected_state).items():
        np.testing.assert_allclose(numbers(state)[name], value, rtol=1e-9, atol=1e-11)
    for name, value in expected.items():
        np.testing.assert_allclose(history[name], value, rtol=1e-9, atol=1e-11)


def test_a_loop_of_steps_equals_single_calls(x64, looped, single):
    assert_loop_equals_single_calls(looped, single)


@pytest.mark.slow
def test_with_a_smaller_last_batch_it_does_so_too(x64):
    assert_loop_equals_single_calls(*(setting(Devices(calls), dtype=jnp.float64) for calls in (8, 1)))


def test_how_an_epoch_is_cut_into_chunks_changes_no_bit(x64, looped):
    steps, _ = looped
    results = []
    for lengths in [(3,), (1, 2), (2, 1)]:
        state = initial_state(steps, jnp.float64)
        for chunk in cut(steps.train_feed, *lengths):
            state, _ = steps.train(state, chunk)
        results.append(state)
    for other in results[1:]:
        assert_same_bits(results[0], other)


def test_an_epoch_is_measured_donates_the_state_and_repeats_itself_to_the_bit(x64, single):
    steps, _ = single
    state = initial_state(steps, jnp.float64)
    end, history = run_epoch(steps, state)
    assert state.params["stem.kernel"].is_deleted()
    assert history["examples"].tolist() == [8, 8, 8]
    names = ("branch1", "branch2", "main")
    terms = [f"cross_entropy/{name}" for name in names]
    terms += [f"kl/{t}->{s}" for t in names for s in names if t != s]
    assert set(history) == {"examples", "loss", *terms, *(f"errors/{name}" for name in names)}
    np.testing.assert_allclose(history["loss"], sum(history[term] for term in terms), rtol=1e-5)
    assert_same_bits(run_epoch(steps, initial_state(steps, jnp.float64))[0], end)


def test_evaluation_counts_every_example_once_and_changes_nothing(x64, single):
    steps, _ = single
    state, before = initial_state(steps, jnp.float64), initial_state(steps, jnp.float64)
    histories = [steps.evaluate(state, chunk) for chunk in steps.test_feed.chunks(0)]
    assert [h["examples"][0] for h in histories] == [8, 8, 8, 2]
    network = tiny_network(NUM_CLASSES)
    network.eval()
    split = images(seed=1)
    logits = network((split.images.astype(jnp.float32) / 255 - 0.5) / 0.25)
    wrong = np.sum(np.argmax(logits, axis=-1) != split.labels, axis=-1)
    for name, expected in zip(("branch1", "branch2", "main"), wrong, strict=True):
        assert sum(h[f"errors/{name}"][0] for h in histories) == expected
    assert_same_bits(state, before)


def test_evaluation_measures_calibration_and_the_mean_of_the_classifiers_as_inference_does(x64, single):
    steps, _ = single
    state, means = initial_state(steps, jnp.float64), EpochMeans()
    # Far from chance, so that the confidences fill several bins and some predictions are right.
    head = {name: 4 * value for name, value in state.params.items() if "fc" in name}
    assert head
    state = state._replace(params=state.params | head)
    for chunk in steps.test_feed.chunks(0):
        means.add(steps.evaluate(state, chunk))
    network = tiny_network(NUM_CLASSES)
    set_arrays(network, state.params | state.batch_stats)
    network.eval()
    split = images(seed=1)
    logits = np.asarray(network((split.images.astype(jnp.float64) / 255 - 0.5) / 0.25))
    scores = example_scores(logits[-1], split.labels)
    assert len(set(np.ceil(15 * scores.confidences))) > 3
    own, expected = means.result(), metrics(scores, NUM_CLASSES)
    assert own["ece/main"] == pytest.approx(expected.ece, rel=1e-6)
    assert own["cross_entropy/main"] == pytest.approx(expected.nll, rel=1e-6)
    mean = np.exp(log_softmax(logits)).mean(axis=0)
    assert own["error/mean"] == pytest.approx(100 * np.mean(np.argmax(mean, axis=-1) != split.labels))


def test_training_stops_at_the_first_loss_that_is_not_finite():
    steps, state = setting(Devices(batches_per_call=8), learning_rate=1e20)
    state, history = steps.train(state, next(cut(steps.train_feed, 3)))
    assert int(state.step) == 2
    assert np.isfinite(history["loss"][0])
    assert not np.isfinite(history["loss"][1])


def test_bfloat16_keeps_parameters_statistics_and_loss_in_float32(single):
    steps, state = setting(Devices(batches_per_call=1), dtype=jnp.bfloat16)
    state, history = steps.train(state, next(cut(steps.train_feed, 1)))
    with jax.enable_x64(True):
        wide, _ = single
        _, expected = wide.train(initial_state(wide, jnp.float64), next(cut(wide.train_feed, 1)))
    arrays = {**state.params, **state.batch_stats}
    assert {str(array.dtype) for array in arrays.values()} == {"float32"}
    assert history["loss"].dtype == np.float32
    # bfloat16 keeps 8 bits; the loss is a sum of nine terms of order one.
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=0.05)


@pytest.mark.parametrize("deterministic", [False, True])
def test_xla_is_asked_for_float32_in_full_and_where_it_is_wanted_for_determinism(deterministic, tmp_path):
    devices = Devices(batches_per_call=1, deterministic=deterministic)
    # XLA itself writes down what it was asked for; no other test compiles this program, which would be kept.
    devices.compiler_options |= {"xla_dump_to": str(tmp_path), "xla_dump_hlo_as_text": True}
    feed = EvaluationFeed(images(5), Preparation((0.5,) * 3, (0.25,) * 3), batch_size=5, devices=devices)
    list(Forward(tiny_network(NUM_CLASSES), feed, devices).batches())
    (options,) = (file.read_text() for file in tmp_path.glob("*apply_batch*debug_options"))
    assert ("xla_gpu_deterministic_ops: true" in options) == deterministic
    (program,) = (file.read_text() for file in tmp_path.glob("*apply_batch*before_optimizations.txt"))
    for operation, count in ((" convolution(", 4), (" dot(", 3)):
        found = [line for line in program.splitlines() if operation in line]
        assert len(found) == count
        assert all("operand_precision={highest,highest}" in line for line in found)


def test_a_batch_is_dispatched_before_the_one_before_is_waited_for():
    random, asked = np.random.default_rng(0), []
    split = Split(random.integers(0, 256, (10, 8, 8, 1), np.uint8), np.zeros(10, np.int32))

    class Recording(EvaluationFeed):
        def chunks(self, epoch, first=0):
            for chunk in super().chunks(epoch, first):
                asked.append(chunk.first)
                yield chunk

    devices = Devices(batches_per_call=1)
    feed = Recording(split, Preparation((0.5,), (0.25,)), batch_size=4, devices=devices)
    batches = Forward(tiny_network(3, channels=1), feed, devices).batches()
    assert [(len(output.labels), list(asked)) for output in batches] == [
        (4, [0, 1]),
        (4, [0, 1, 2]),
        (2, [0, 1, 2]),
    ]
