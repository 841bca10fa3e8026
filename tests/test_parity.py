"""The library against an independent PyTorch implementation of the published recipe.

Training is compared in float64: 20 float32 steps amplify rounding until nothing can be told (PyTorch against
itself: a loss term off by 0.12), while float64 agrees to the last digits. Unless a test says otherwise, a
difference is the largest one of a tensor's elements over the tensor's largest value.
"""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
import torch
import torch_reference as reference
from flax import nnx

from dks_jax import optim
from dks_jax.data.images import Split
from dks_jax.data.resident import Preparation, TrainingFeed
from dks_jax.functional import Functional
from dks_jax.layers import BatchNorm
from dks_jax.models.wide_resnet import Block, Head, wide_resnet
from dks_jax.steps import Devices, Steps, TrainState
from dks_jax.supervision import DeeplySupervised
from dks_jax.synergy import METHODS, objective

Named = dict[str, np.ndarray]

# The recipe released with arXiv:1906.00675.
MEAN = tuple(value / 255 for value in (125.3, 123.0, 113.9))
STD = tuple(value / 255 for value in (63.0, 62.1, 66.7))
EPSILON, LEARNING_RATE, DROP_FACTOR, WEIGHT_DECAY = 1e-8, 0.1, 0.2, 5e-4

BATCH_SIZE, NUM_CLASSES = 8, 10
TOLERANCE = 1e-8


class Run(NamedTuple):
    """A training run by either library, in the names and layouts of dks_jax.

    history: "loss" and its terms, step by step.
    snapshots: by the number of finished steps: "parameters", "momentum" and "statistics".
    """

    history: list[dict[str, float]]
    snapshots: dict[int, dict[str, Named]]


class Task(NamedTuple):
    """What both libraries are given.

    batches: by epoch, uint8 images [batch, height, width, channel] and labels [batch], in order.
    start: parameters and running statistics, in the names and layouts of dks_jax.
    """

    batches: list[list[tuple[np.ndarray, np.ndarray]]]
    start: Named


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def as_numpy(arrays: Mapping[str, jax.Array]) -> Named:
    """Copies, because training donates the buffers of its state."""
    return {name: np.array(value) for name, value in arrays.items()}


def cast(tree, dtype):
    """The tree with its floating-point arrays in another type."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def difference(ours: Mapping, theirs: Mapping) -> float:
    """Largest difference over all names, each relative to the largest value of its tensor."""
    assert set(ours) == set(theirs)
    largest = 0.0
    for name, their in theirs.items():
        assert np.shape(ours[name]) == np.shape(their), name
        gap, scale = np.max(np.abs(ours[name] - their)), np.max(np.abs(their))
        assert np.isfinite(gap), name
        largest = max(largest, gap / scale if scale else gap)
    return float(largest)


def train_ours(
    method: str, *, num_images: int, num_epochs: int, drop_epochs=(), snapshots=(), dtype=jnp.float64
) -> tuple[Task, Run]:
    """Trains a WRN-16-1 with the library's own step and feed, and says what it was trained from.

    To be called with 64-bit types enabled where `dtype` needs them.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_images, 32, 32, 3), np.uint8)
    labels = rng.integers(0, NUM_CLASSES, num_images, np.int32)
    devices = Devices(batches_per_call=1)
    feed = TrainingFeed(
        Split(images, labels),
        Preparation(MEAN, STD, padding=0, flip=False, dtype=dtype),
        batch_size=BATCH_SIZE,
        drop_last=False,
        seed=1,
        devices=devices,
    )
    network = wide_resnet(16, 1, NUM_CLASSES, rngs=nnx.Rngs(2))
    optimizer = optim.sgd(
        optim.step_schedule(LEARNING_RATE, drop_epochs, DROP_FACTOR, feed.steps_per_epoch),
        momentum=0.9,
        weight_decay=WEIGHT_DECAY,
        reset_steps=optim.drop_steps(drop_epochs, feed.steps_per_epoch),
    )
    loss = partial(objective, teaches=METHODS[method](3), names=network.names, epsilon=EPSILON)
    steps = Steps(network, loss, optimizer, seed=3, devices=devices)
    state = cast(steps.initial_state(), dtype)
    task = Task([], as_numpy(state.params | state.batch_stats))
    run = Run([], {})
    for epoch in range(num_epochs):
        task.batches.append([])
        for chunk in feed.chunks(epoch):
            first = chunk.first * BATCH_SIZE
            chosen = np.asarray(chunk.arrays["order"])[first : first + chunk.batch_size]
            task.batches[-1].append((images[chosen], labels[chosen]))
            state, history = steps.train(state, feed, chunk)
            run.history.append(
                {k: v.item() for k, v in history.items() if k == "loss" or k.startswith(("cross", "kl"))}
            )
            if len(run.history) in snapshots:
                run.snapshots[len(run.history)] = snapshot(state)
    return task, run


def snapshot(state: TrainState) -> dict[str, Named]:
    return {
        "parameters": as_numpy(state.params),
        "momentum": as_numpy(optax.tree_utils.tree_get(state.opt_state, "momentum")),
        "statistics": as_numpy(state.batch_stats),
    }


def train_torch(
    task: Task, *, pairs=reference.DKS_PAIRS, num_steps=None, snapshots=(), dtype=torch.float64, **recipe
) -> Run:
    """Trains the reference on the same batches from the same weights, at most `num_steps` steps."""
    network = reference.WideResNet(16, 1, NUM_CLASSES).to(dtype)
    reference.load_arrays(network, reference.to_released(task.start))
    epochs = [
        [(reference.normalise(images, MEAN, STD, dtype), torch.tensor(labels).long()) for images, labels in e]
        for e in task.batches
    ]
    settings = {
        "epsilon": EPSILON,
        "learning_rate": LEARNING_RATE,
        "weight_decay": WEIGHT_DECAY,
        "drop_factor": DROP_FACTOR,
    }
    run = Run([], {})
    for terms, optimizer in islice(
        reference.train(network, epochs, pairs=pairs, **(settings | recipe)), num_steps
    ):
        run.history.append(terms)
        if len(run.history) in snapshots:
            run.snapshots[len(run.history)] = snapshot_torch(network, optimizer)
    return run


def snapshot_torch(network: torch.nn.Module, optimizer: torch.optim.SGD) -> dict[str, Named]:
    def in_our_names(arrays: Mapping[str, torch.Tensor]) -> Named:
        return reference.from_released({k: v.detach().numpy().copy() for k, v in arrays.items()})

    return {
        "parameters": in_our_names(dict(network.named_parameters())),
        "momentum": in_our_names(reference.momentum_of(network, optimizer)),
        "statistics": in_our_names({k: v for k, v in reference.arrays_of(network).items() if "running" in k}),
    }


# Training ---------------------------------------------------------------------------------------------------

# 37 images in batches of 8 make 5 steps an epoch, the last one with 5 images. By the 1-based rule the rate
# drops after 1 and after 3 whole epochs, so before the steps number 6 and 16.
DROPS = {"drop_epochs": (2, 4)}
AROUND_THE_DROPS = (5, 6, 15, 16, 20)


@pytest.fixture(scope="module")
def dks_task_and_run() -> tuple[Task, Run]:
    with jax.enable_x64(True):
        return train_ours("dks", num_images=37, num_epochs=4, **DROPS, snapshots=AROUND_THE_DROPS)


@pytest.fixture(scope="module")
def dks_torch_run(dks_task_and_run) -> Run:
    task, _ = dks_task_and_run
    return train_torch(task, **DROPS, snapshots=AROUND_THE_DROPS)


def test_an_epoch_ends_with_the_partial_batch(dks_task_and_run):
    task, _ = dks_task_and_run
    assert [[len(labels) for _, labels in epoch] for epoch in task.batches] == [[8, 8, 8, 8, 5]] * 4


def test_every_loss_term_of_every_step_is_that_of_torch(dks_task_and_run, dks_torch_run):
    _, ours = dks_task_and_run
    assert len(ours.history) == len(dks_torch_run.history) == 20
    # The total, three cross-entropies and six divergences.
    assert len(dks_torch_run.history[0]) == 10
    for our, their in zip(ours.history, dks_torch_run.history, strict=True):
        assert difference(our, their) < TOLERANCE


@pytest.mark.parametrize("step", AROUND_THE_DROPS)
@pytest.mark.parametrize("kind", ["parameters", "momentum", "statistics"])
def test_the_state_is_that_of_torch_through_two_drops(dks_task_and_run, dks_torch_run, kind: str, step: int):
    _, ours = dks_task_and_run
    assert difference(ours.snapshots[step][kind], dks_torch_run.snapshots[step][kind]) < TOLERANCE


# One part of the recipe left out in each, so that the tests above are seen to depend on it.
@pytest.mark.parametrize(
    ("left_out", "kind", "at_least"),
    [
        pytest.param({"new_optimizer_at_drops": False}, "parameters", 1e-4, id="momentum reset"),
        pytest.param({"drop_epochs": (3, 5)}, "parameters", 1e-4, id="1-based drops"),
        pytest.param({"drop_epochs": ()}, "parameters", 1e-4, id="drops"),
        pytest.param({"weight_decay": 0.0}, "parameters", 1e-4, id="weight decay"),
        pytest.param({"decay_norm_and_bias": False}, "parameters", 1e-4, id="decay of norms and biases"),
        pytest.param({"epsilon": 0.0}, "momentum", 10 * TOLERANCE, id="smoothing"),
        pytest.param({"pairs": reference.TOP_DOWN_PAIRS}, "momentum", 1e-2, id="bottom-up pairs"),
    ],
)
def test_parity_needs_the_whole_recipe(dks_task_and_run, left_out: dict, kind: str, at_least: float):
    task, ours = dks_task_and_run
    theirs = train_torch(task, **(DROPS | left_out), num_steps=6, snapshots=[6])
    assert difference(ours.snapshots[6][kind], theirs.snapshots[6][kind]) > at_least


def test_smoothing_shows_in_the_loss_terms(dks_task_and_run):
    task, ours = dks_task_and_run
    theirs = train_torch(task, num_steps=1, epsilon=0.0)
    assert difference(ours.history[0], theirs.history[0]) > 10 * TOLERANCE


@pytest.mark.parametrize(
    ("method", "pairs"), [("ds", reference.DS_PAIRS), ("top_down", reference.TOP_DOWN_PAIRS)]
)
def test_other_methods_train_as_torch_does(x64, method: str, pairs: tuple):
    # 2 epochs of 2 steps, a drop between them.
    task, ours = train_ours(method, num_images=16, num_epochs=2, drop_epochs=(2,), snapshots=[4])
    theirs = train_torch(task, pairs=pairs, drop_epochs=(2,), snapshots=[4])
    for our, their in zip(ours.history, theirs.history, strict=True):
        assert difference(our, their) < TOLERANCE
    for kind in ("parameters", "momentum", "statistics"):
        assert difference(ours.snapshots[4][kind], theirs.snapshots[4][kind]) < TOLERANCE


def test_the_first_step_in_float32_has_the_loss_terms_of_torch():
    task, ours = train_ours("dks", num_images=8, num_epochs=1, dtype=jnp.float32)
    theirs = train_torch(task, dtype=torch.float32)
    # Relative to the size of the term; no term is near zero.
    assert difference(ours.history[0], theirs.history[0]) < 1e-5


# The network ------------------------------------------------------------------------------------------------


def any_weights(network: DeeplySupervised, seed: int) -> tuple[Named, Named]:
    """The kernels as they are; scales, offsets, biases and statistics as after some training; in float64."""
    rng = np.random.default_rng(seed)
    draws = {
        "scale": lambda shape: rng.uniform(0.5, 1.5, shape),
        "bias": lambda shape: rng.normal(0.0, 0.3, shape),
        "mean": lambda shape: rng.normal(0.0, 0.5, shape),
        "var": lambda shape: rng.uniform(0.5, 2.0, shape),
    }

    def fill(arrays: Mapping[str, jax.Array]) -> Named:
        filled = {}
        for name, array in arrays.items():
            kind = name.rsplit(".", 1)[1]
            filled[name] = draws[kind](array.shape) if kind in draws else np.asarray(array, np.float64)
        return filled

    functional = Functional(network)
    return fill(functional.params), fill(functional.batch_stats)


@pytest.mark.parametrize(
    ("depth", "width", "size", "dropout"),
    [(16, 1, 32, 0.3), (16, 1, 27, 0.0), (22, 2, 32, 0.0), (22, 2, 24, 0.3)],
)
def test_logits_in_evaluation_are_those_of_torch(x64, depth: int, width: int, size: int, dropout: float):
    network = wide_resnet(depth, width, NUM_CLASSES, dropout=dropout, rngs=nnx.Rngs(0))
    params, batch_stats = any_weights(network, seed=1)
    images = np.random.default_rng(2).normal(size=(2, size, size, 3))
    ours = jax.jit(Functional(network).eval)(params, batch_stats, images)
    theirs = reference.WideResNet(depth, width, NUM_CLASSES, dropout).double().eval()
    reference.load_arrays(theirs, reference.to_released(params | batch_stats))
    with torch.no_grad():
        expected = torch.stack(theirs(torch.tensor(images).permute(0, 3, 1, 2))).numpy()
    assert difference({"logits": np.asarray(ours)}, {"logits": expected}) < 1e-10


def test_names_and_layouts_map_both_ways():
    network = wide_resnet(16, 2, NUM_CLASSES, rngs=nnx.Rngs(0))
    params, batch_stats = any_weights(network, seed=0)
    released = reference.to_released(params | batch_stats)
    theirs = reference.arrays_of(reference.WideResNet(16, 2, NUM_CLASSES))
    assert {k: v.shape for k, v in released.items()} == {k: tuple(v.shape) for k, v in theirs.items()}
    back = reference.from_released(released)
    assert set(back) == set(params | batch_stats)
    for name, array in (params | batch_stats).items():
        np.testing.assert_array_equal(back[name], array)


def test_wrn_28_10_has_the_published_number_of_parameters():
    ours = {k: v.size for k, v in Functional(wide_resnet(28, 10, 100, rngs=nnx.Rngs(0))).params.items()}
    with torch.device("meta"):
        theirs = {k: v.numel() for k, v in reference.WideResNet(28, 10, 100).named_parameters()}
    assert {reference.released_name(name): size for name, size in ours.items()} == theirs

    def millions(prefix: str) -> float:
        return round(sum(size for name, size in ours.items() if name.startswith(prefix)) / 1e6, 2)

    # Arithmetic from the released architecture; the backbone's 36.5 M is also in arXiv:1605.07146.
    assert millions("") == 164.15
    assert millions("branches.0.") == 20.15
    assert millions("branches.1.") == 107.46
    assert round(millions("") - millions("branches."), 2) == 36.54


# Dropout ----------------------------------------------------------------------------------------------------

RATE = 0.3


class Recorder(nnx.Module):
    """A layer that leaves what enters it and what comes out among the network's other arrays."""

    def __init__(self, layer: nnx.Module):
        self.layer = layer
        self.entering = nnx.Intermediate(jnp.zeros(()))
        self.leaving = nnx.Intermediate(jnp.zeros(()))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.layer(x)
        self.entering.set_value(x)
        self.leaving.set_value(y)
        return y


class Mask(torch.nn.Module):
    """Multiplication by a given factor."""

    def __init__(self, factor: torch.Tensor):
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def blocks_of(network: DeeplySupervised) -> dict[str, Block]:
    """Every block of the backbone and the branches by its path."""
    groups = {f"stages.{i}": group for i, group in enumerate(network.stages)}
    for b, branch in enumerate(network.branches):
        groups |= {f"branches.{b}.stages.{i}": group for i, group in enumerate(branch.stages)}
    return {f"{name}.blocks.{i}": block for name, g in groups.items() for i, block in enumerate(g.blocks)}


class DropoutRun(NamedTuple):
    """One forward pass in training mode.

    entering, leaving: by block, what enters its dropout and what comes out [batch, height, width, channel].
    """

    arrays: Named
    images: np.ndarray
    logits: np.ndarray
    entering: Named
    leaving: Named


@pytest.fixture(scope="module")
def dropout_run() -> DropoutRun:
    with jax.enable_x64(True):
        network = wide_resnet(16, 1, NUM_CLASSES, dropout=RATE, rngs=nnx.Rngs(0))
        params, batch_stats = any_weights(network, seed=1)
        blocks = blocks_of(network)
        for block in blocks.values():
            block.dropout = Recorder(block.dropout)
        recording = Functional(network)
        images = np.random.default_rng(2).normal(size=(8, 32, 32, 3))
        logits, recorded = jax.jit(recording.train)(
            params, recording.batch_stats | batch_stats, images, jax.random.key(3)
        )
        entering = {name: np.array(recorded[f"{name}.dropout.entering"]) for name in blocks}
        leaving = {name: np.array(recorded[f"{name}.dropout.leaving"]) for name in blocks}
        return DropoutRun(params | batch_stats, images, np.array(logits), entering, leaving)


def test_every_block_drops_the_rate_and_rescales_the_rest(dropout_run):
    # A WRN-16: 3 groups of 2 blocks, branch 1 of 2 and 1, branch 2 of 2.
    assert len(dropout_run.entering) == 11
    for name, entering in dropout_run.entering.items():
        leaving = dropout_run.leaving[name]
        assert entering.min() == 0.0, f"{name}: dropout does not follow a ReLU"
        alive = entering > 0
        dropped = alive & (leaving == 0)
        # Five standard errors of a binomial share.
        assert abs(dropped.sum() / alive.sum() - RATE) < 5 * math.sqrt(RATE * (1 - RATE) / alive.sum()), name
        np.testing.assert_allclose(leaving, np.where(dropped, 0, entering / (1 - RATE)), rtol=1e-12)


def test_dropout_stands_between_bn1_and_conv1(dropout_run):
    theirs = reference.WideResNet(16, 1, NUM_CLASSES).double().train()
    reference.load_arrays(theirs, reference.to_released(dropout_run.arrays))
    received = {}
    for name, entering in dropout_run.entering.items():
        factor = np.where((entering > 0) & (dropout_run.leaving[name] == 0), 0, 1 / (1 - RATE))
        block = theirs.get_submodule(reference.released_name(f"{name}.conv1.kernel").removesuffix(".conv1"))
        block.dropout = Mask(torch.tensor(factor).permute(0, 3, 1, 2))
        block.dropout.register_forward_pre_hook(
            lambda _, inputs, name=name: received.update({name: inputs[0].permute(0, 2, 3, 1).numpy()})
        )
    with torch.no_grad():
        expected = torch.stack(theirs(torch.tensor(dropout_run.images).permute(0, 3, 1, 2))).numpy()
    assert difference(dropout_run.entering, received) < 1e-10
    assert difference({"logits": dropout_run.logits}, {"logits": expected}) < 1e-10


def test_blocks_drop_different_positions(dropout_run):
    masks: dict[tuple, list[np.ndarray]] = {}
    for name, entering in dropout_run.entering.items():
        dropped = np.where(entering > 0, dropout_run.leaving[name] == 0, np.nan)
        masks.setdefault(entering.shape, []).append(dropped)
    pairs = [(a, b) for same in masks.values() for i, a in enumerate(same) for b in same[:i]]
    # 2 blocks with 16 channels, 4 with 32, 3 with 64 and 2 with 128.
    assert len(pairs) == 1 + 6 + 3 + 1
    for a, b in pairs:
        known = ~np.isnan(a) & ~np.isnan(b)
        share = np.mean(a[known] * b[known])
        expected = RATE**2
        assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / known.sum())


def test_dropout_does_nothing_in_evaluation():
    network = wide_resnet(16, 1, NUM_CLASSES, dropout=RATE, rngs=nnx.Rngs(0))
    network.eval()
    x = jnp.arange(24.0).reshape(1, 2, 3, 4)
    for block in blocks_of(network).values():
        np.testing.assert_array_equal(block.dropout(x), x)


class DropoutSteps:
    """The library's training step of a network that is a dropout and a head."""

    def __init__(self, seed: int):
        rng = np.random.default_rng(0)
        split = Split(rng.integers(0, 256, (8, 16, 16, 3), np.uint8), np.arange(8, dtype=np.int32))
        self.devices = Devices(batches_per_call=1)
        # The mean is no possible grey level, so that no image has a zero of its own.
        preparation = Preparation((0.501,) * 3, (0.25,) * 3)
        self.feed = TrainingFeed(
            split, preparation, batch_size=8, drop_last=False, seed=0, devices=self.devices
        )
        rngs = nnx.Rngs(0)
        network = DeeplySupervised(
            Recorder(nnx.Dropout(RATE, rngs=rngs)), [], Head(3, NUM_CLASSES, norm_groups=1, rngs=rngs)
        )
        loss = partial(objective, teaches=np.zeros((1, 1)))
        self.steps = Steps(network, loss, optax.sgd(0.1), seed=seed, devices=self.devices)

    def dropped(self, step: int) -> np.ndarray:
        """Which values of its images the step with this number sets to zero."""
        state = self.steps.initial_state()._replace(step=self.devices.replicate(jnp.int32(step)))
        state, _ = self.steps.train(state, self.feed, next(self.feed.chunks(0)))
        assert np.all(np.asarray(state.batch_stats["stem.entering"]) != 0)
        return np.asarray(state.batch_stats["stem.leaving"]) == 0


def test_seed_and_step_decide_what_is_dropped():
    steps = DropoutSteps(seed=0)
    first = steps.dropped(step=5)
    np.testing.assert_array_equal(first, steps.dropped(step=5))
    for other in (steps.dropped(step=6), DropoutSteps(seed=1).dropped(step=5)):
        # Independent masks differ at 2 r (1 - r) of the positions.
        share, expected = np.mean(first != other), 2 * RATE * (1 - RATE)
        assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / first.size)


# Initialisation ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fresh() -> Named:
    functional = Functional(wide_resnet(16, 2, NUM_CLASSES, rngs=nnx.Rngs(0)))
    return as_numpy(functional.params | functional.batch_stats)


def select(arrays: Named, kind: str) -> Named:
    return {name: array for name, array in arrays.items() if name.endswith(f".{kind}")}


def test_kernels_are_kaiming_normal_by_fan_in(fresh):
    kernels = select(fresh, "kernel")
    # 2 convolutions in each of 11 blocks, 6 shortcuts where the width changes, the stem and 3 linear layers.
    assert len(kernels) == 22 + 6 + 1 + 3
    for name, kernel in kernels.items():
        fan_in = kernel.size // kernel.shape[-1]
        standard = kernel.ravel().astype(np.float64) / math.sqrt(2 / fan_in)
        # Five standard errors of the standard deviation of a normal sample.
        assert abs(standard.std() - 1) < 5 / math.sqrt(2 * kernel.size), name
        assert scipy.stats.kstest(standard, "norm").pvalue > 1e-3, name
    assert len({kernel.flat[0] / kernel.std() for kernel in kernels.values()}) == len(kernels)


def test_scales_are_uniform_and_offsets_and_biases_zero(fresh):
    scales = select(fresh, "scale")
    # 2 in each of 11 blocks and 1 in each of 3 heads.
    assert len(scales) == 25
    assert scipy.stats.kstest(np.concatenate(list(scales.values())), "uniform").pvalue > 1e-3
    assert len({scale[0] for scale in scales.values()}) == 25
    biases = select(fresh, "bias")
    # As many offsets, and the biases of 3 linear layers.
    assert len(biases) == 25 + 3
    assert not any(bias.any() for bias in biases.values())


def test_running_statistics_start_as_standard_normal(fresh):
    assert all((mean == 0).all() for mean in select(fresh, "mean").values())
    assert all((var == 1).all() for var in select(fresh, "var").values())
    assert len(select(fresh, "mean")) == len(select(fresh, "var")) == 25


# Batch normalisation ----------------------------------------------------------------------------------------


class NormCase(NamedTuple):
    """What a batch norm is given.

    x, output_gradient: [batch, height, width, channel].
    """

    x: np.ndarray
    output_gradient: np.ndarray
    params: Named
    batch_stats: Named


@pytest.fixture
def norm_case() -> NormCase:
    rng = np.random.default_rng(0)
    shape, channels = (6, 4, 5, 3), 3
    return NormCase(
        rng.normal(1.0, 2.0, shape),
        rng.normal(size=shape),
        {"scale": rng.uniform(0.5, 1.5, channels), "bias": rng.normal(size=channels)},
        {"mean": rng.normal(size=channels), "var": rng.uniform(0.5, 2.0, channels)},
    )


def norm_ours(case: NormCase, norm_groups: int) -> Named:
    """Output, new running statistics and gradients of the library's batch norm in training mode."""
    functional = Functional(BatchNorm(case.x.shape[-1], norm_groups=norm_groups, rngs=nnx.Rngs(0)))

    def loss(params, x):
        output, batch_stats = functional.train(params, case.batch_stats, x, jax.random.key(0))
        return jnp.sum(output * case.output_gradient), (output, batch_stats)

    case = jax.tree.map(jnp.asarray, case)
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (of_params, of_x), (output, batch_stats) = gradient(case.params, case.x)
    of_params = {f"{name} gradient": value for name, value in of_params.items()}
    return as_numpy({"output": output, "input gradient": of_x, **of_params, **batch_stats})


def norm_torch(case: NormCase) -> Named:
    """The same by torch.nn.BatchNorm2d."""
    layer = torch.nn.BatchNorm2d(case.x.shape[-1]).double().train()
    arrays = {reference.ARRAYS[k]: torch.tensor(v) for k, v in (case.params | case.batch_stats).items()}
    layer.load_state_dict(reference.counters_of(layer) | arrays)
    x = torch.tensor(case.x).permute(0, 3, 1, 2).requires_grad_()
    output = layer(x)
    output.backward(torch.tensor(case.output_gradient).permute(0, 3, 1, 2))
    results = {
        "output": output.permute(0, 2, 3, 1),
        "input gradient": x.grad.permute(0, 2, 3, 1),
        "scale gradient": layer.weight.grad,
        "bias gradient": layer.bias.grad,
        "mean": layer.running_mean,
        "var": layer.running_var,
    }
    return {name: value.detach().numpy() for name, value in results.items()}


def test_batch_norm_is_that_of_torch(x64, norm_case):
    assert difference(norm_ours(norm_case, norm_groups=1), norm_torch(norm_case)) < 1e-12


def test_running_variance_is_the_unbiased_one(x64, norm_case):
    # PyTorch's momentum of 0.1 weighs the new value; NumPy's ddof=1 divides by n - 1.
    unbiased = norm_case.x.var(axis=(0, 1, 2), ddof=1)
    expected = 0.9 * norm_case.batch_stats["var"] + 0.1 * unbiased
    np.testing.assert_allclose(norm_ours(norm_case, norm_groups=1)["var"], expected, rtol=1e-12)


def test_norm_groups_are_separate_batch_norms_of_torch(x64, norm_case):
    half = len(norm_case.x) // 2
    halves = [
        norm_torch(norm_case._replace(x=norm_case.x[part], output_gradient=norm_case.output_gradient[part]))
        for part in (slice(None, half), slice(half, None))
    ]
    expected = {
        "output": np.concatenate,
        "input gradient": np.concatenate,
        "scale gradient": sum,
        "bias gradient": sum,
        "mean": partial(np.mean, axis=0),
        "var": partial(np.mean, axis=0),
    }
    expected = {name: combine([results[name] for results in halves]) for name, combine in expected.items()}
    assert difference(norm_ours(norm_case, norm_groups=2), expected) < 1e-12


def test_variance_in_float32_keeps_its_digits_far_from_zero():
    x = np.random.default_rng(0).normal(1000.0, 1.0, (16, 8, 8, 4)).astype(np.float32)
    exact = (x - x.mean(axis=(0, 1, 2), dtype=np.float64)) / np.sqrt(
        x.var(axis=(0, 1, 2), dtype=np.float64) + 1e-5
    )
    case = NormCase(
        x,
        np.zeros_like(x),
        {"scale": np.ones(4, np.float32), "bias": np.zeros(4, np.float32)},
        {"mean": np.zeros(4, np.float32), "var": np.ones(4, np.float32)},
    )
    assert difference({"output": norm_ours(case, norm_groups=1)["output"]}, {"output": exact}) < 1e-3
    # The formula that this test is there to rule out.
    one_pass = np.square(x).mean(axis=(0, 1, 2)) - np.square(x.mean(axis=(0, 1, 2)))
    one_pass_error = np.abs(1 / np.sqrt(np.maximum(one_pass, 0) + 1e-5) - 1 / x.std(axis=(0, 1, 2)))
    assert one_pass_error.max() > 1e-2


# The optimizer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("momentum", "weight_decay", "decay_norm_and_bias"),
    [(0.9, 5e-4, True), (0.0, 0.0, True), (0.9, 5e-4, False)],
)
def test_sgd_is_that_of_torch(x64, momentum: float, weight_decay: float, decay_norm_and_bias: bool):
    rng = np.random.default_rng(0)
    shapes = {"conv.kernel": (3, 3, 2, 4), "fc.kernel": (4, 5), "fc.bias": (5,), "bn.scale": (4,)}
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    theirs = {name: torch.tensor(np.array(value)).requires_grad_() for name, value in params.items()}
    kernels = [value for name, value in theirs.items() if name.endswith("kernel")]
    others = [value for name, value in theirs.items() if not name.endswith("kernel")]
    groups = [
        {"params": kernels, "weight_decay": weight_decay},
        {"params": others, "weight_decay": weight_decay if decay_norm_and_bias else 0.0},
    ]
    torch_sgd = torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=momentum)
    sgd = optim.sgd(
        lambda step: LEARNING_RATE,
        momentum=momentum,
        weight_decay=weight_decay,
        decay_norm_and_bias=decay_norm_and_bias,
    )
    state = sgd.init(params)
    for _ in range(10):
        gradients = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        updates, state = sgd.update({k: jnp.asarray(v) for k, v in gradients.items()}, state, params)
        params = optax.apply_updates(params, updates)
        for name, value in theirs.items():
            value.grad = torch.tensor(gradients[name])
        torch_sgd.step()
        assert difference(as_numpy(params), {k: v.detach().numpy() for k, v in theirs.items()}) < 1e-12
