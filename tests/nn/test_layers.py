"""Layers between convolutions and heads, against PyTorch's."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from dks_jax.nn import Conv, Dense, LayerNorm, LayerScale, Linear, Patches, get_arrays, set_arrays
from dks_jax.nn.initialisation import truncated_normal

LAYERS = {
    "patches": (lambda rngs: Patches(6, 5, 2, rngs=rngs), lambda: torch.nn.Conv2d(6, 5, 2, stride=2)),
    "depthwise": (
        lambda rngs: Conv(6, 6, 7, groups=6, bias=True, rngs=rngs),
        lambda: torch.nn.Conv2d(6, 6, 7, padding=3, groups=6),
    ),
    "layer norm": (lambda rngs: LayerNorm(6, rngs=rngs), lambda: torch.nn.LayerNorm(6, eps=1e-6)),
    "dense": (lambda rngs: Dense(6, 5, rngs=rngs), lambda: torch.nn.Linear(6, 5)),
}
TRANSPOSED = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}


def random_arrays(module: nnx.Module) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=array.shape) for name, array in get_arrays(module).items()}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_what_torch_does(x64, name):
    ours, theirs = LAYERS[name][0](nnx.Rngs(0)), LAYERS[name][1]().double()
    arrays = random_arrays(ours)
    set_arrays(ours, {kind: jnp.asarray(array) for kind, array in arrays.items()})
    weight = arrays.get("kernel", arrays.get("scale"))
    state = {"weight": weight.transpose(TRANSPOSED[weight.ndim]), "bias": arrays["bias"]}
    theirs.load_state_dict({kind: torch.tensor(array) for kind, array in state.items()})
    # The last row and column of 7x5 pixels fill no patch.
    x = np.random.default_rng(1).normal(size=(2, 7, 5, 6))
    planes = isinstance(theirs, torch.nn.Conv2d)
    given = torch.tensor(x.transpose(0, 3, 1, 2) if planes else x)
    expected = theirs(given).detach().numpy()
    expected = expected.transpose(0, 2, 3, 1) if planes else expected
    np.testing.assert_allclose(ours(jnp.asarray(x)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_has_the_type_of_its_input(name):
    layer = LAYERS[name][0](nnx.Rngs(0))
    assert layer(jnp.ones((1, 8, 8, 6), jnp.bfloat16)).dtype == jnp.bfloat16
    assert layer(jnp.ones((1, 8, 8, 6))).dtype == jnp.float32


def test_logits_are_not_narrower_than_float32():
    assert Linear(6, 5, rngs=nnx.Rngs(0))(jnp.ones((1, 6), jnp.bfloat16)).dtype == jnp.float32


def test_a_layer_scale_multiplies_each_channel():
    scale = LayerScale(3, 1e-6)
    np.testing.assert_array_equal(scale(jnp.ones((2, 3))), np.full((2, 3), 1e-6, np.float32))
    set_arrays(scale, {"gamma": jnp.arange(3.0)})
    np.testing.assert_array_equal(scale(jnp.ones((2, 3))), [[0, 1, 2], [0, 1, 2]])


def test_truncated_values_are_normal_within_their_bounds():
    drawn = np.asarray(truncated_normal(0.02)(nnx.Rngs(0), (300, 300)))
    assert abs(drawn.std() / 0.02 - 1) < 5 / np.sqrt(2 * drawn.size)
    wide = np.asarray(truncated_normal(1.0)(nnx.Rngs(0), (300, 300)))
    # 4.55 % are beyond two deviations and drawn again, which leaves a deviation of 0.8796.
    assert np.abs(wide).max() <= 2
    assert abs(wide.std() / 0.8796 - 1) < 5 / np.sqrt(2 * wide.size)
