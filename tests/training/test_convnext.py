"""ConvNeXt against torchvision's own, in float64, and its training runs."""

import signal

import jax
import numpy as np
import pytest
import torch

from dks_jax import models, train
from dks_jax.nn import Functional, forms
from dks_jax.weights.torch_names import to_torch
from support import torch_reference as reference
from support.comparison import any_weights, assert_agree
from support.runs import DIGITS, SMALL, assert_same_end, records, signal_after
from support.tiny_convnexts import FAMILY, NUM_CLASSES, SIZE, tiny_convnext, torchvision_convnext


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(models.NETWORKS, "tiny_convnext", FAMILY)


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
