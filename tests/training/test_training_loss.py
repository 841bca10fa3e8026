"""What training alone does to the loss: smoothing, binary targets, weights, random pairs, detaching."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from dks_jax import all_pairs, no_pairs, objective
from dks_jax.command_line import ConfigParser
from dks_jax.nn import Functional
from dks_jax.training import training_loss
from support.runs import CONFIGS, records, run, user_error
from support.tiny_network import tiny_network

pytestmark = pytest.mark.usefixtures("quick_compilation")

CLASSES, STEPS_PER_EPOCH = 5, 10
LOGITS = np.random.default_rng(0).standard_normal((3, 6, CLASSES))
LABELS = np.random.default_rng(1).integers(0, CLASSES, 6)
MIXED = np.random.default_rng(2).dirichlet(np.ones(CLASSES), 6)


def cross_entropies(targets, **arguments):
    """Of the classifiers, in float64."""
    with jax.enable_x64(True):
        _, terms = objective(LOGITS, targets, no_pairs(3), **arguments)
        return np.array([terms[f"cross_entropy/{name}"] for name in ("branch1", "branch2", "main")])


@pytest.mark.parametrize("targets", [LABELS, MIXED], ids=["labels", "mixed"])
def test_label_smoothing_is_that_of_torch(targets):
    theirs = [
        functional.cross_entropy(torch.tensor(own), torch.tensor(targets), label_smoothing=0.1)
        for own in LOGITS
    ]
    np.testing.assert_allclose(cross_entropies(targets, label_smoothing=0.1), theirs, rtol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_binary_loss_is_that_of_torch_on_smoothed_one_hot_targets(smoothing):
    # As timm's BinaryCrossEntropy makes them.
    targets = np.full((6, CLASSES), smoothing / CLASSES)
    targets[np.arange(6), LABELS] = 1 - smoothing + smoothing / CLASSES
    theirs = [
        functional.binary_cross_entropy_with_logits(torch.tensor(own), torch.tensor(targets))
        for own in LOGITS
    ]
    ours = cross_entropies(LABELS, binary=True, label_smoothing=smoothing)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_above_the_threshold_a_class_of_a_mixed_image_is_there():
    whole = (MIXED > 0.2).astype(np.float64)
    np.testing.assert_allclose(
        cross_entropies(MIXED, binary=True, threshold=0.2), cross_entropies(whole, binary=True), rtol=1e-12
    )


@pytest.mark.parametrize(
    "arguments", [{"binary": True}, {"binary": True, "threshold": 0.2}, {"label_smoothing": 0.1}]
)
def test_a_label_that_is_no_class_makes_the_loss_nan(arguments):
    assert np.isnan(cross_entropies(np.array([0, 1, 2, 3, -1, 4]), **arguments)).all()


def test_the_loss_of_a_mixed_batch_is_the_mixture_of_the_losses():
    other = LABELS[::-1]
    one_hot = np.eye(CLASSES)
    mixed = 0.3 * one_hot[LABELS] + 0.7 * one_hot[other]
    for arguments in ({}, {"label_smoothing": 0.2}, {"binary": True}):
        expected = 0.3 * cross_entropies(LABELS, **arguments) + 0.7 * cross_entropies(other, **arguments)
        np.testing.assert_allclose(cross_entropies(mixed, **arguments), expected, rtol=1e-12)


def test_weights_of_classifiers_weigh_the_cross_entropies_alone():
    with jax.enable_x64(True):
        total, terms = objective(LOGITS, LABELS, all_pairs(3), classifier_weights=(0.5, 2.0, 1.0))
        kl = sum(float(value) for name, value in terms.items() if name.startswith("kl/"))
    by_hand = cross_entropies(LABELS) @ [0.5, 2.0, 1.0] + kl
    np.testing.assert_allclose(total, by_hand, rtol=1e-12)


def schedule(*fields):
    flags = [f"--config={CONFIGS / 'digits_wrn.py'}", "--config.synergy.branch_warmup=(0,0)"]
    flags += [f"--config.{field}" for field in fields]
    _, config = ConfigParser("test", None).parse_with_config(flags)
    return training_loss.schedule(config, all_pairs(3), STEPS_PER_EPOCH)


def test_a_plain_config_leaves_the_loss_as_it_is():
    assert schedule() is None


def test_alpha_rises_linearly():
    at = schedule("synergy.alpha=3.0", "synergy.alpha_warmup=2.0")
    alphas = [float(at(jnp.int32(step))["alpha"]) for step in (0, 5, 10, 20, 100)]
    np.testing.assert_allclose(alphas, [0, 0.75, 1.5, 3, 3], rtol=1e-6)


def test_random_pairs_are_left_out_as_often_as_in_the_code_of_dhm():
    at = jax.jit(schedule("synergy.random_pairs=True"))
    matrices = np.array([at(jnp.int32(step))["teaches"] for step in range(1000)])
    assert set(np.unique(matrices)) == {0, 1}
    # NumPy's version of the commented lines: pairs that are drawn, with replacement, are detached.
    kept = matrices.mean(axis=0)[~np.eye(3, dtype=bool)]
    np.testing.assert_allclose(kept, (5 / 6) ** 6, atol=0.07)
    assert not matrices[:, np.eye(3, dtype=bool)].any()
    np.testing.assert_array_equal(at(jnp.int32(7))["teaches"], matrices[7])


def test_no_gradient_reaches_the_backbone_from_detached_branches():
    found = {}
    for detach in (False, True):
        network = tiny_network(CLASSES)
        network.detach = detach
        own = Functional(network)
        images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))

        def of_branches(params, own=own, images=images):
            logits, _ = own.train(params, own.batch_stats, images, jax.random.key(1))
            return jnp.sum(logits[:-1] ** 2)

        gradients = jax.grad(of_branches)(own.params)
        found[detach] = {name: float(jnp.abs(g).max()) for name, g in gradients.items()}
    assert any(value for name, value in found[False].items() if name.startswith("stem"))
    for name, value in found[True].items():
        assert (value > 0) <= name.startswith("branches"), name


@dataclass
class Case:
    field: str
    named: list[str]


@pytest.mark.parametrize(
    "case",
    [
        Case("loss.classifier_weights=(1.0,2.0)", ["`loss.classifier_weights`", "3", "(1.0, 2.0)"]),
        Case("loss.label_smoothing=1.0", ["`loss.label_smoothing`", "below 1"]),
    ],
    ids=lambda case: case.field,
)
def test_wrong_fields_are_one_sentence(tmp_path, tiny_model, capsys, case):
    assert run(tmp_path / "run", f"--config.{case.field}") == 2
    error = user_error(capsys)
    assert all(text in error for text in case.named), error


def test_evaluation_has_the_plain_loss(tmp_path, tiny_model):
    flags = ["--config.loss.label_smoothing=0.3", "--config.loss.binary=True", "--config.synergy.detach=True"]
    assert run(tmp_path / "run", *flags, "--config.epochs=1", "--config.optimizer.learning_rate=0.0") == 0
    assert run(tmp_path / "plain", "--config.epochs=1", "--config.optimizer.learning_rate=0.0") == 0
    (train, test), (plain_train, plain_test) = (records(tmp_path / name) for name in ("run", "plain"))
    assert test["loss"] == plain_test["loss"]
    assert train["loss"] != plain_train["loss"]
