"""Vision transformers against torchvision's own, in float64, and their training runs."""

import signal

import jax
import numpy as np
import pytest
import torch

from dks_jax import models, train
from dks_jax.nn.functional import Functional
from dks_jax.weights.torch_names import to_torch
from support import torch_reference as reference
from support.comparison import any_weights, assert_agree
from support.runs import CONFIGS, assert_falling, assert_same_end, losses, signal_after
from support.tiny_vits import NUM_CLASSES, SIZE, families, tiny_vit, torchvision_vit


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    for name, family in families().items():
        monkeypatch.setitem(models.NETWORKS, name, family)


def test_logits_and_gradients_are_those_of_torchvision(x64, quick_compilation):
    network = tiny_vit(branches=(), seed=2)
    functional = Functional(network)
    params, _ = any_weights(network, seed=1)
    rng = np.random.default_rng(3)
    images, weights = rng.normal(size=(3, SIZE, SIZE, 3)), rng.normal(size=(3, NUM_CLASSES))

    def weighted(params):
        logits, _ = functional.train(params, {}, images, jax.random.key(0))
        return (logits[0] * weights).sum(), logits[0]

    def named(arrays):
        return to_torch(models.get_family("tiny_vit").torch[0], arrays)

    gradients, logits = jax.jit(jax.grad(weighted, has_aux=True))(params)
    theirs = torchvision_vit().double().train()
    reference.load_arrays(theirs, named(params))
    expected = theirs(torch.tensor(images).permute(0, 3, 1, 2))
    (expected * torch.tensor(weights)).sum().backward()
    assert_agree({"logits": np.asarray(logits)}, {"logits": expected.detach().numpy()}, 1e-10)
    own = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    assert_agree(named(gradients), own, 1e-10)


ON_DIGITS = {
    "model.name": "tiny_vit",
    "model.image_size": 8,
    "model.drop_path": 0.2,
    "data.source": "digits",
    "data.root": "",
    "data.image_size": 8,
    "data.preprocessing": "squash",
    "data.streamed": False,
    "data.random_resized_crop": False,
    "data.train_per_class": 10,
    "data.test_per_class": 2,
    "data.batch_size": 50,
    "epochs": 3,
    "checkpoint_every_epochs": 1,
}


def run(workdir, *more):
    """Three epochs of two steps, by the config to fine-tune with."""
    flags = [*(f"--config.{name}={value}" for name, value in ON_DIGITS.items()), *more]
    return train.main([f"--config={CONFIGS / 'finetune_folder.py'}", *flags, f"--workdir={workdir}"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags", [[], ["--config.remat=True", "--config.precision=bfloat16"]], ids=["plain", "remat, bfloat16"]
)
def test_a_run_learns_and_one_that_was_stopped_ends_as_the_unbroken_one(
    flags, tmp_path, quick_compilation, monkeypatch
):
    assert run(tmp_path / "unbroken", *flags) == 0
    assert_falling(losses(tmp_path / "unbroken"))
    with monkeypatch.context() as patch:
        signal_after(patch, "train", 3, signal.SIGTERM)
        assert run(tmp_path / "stopped", *flags) == 143
    assert run(tmp_path / "stopped", *flags) == 0
    assert_same_end(tmp_path / "stopped", tmp_path / "unbroken")
