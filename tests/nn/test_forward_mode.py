"""Forward-mode derivatives are finite differences, and the transpose of the reverse mode."""

from contextlib import nullcontext
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

from dks_jax.nn import BatchNorm, Conv, Functional, convolve, forms, forward_mode
from dks_jax.nn.convolution import WINOGRAD_CHANNELS, direct
from dks_jax.runtime.forms import FORMS
from support.comparison import any_weights
from support.networks import resnet, wide_resnet

pytestmark = pytest.mark.usefixtures("quick_compilation")

# The step of the finite differences; about rounding and curvature it is neutral in float64.
STEP = 1e-6


def assert_derivatives_agree(function, arguments, *, step=STEP):
    """`function` takes a pytree; its derivatives are taken along a direction of the size of the arguments."""
    random = np.random.default_rng(0)
    direction = jax.tree.map(lambda x: 0.1 * np.std(x) * random.standard_normal(x.shape), arguments)

    def at(shift):
        return apply(jax.tree.map(lambda x, d: x + shift * d, arguments, direction))

    apply = jax.jit(function)
    value, forward = jax.jit(lambda x, d: jax.jvp(function, (x,), (d,)))(arguments, direction)
    np.testing.assert_allclose(value, at(0.0), rtol=1e-12, atol=1e-12)
    difference = (at(step) - at(-step)) / (2 * step)
    assert np.linalg.norm(difference - forward) < 1e-6 * np.linalg.norm(forward)
    weights = random.standard_normal(forward.shape)
    backward = jax.jit(lambda x, w: jax.vjp(function, x)[1](w)[0])(arguments, weights)
    product = sum(np.vdot(b, d) for b, d in zip(*map(jax.tree.leaves, (backward, direction)), strict=True))
    assert product == pytest.approx(np.vdot(weights, forward), rel=1e-9)


def evaluation(network, images):
    """(function, arguments): the logits in evaluation mode, from (parameters, images)."""
    functional, (params, batch_stats) = Functional(network), any_weights(network, seed=1)
    return (lambda given: functional.eval(given[0], batch_stats, given[1])), (params, images)


def training(network, images):
    """The same in training mode, whose logits do not depend on the running statistics."""
    functional, (params, batch_stats) = Functional(network), any_weights(network, seed=1)
    key = jax.random.key(0)
    return (lambda given: functional.train(given[0], batch_stats, given[1], key)[0]), (params, images)


def pixels(size, batch=2):
    return np.random.default_rng(2).standard_normal((batch, size, size, 3))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["", *FORMS])
def test_a_wide_resnet_in_evaluation_mode_has_them_in_every_form(x64, form):
    with forms(form) if form else nullcontext():
        assert_derivatives_agree(*evaluation(wide_resnet(16, 1, 5), pixels(8)))


@pytest.mark.slow
def test_in_training_mode_it_has_them_within_the_context(x64):
    function, arguments = training(wide_resnet(16, 1, 5, dropout=0.3), pixels(8, batch=4))
    with forward_mode():
        assert_derivatives_agree(function, arguments, step=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["", *FORMS])
def test_so_does_a_resnet_18(x64, form):
    with forms(form) if form else nullcontext():
        assert_derivatives_agree(*evaluation(resnet(18, 5), pixels(64)))


@pytest.mark.slow
def test_so_does_a_resnet_18_in_training_mode(x64):
    function, arguments = training(resnet(18, 5), pixels(64, batch=8))
    with forward_mode():
        assert_derivatives_agree(function, arguments, step=1e-8)


def draw(*shape):
    return jnp.asarray(np.random.default_rng(len(shape)).standard_normal(shape))


@pytest.mark.parametrize(("size", "stride"), [(1, 2), (3, 1), (3, 2)])
@pytest.mark.parametrize("channels", [4, WINOGRAD_CHANNELS])
def test_a_jacobian_of_a_convolution_is_that_of_the_plain_one(x64, size, stride, channels):
    x, kernel = draw(1, 3, 3, channels), draw(size, size, channels, channels)

    def jacobian(function):
        return jax.jit(jax.jacfwd(lambda s: function(s * x, s**2 * kernel, stride=stride)))(jnp.float64(1.5))

    ours, plain = jacobian(partial(convolve, forward_mode=True)), jacobian(direct)
    np.testing.assert_allclose(ours, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_jacobian_of_a_depthwise_convolution_is_that_of_the_plain_one(x64, stride):
    x, kernel = draw(1, 4, 3, 4), draw(3, 3, 1, 4)

    def jacobian(function):
        at = jax.jacfwd(lambda s: function(s * x, s**2 * kernel, stride=stride, groups=4))
        return jax.jit(at)(jnp.float64(1.5))

    ours, plain = jacobian(partial(convolve, forward_mode=True)), jacobian(direct)
    np.testing.assert_allclose(ours, plain, rtol=1e-10, atol=1e-10)
    with forward_mode():
        np.testing.assert_array_equal(jacobian(convolve), ours)


def test_the_layers_learn_from_train_and_eval_whether_they_have_it():
    layer, x = Conv(3, 4, 3, rngs=nnx.Rngs(0)), jnp.ones((1, 4, 4, 3))
    layer.eval()
    value, tangent = jax.jvp(layer, (x,), (x,))
    np.testing.assert_allclose(tangent, value, rtol=1e-5)
    # An NNX network around it passes its mode on.
    network = nnx.Sequential(layer, nnx.relu, nnx.Conv(4, 2, (3, 3), rngs=nnx.Rngs(0)))
    network.train()
    assert not layer.deterministic
    network.eval()
    assert jax.linearize(network, x)[1](x).shape == (1, 4, 4, 2)


def test_the_context_changes_no_value_and_no_gradient_beyond_rounding(x64):
    norm, conv = BatchNorm(4, norm_groups=2, rngs=nnx.Rngs(0)), Conv(3, 4, 3, 2, rngs=nnx.Rngs(1))
    functional = Functional(nnx.Sequential(conv, norm))

    def outputs(params, x):
        y, batch_stats = functional.train(params, functional.batch_stats, x, jax.random.key(0))
        return jnp.sum(y**3), (y, batch_stats)

    gradient = jax.jit(jax.grad(outputs, argnums=(0, 1), has_aux=True))
    arguments = functional.params, draw(4, 6, 6, 3)
    own = gradient(*arguments)
    with forward_mode():
        plain = gradient(*arguments)
    for one, other in zip(jax.tree.leaves(own), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_a_program_of_every_platform_can_hold_them(platform):
    layer = Conv(WINOGRAD_CHANNELS, WINOGRAD_CHANNELS, 3, rngs=nnx.Rngs(0))
    layer.eval()
    images = jax.ShapeDtypeStruct((1, 8, 8, WINOGRAD_CHANNELS), jnp.float32)
    program = export.export(jax.jit(lambda x, t: jax.jvp(layer, (x,), (t,))), platforms=[platform])
    text = program(images, images).mlir_module()
    assert ("winograd" in text) == (platform == "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_with_groups_has_them_where_it_is_asked(x64, stride):
    random = np.random.default_rng(3)
    arguments = random.standard_normal((2, 7, 6, 8)), random.standard_normal((3, 3, 2, 12))
    assert_derivatives_agree(lambda given: convolve(*given, stride, 4, forward_mode=True), arguments)
