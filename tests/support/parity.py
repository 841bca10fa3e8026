"""The same training by the library and by a reference in PyTorch, from the same weights and batches."""

from collections.abc import Callable, Collection, Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from dks_jax.config import METHODS
from dks_jax.data.feeds.interface import Epochs
from dks_jax.data.feeds.resident import TrainingFeed
from dks_jax.data.images import Split
from dks_jax.data.preparation import Preparation
from dks_jax.nn.functional import Functional
from dks_jax.runtime.devices import Devices
from dks_jax.supervision import DeeplySupervised
from dks_jax.synergy import objective, teaching_matrix
from dks_jax.training import optimizers, schedules
from dks_jax.training.steps import Steps, TrainState
from support import torch_reference as reference
from support.comparison import Named, any_weights, as_numpy, assert_agree

BATCH_SIZE, NUM_CLASSES, EPSILON = 8, 10, 1e-8
TOLERANCE = 1e-8


class Recipe(NamedTuple):
    """What both sides train by, beside SGD with momentum 0.9 and coupled weight decay.

    new_optimizer_at_drops: whether the momentum is reset where the learning rate drops.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weight_decay: float
    drop_factor: float
    new_optimizer_at_drops: bool
    learning_rate: float = 0.1


class Run(NamedTuple):
    """A training run by either library.

    history: "loss" and its terms, step by step.
    snapshots: by the number of finished steps: "parameters", "momentum" and "statistics", in PyTorch's names.
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


def train_ours(
    network: DeeplySupervised,
    recipe: Recipe,
    method: str,
    to_torch: Callable[[Named], Named],
    *,
    num_images: int,
    num_epochs: int,
    size: int = 16,
    drop_epochs: Collection[int] = (),
    snapshots: Collection[int] = (),
    dtype: Any = jnp.float64,
    form: str = "cpu",
) -> tuple[Task, Run]:
    """Trains a network with the library's own step and feed, and says what it was trained from.

    To be called with 64-bit types enabled where `dtype` needs them.

    Args:
      to_torch: function that gives arrays of the library PyTorch's names and layouts.
      size: side of the images.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_images, size, size, 3), np.uint8)
    labels = rng.integers(0, NUM_CLASSES, num_images, np.int32)
    devices = Devices(batches_per_call=1)
    devices.form = form
    feed = TrainingFeed(
        Split(images, labels),
        Preparation(recipe.mean, recipe.std, padding=0, flip=False, dtype=dtype),
        Epochs(num_images, BATCH_SIZE, False, 1),
        devices,
    )
    resets = schedules.drop_steps(drop_epochs, feed.steps_per_epoch) if recipe.new_optimizer_at_drops else []
    optimizer = optimizers.sgd(
        schedules.step_schedule(recipe.learning_rate, drop_epochs, recipe.drop_factor, feed.steps_per_epoch),
        momentum=0.9,
        weight_decay=recipe.weight_decay,
        reset_steps=resets,
    )
    loss = partial(
        objective, teaches=teaching_matrix(METHODS[method].teaches, 3), names=network.names, epsilon=EPSILON
    )
    steps = Steps(network, loss, optimizer, feed, seed=3, devices=devices)
    state = _cast(steps.initial_state(), dtype)
    task = Task([], as_numpy(state.params | state.batch_stats))
    run = Run([], {})
    for epoch in range(num_epochs):
        task.batches.append([])
        for chunk in feed.chunks(epoch):
            first = chunk.first * BATCH_SIZE
            chosen = np.asarray(chunk.arrays["order"])[first : first + chunk.batch_size]
            task.batches[-1].append((images[chosen], labels[chosen]))
            state, history = steps.train(state, chunk)
            run.history.append(
                {k: v.item() for k, v in history.items() if k == "loss" or k.startswith(("cross", "kl"))}
            )
            if len(run.history) in snapshots:
                run.snapshots[len(run.history)] = {
                    kind: to_torch(as_numpy(arrays)) for kind, arrays in _parts(state).items()
                }
    return task, run


def assert_same_gradients(
    network: DeeplySupervised, theirs: torch.nn.Module, to_torch: Callable[[Named], Named], size: int
) -> None:
    """Asserts that logits, and the gradients of a weighted sum of them, agree in training mode to 1e-10.

    To be called with 64-bit types enabled.

    Args:
      theirs: the reference, which gets the weights of the network.
      to_torch: see `train_ours`.
      size: side of the four images.
    """
    functional = Functional(network)
    params, batch_stats = any_weights(network, seed=1)
    rng = np.random.default_rng(3)
    images, weights = rng.normal(size=(4, size, size, 3)), rng.normal(size=(3, 4, NUM_CLASSES))

    def weighted(params):
        logits, _ = functional.train(params, batch_stats, images, jax.random.key(0))
        return (logits * weights).sum(), logits

    gradients, logits = jax.jit(jax.grad(weighted, has_aux=True))(params)
    theirs.double().train()
    reference.load_arrays(theirs, to_torch(params | batch_stats))
    expected = torch.stack(theirs(torch.tensor(images).permute(0, 3, 1, 2)))
    (expected * torch.tensor(weights)).sum().backward()
    assert_agree({"logits": np.asarray(logits)}, {"logits": expected.detach().numpy()}, 1e-10)
    own = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    assert_agree(to_torch(gradients), own, 1e-10)


def _cast(tree: Any, dtype: Any) -> Any:
    """The tree with its floating-point arrays in another type."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def _parts(state: TrainState) -> dict[str, Any]:
    return {
        "parameters": state.params,
        "momentum": optax.tree_utils.tree_get(state.opt_state, "momentum"),
        "statistics": state.batch_stats,
    }


def train_torch(
    network: torch.nn.Module,
    recipe: Recipe,
    task: Task,
    to_torch: Callable[[Named], Named],
    *,
    pairs: Collection[tuple[int, int]] = reference.DKS_PAIRS,
    num_steps: int | None = None,
    snapshots: Collection[int] = (),
    dtype: torch.dtype = torch.float64,
    **changed: Any,
) -> Run:
    """Trains the reference on the batches of a task from its weights, at most `num_steps` steps.

    Args:
      changed: keywords of `torch_reference.train` that differ from the recipe.
    """
    network.to(dtype)
    reference.load_arrays(network, to_torch(task.start))
    epochs = [
        [
            (reference.normalise(images, recipe.mean, recipe.std, dtype), torch.tensor(labels).long())
            for images, labels in epoch
        ]
        for epoch in task.batches
    ]
    settings = {name: value for name, value in recipe._asdict().items() if name not in ("mean", "std")}
    steps: Iterator[Any] = reference.train(
        network, epochs, pairs=pairs, **({"epsilon": EPSILON} | settings | changed)
    )
    run = Run([], {})
    for terms, optimizer in islice(steps, num_steps):
        run.history.append(terms)
        if len(run.history) in snapshots:
            run.snapshots[len(run.history)] = _snapshot_torch(network, optimizer)
    return run


def _snapshot_torch(network: torch.nn.Module, optimizer: torch.optim.SGD) -> dict[str, Named]:
    parts = {
        "parameters": dict(network.named_parameters()),
        "momentum": reference.momentum_of(network, optimizer),
        "statistics": {k: v for k, v in reference.arrays_of(network).items() if "running" in k},
    }
    return {kind: {k: v.detach().numpy().copy() for k, v in own.items()} for kind, own in parts.items()}


def assert_same_training(ours: Run, theirs: Run) -> None:
    """Asserts that every term of every step, and every array of every snapshot, agree to `TOLERANCE`."""
    assert ours.snapshots.keys() == theirs.snapshots.keys()
    for our, their in zip(ours.history, theirs.history, strict=True):
        assert_agree(our, their, TOLERANCE)
    for step, kinds in theirs.snapshots.items():
        for kind, arrays in kinds.items():
            assert_agree(ours.snapshots[step][kind], arrays, TOLERANCE)
