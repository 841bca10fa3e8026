"""ConvNeXt against torchvision's own, in float64, and its training runs."""

import signal

import jax
import numpy as np
import pytest
import torch

from dks_jax import models, train
from dks_jax.nn import Functional, forms
from dks_jax.training.experiment import prepare
from dks_jax.weights.torch_names import to_torch
from support import torch_reference as reference
from support.comparison import any_weights, assert_agree
from support.runs import CONFIGS, assert_falling, assert_same_end, losses, signal_after
from support.tiny_convnexts import FAMILY, NUM_CLASSES, SIZE, tiny_convnext, torchvision_convnext


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(models.NETWORKS, "tiny_convnext", FAMILY)


@pytest.mark.slow
def test_logits_and_gradients_are_those_of_torchvision(x64, quick_compilation):
    network = tiny_convnext(branches=(), seed=2)
    functional = Functional(network)
    params, _ = any_weights(network, seed=1)
    rng = np.random.default_rng(3)
    images, weights = rng.normal(size=(3, SIZE, SIZE + 5, 3)), rng.normal(size=(3, NUM_CLASSES))

    def weighted(params):
        logits, _ = functional.train(params, {}, images, jax.random.key(0))
        return (logits[0] * weights).sum(), logits[0]

    def named(arrays):
        return to_torch(FAMILY.torch[0], arrays)

    # XLA's own depthwise convolutions, of which a program for a CPU otherwise has none, are quick to compile.
    with forms("accelerator"):
        gradients, logits = jax.jit(jax.grad(weighted, has_aux=True))(params)
    theirs = torchvision_convnext().double().train()
    reference.load_arrays(theirs, named(params))
    expected = theirs(torch.tensor(images).permute(0, 3, 1, 2))
    (expected * torch.tensor(weights)).sum().backward()
    assert_agree({"logits": np.asarray(logits)}, {"logits": expected.detach().numpy()}, 1e-10)
    own = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    assert_agree(named(gradients), own, 1e-10)


def test_on_many_devices_nothing_is_said_of_batch_normalisation(image_folder, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    fields = {"model.name": "tiny_convnext", "data.root": str(image_folder), "data.batch_size": "4"}
    config = models.load_config("images", fields | {"data.image_size": "32"})
    assert "batch normalisation" not in "".join(prepare(config, resumed=False).description)


def run(workdir, images, *fields):
    """Six epochs of two steps; fields of the config without its prefix."""
    model = ["name=tiny_convnext", "drop_path=0.2"]
    data = [f"root={images}", "image_size=32", "batch_size=2", "random_resized_crop=False", "flip=False"]
    optimizer = ["name=adamw", "learning_rate=1e-2", "warmup_epochs=0.0", "layer_decay=0.8"]
    given = [f"model.{field}" for field in model] + [f"data.{field}" for field in data]
    given += [f"optimizer.{field}" for field in (*optimizer, "decay_norm_and_bias=False")]
    flags = [f"--config.{field}" for field in (*given, "epochs=6", *fields)]
    return train.main([f"--config={CONFIGS / 'images.py'}", *flags, f"--workdir={workdir}"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields", [[], ["remat=True", "precision=bfloat16"]], ids=["plain", "remat, bfloat16"]
)
def test_a_run_learns_and_one_that_was_stopped_ends_as_the_unbroken_one(
    fields, image_folder, tmp_path, quick_compilation, monkeypatch
):
    assert run(tmp_path / "unbroken", image_folder, *fields) == 0
    assert_falling(losses(tmp_path / "unbroken"))
    with monkeypatch.context() as patch:
        signal_after(patch, "train", 3, signal.SIGTERM)
        assert run(tmp_path / "stopped", image_folder, *fields) == 143
    assert run(tmp_path / "stopped", image_folder, *fields) == 0
    assert_same_end(tmp_path / "stopped", tmp_path / "unbroken")
