"""The library against an independent PyTorch implementation of the published recipe.

Training is compared in float64: 20 float32 steps amplify rounding until nothing can be told (PyTorch against
itself: a loss term off by 0.12), while float64 agrees to the last digits. Unless a test says otherwise, a
difference is the largest one of a tensor's elements over the tensor's largest value.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dks_jax import models
from dks_jax.config import METHODS
from dks_jax.nn.functional import Functional
from dks_jax.runtime.forms import FORMS
from dks_jax.synergy import objective, teaching_matrix
from support import parity
from support import torch_reference as reference
from support.comparison import any_weights, assert_agree, difference
from support.networks import wide_resnet
from support.parity import BATCH_SIZE, EPSILON, NUM_CLASSES, TOLERANCE, Run, Task

# The recipe released with arXiv:1906.00675.
RECIPE = parity.Recipe(
    mean=tuple(value / 255 for value in (125.3, 123.0, 113.9)),
    std=tuple(value / 255 for value in (63.0, 62.1, 66.7)),
    weight_decay=5e-4,
    drop_factor=0.2,
    new_optimizer_at_drops=True,
)


def train_ours(method: str, **options) -> tuple[Task, Run]:
    """Trains a WRN-16-1; options as of `parity.train_ours`.

    By default on images of half the size of CIFAR's, on which test_released_checkpoint.py trains.
    """
    network = wide_resnet(16, 1, NUM_CLASSES, seed=2)
    return parity.train_ours(network, RECIPE, method, reference.to_released, **options)


def train_torch(task: Task, **options) -> Run:
    """Trains the reference; options as of `parity.train_torch`."""
    network = reference.WideResNet(16, 1, NUM_CLASSES)
    return parity.train_torch(network, RECIPE, task, reference.to_released, **options)


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


def test_every_loss_term_of_every_step_is_that_of_torch(dks_task_and_run, dks_torch_run):
    task, ours = dks_task_and_run
    assert [[len(labels) for _, labels in epoch] for epoch in task.batches] == [[8, 8, 8, 8, 5]] * 4
    assert len(ours.history) == len(dks_torch_run.history) == 20
    # The total, three cross-entropies and six divergences.
    assert len(dks_torch_run.history[0]) == 10
    for our, their in zip(ours.history, dks_torch_run.history, strict=True):
        assert_agree(our, their, TOLERANCE)


@pytest.mark.parametrize("step", AROUND_THE_DROPS)
@pytest.mark.parametrize("kind", ["parameters", "momentum", "statistics"])
def test_the_state_is_that_of_torch_through_two_drops(dks_task_and_run, dks_torch_run, kind: str, step: int):
    _, ours = dks_task_and_run
    assert_agree(ours.snapshots[step][kind], dks_torch_run.snapshots[step][kind], TOLERANCE)


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
        pytest.param({"epsilon": 0.0}, "loss", 10 * TOLERANCE, id="smoothing of the loss"),
        pytest.param({"pairs": reference.TOP_DOWN_PAIRS}, "momentum", 1e-2, id="bottom-up pairs"),
    ],
)
def test_parity_needs_the_whole_recipe(dks_task_and_run, left_out: dict, kind: str, at_least: float):
    task, ours = dks_task_and_run
    theirs = train_torch(task, **(DROPS | left_out), num_steps=6, snapshots=[6])
    if kind == "loss":
        assert difference(ours.history[0], theirs.history[0]) > at_least
    else:
        assert difference(ours.snapshots[6][kind], theirs.snapshots[6][kind]) > at_least


OTHER_METHODS = {"top_down": reference.TOP_DOWN_PAIRS, "ds": reference.DS_PAIRS}


@pytest.mark.parametrize(("method", "pairs"), [("dks", reference.DKS_PAIRS), *OTHER_METHODS.items()])
def test_the_loss_of_every_method_and_its_gradient_are_those_of_torch(x64, method: str, pairs: tuple):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (3, BATCH_SIZE, NUM_CLASSES)), rng.integers(0, NUM_CLASSES, BATCH_SIZE)
    loss = partial(objective, teaches=teaching_matrix(METHODS[method].teaches, 3), epsilon=EPSILON)
    (total, terms), gradient = jax.value_and_grad(loss, has_aux=True)(logits, labels)
    theirs = torch.tensor(logits, requires_grad=True)
    their_terms = reference.loss_terms(tuple(theirs), torch.tensor(labels), EPSILON)
    expected = reference.total_loss(their_terms, pairs)
    expected.backward()
    arrays = {"loss": expected, "gradient": theirs.grad, **their_terms}
    assert_agree(
        {"loss": total, "gradient": gradient, **terms},
        {name: value.detach().numpy() for name, value in arrays.items()},
        1e-12,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("method", "pairs"), OTHER_METHODS.items())
def test_other_methods_train_as_torch_does(x64, method: str, pairs: tuple):
    # 2 epochs of 2 steps, a drop between them.
    task, ours = train_ours(method, num_images=16, num_epochs=2, drop_epochs=(2,), snapshots=[4])
    theirs = train_torch(task, pairs=pairs, drop_epochs=(2,), snapshots=[4])
    for our, their in zip(ours.history, theirs.history, strict=True):
        assert_agree(our, their, TOLERANCE)
    for kind in ("parameters", "momentum", "statistics"):
        assert_agree(ours.snapshots[4][kind], theirs.snapshots[4][kind], TOLERANCE)


@pytest.mark.slow
def test_with_the_forms_for_accelerators_it_trains_as_torch_does(x64):
    task, ours = train_ours("dks", num_images=21, num_epochs=2, snapshots=[6], form="accelerator")
    theirs = train_torch(task, snapshots=[6])
    for our, their in zip(ours.history, theirs.history, strict=True):
        assert_agree(our, their, TOLERANCE)
    for kind in ("parameters", "momentum", "statistics"):
        assert_agree(ours.snapshots[6][kind], theirs.snapshots[6][kind], TOLERANCE)


@pytest.mark.parametrize(
    "form", [pytest.param(f, marks=() if f == "accelerator" else pytest.mark.slow) for f in FORMS]
)
def test_the_first_step_in_float32_has_the_loss_terms_of_torch(form):
    task, ours = train_ours("dks", num_images=8, num_epochs=1, size=32, dtype=jnp.float32, form=form)
    theirs = train_torch(task, dtype=torch.float32)
    # Relative to the size of the term; no term is near zero.
    assert_agree(ours.history[0], theirs.history[0], 1e-5)


@pytest.mark.parametrize(
    ("depth", "width", "size", "dropout"),
    [
        (22, 2, 27, 0.3),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(16, 1, 32, 0.3), (22, 2, 32, 0.0)]),
    ],
)
def test_logits_in_evaluation_are_those_of_torch(x64, depth: int, width: int, size: int, dropout: float):
    network = wide_resnet(depth, width, NUM_CLASSES, dropout=dropout, seed=0)
    params, batch_stats = any_weights(network, seed=1)
    images = np.random.default_rng(2).normal(size=(2, size, size, 3))
    ours = jax.jit(Functional(network).eval)(params, batch_stats, images)
    theirs = reference.WideResNet(depth, width, NUM_CLASSES, dropout).double().eval()
    reference.load_arrays(theirs, reference.to_released(params | batch_stats))
    with torch.no_grad():
        expected = torch.stack(theirs(torch.tensor(images).permute(0, 3, 1, 2))).numpy()
    assert_agree({"logits": np.asarray(ours)}, {"logits": expected}, 1e-10)


def test_wrn_28_10_has_the_published_number_of_parameters():
    model = {"name": "wide_resnet", "depth": 28, "width": 10, "dropout": 0.0}
    shapes = models.shapes(models.Network(model, models.resolve_branches(model, "published"), 100, 3))
    ours = {name: shape.size for name, shape in shapes.items() if not name.endswith((".mean", ".var"))}
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
