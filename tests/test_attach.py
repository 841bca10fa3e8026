"""Branches on networks that were not made for them: what they compute and train, and what is refused."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dks_jax import InputError, all_pairs, attach, data, objective
from dks_jax.models import load_config
from dks_jax.nn import get_arrays, get_params, set_arrays
from dks_jax.nn.calls import record_calls
from dks_jax.runtime.devices import Devices
from dks_jax.supervision import distances_from_head
from dks_jax.training import build_steps
from support import foreign_networks
from support.foreign_networks import NETWORKS, attached, steps_of, train_epoch
from support.runs import FOUR_DEVICES, ROOT
from support.tiny_steps import NUM_CLASSES

pytestmark = pytest.mark.usefixtures("quick_compilation")
# The others take a while to compile.
SOME = [pytest.param(name, marks=() if name == "sequential" else pytest.mark.slow) for name in NETWORKS]
IMAGES = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32)


def names_of(module):
    """The names of the variables of a module by their identity."""
    return {
        id(node): ".".join(map(str, path))
        for path, node in nnx.iter_graph(module)
        if isinstance(node, nnx.Variable)
    }


def in_training(module, images, labels):
    """(loss, gradients, statistics) by the identities of the variables of a module."""
    module.train()
    graph, params, rest = nnx.split(module, nnx.Param, ...)

    @jax.jit
    def step(params, rest):
        def loss(params):
            module = nnx.merge(graph, params, jax.tree.map(jnp.asarray, rest))
            total, _ = objective(module(images), labels, all_pairs(len(module.names)))
            return total, nnx.state(module, nnx.BatchStat)

        (total, stats), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return total, gradients, stats

    total, *arrays = step(params, rest)
    names = {name: identity for identity, name in names_of(module).items()}
    return total, {
        (names[".".join(map(str, path))], kind): np.asarray(value[...])
        for kind, state in enumerate(arrays)
        for path, value in nnx.to_flat_state(state)
    }


@pytest.mark.parametrize("name", SOME)
def test_loss_and_gradients_are_those_of_the_network_written_as_stages(name, x64):
    network, branches, whole = NETWORKS[name](4, NUM_CLASSES, 3, nnx.Rngs(0))
    ours = attach(network, branches, IMAGES)
    for module in (ours, whole):
        nnx.update(
            module, jax.tree.map(lambda x: x.astype(jnp.float64), nnx.state(module, nnx.Not(nnx.RngState)))
        )
    random = np.random.default_rng(0)
    images, labels = random.normal(size=(4, 8, 8, 3)), random.integers(0, NUM_CLASSES, 4)
    (loss, arrays), (expected_loss, expected) = (in_training(m, images, labels) for m in (ours, whole))
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-12)
    assert arrays.keys() == expected.keys()
    assert loss.dtype == np.float64
    for key, value in expected.items():
        np.testing.assert_allclose(arrays[key], value, rtol=1e-12, atol=1e-12, err_msg=names_of(ours)[key[0]])
    assert ours.names == whole.names


def bits(network):
    """The bytes of all arrays of a network, random state included, by name."""

    def data(x):
        return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    state = nnx.to_flat_state(nnx.state(network))
    return {path: np.asarray(data(variable[...])).tobytes() for path, variable in state}


@pytest.mark.parametrize("name", SOME)
def test_the_network_comes_back_as_it_was(name):
    network, branches, _ = NETWORKS[name](4, NUM_CLASSES, 3, nnx.Rngs(0))
    graph, before = nnx.graphdef(network), bits(network)
    ours = attach(network, branches, IMAGES)
    assert nnx.graphdef(network) == graph
    ours.eval()
    graph, images = nnx.graphdef(network), jnp.ones(IMAGES.shape)
    call = nnx.jit(lambda module, images: module(images))
    logits = call(ours, images)
    assert ours.drop_branches() is network
    assert (nnx.graphdef(network), bits(network)) == (graph, before)
    np.testing.assert_array_equal(logits[-1], call(network, images))


def test_it_trains_by_the_steps_of_the_library_and_is_dropped_afterwards():
    ours = attached("sequential", 4)
    steps = steps_of(ours)
    before, state = steps.initial_state(), steps.initial_state()
    for chunk in steps.train_feed.chunks(0):
        state, history = steps.train(state, chunk)
    assert {"errors/branch1", "errors/main", "kl/main->branch1"} <= history.keys()
    for now, then in ((state.params, before.params), (state.batch_stats, before.batch_stats)):
        assert [name for name in now if np.array_equal(now[name], then[name])] == []
    set_arrays(ours, state.params | state.batch_stats)
    deployed, images = ours.drop_branches(), jnp.ones(IMAGES.shape)
    ours.eval()
    np.testing.assert_array_equal(deployed(images), ours(images)[-1])
    np.testing.assert_array_equal(
        get_arrays(deployed)["layers.10.kernel"], state.params["network.layers.10.kernel"]
    )
    assert "branches.layers.4.layers.1.layers.1.kernel" in state.params


def same(x):
    return x


class Odd(nnx.Module):
    """Submodules that are called as no branch can use."""

    def __init__(self, rngs):
        self.stack = nnx.vmap(lambda key: nnx.Linear(8, 8, rngs=nnx.Rngs(key)))(
            jax.random.split(jax.random.key(0), 2)
        )
        self.mapped, self.recomputed, self.twice, self.unused, self.once = (
            nnx.Linear(8, 8, rngs=rngs) for _ in range(5)
        )
        self.pair = foreign_networks.Part(lambda x: (x, x))
        self.others = nnx.List([self.once])
        self.note = same

    def __call__(self, x):
        x = nnx.scan(lambda x, layer: layer(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.stack)
        x = jax.vmap(self.mapped)(x)
        x = nnx.remat(lambda layer, x: layer(x))(self.recomputed, x)
        x, _ = self.pair(self.twice(self.twice(x)))
        return self.once(x)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("stack", "nnx.scan"),
        ("mapped", "nnx.vmap"),
        ("recomputed", "nnx.remat"),
        ("twice", "2 calls"),
        ("unused", "0 calls"),
        ("pair", "tuple"),
        ("onse", r"'onse'.*once"),
        ("note", r"'note'"),
        ("others", r"'others'"),
        ("others.1", r"others\.1"),
        ("", "''"),
    ],
)
def test_a_submodule_that_feeds_no_branch_is_refused(name, says):
    network, images = Odd(nnx.Rngs(0)), jnp.ones((2, 8))
    classes = [type(module) for _, module in nnx.iter_modules(network)]
    with pytest.raises(InputError, match=says):
        attach(network, {name: same}, images)
    with pytest.raises(InputError, match=says):
        attach(network, {name: same})(images)
    assert [type(module) for _, module in nnx.iter_modules(network)] == classes


def test_a_name_that_is_not_there_is_answered_with_the_nearest_and_the_shapes_that_were_seen():
    network, _, _ = NETWORKS["resnet"](4, NUM_CLASSES, 3, nnx.Rngs(0))
    with pytest.raises(InputError) as error:
        attach(network, {"layer3": same}, IMAGES)
    for part in ("'layer3'", "`layer2` (float32[4,4,4,8])", "`layer1` (float32[4,8,8,4])"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("network", "branches", "says"),
    [
        (lambda x: x, {}, "`network`"),
        (nnx.Linear(8, 8, rngs=nnx.Rngs(0)), [same], "`branches`"),
        (nnx.Linear(8, 8, rngs=nnx.Rngs(0)), {"kernel": None}, "`branches`"),
        (foreign_networks.Part(lambda x: x[None]), {}, r"\[1,2,8\]"),
        (foreign_networks.Part(lambda x: x[:1]), {}, r"\[1,8\]"),
        (foreign_networks.Part(lambda x: (x, x)), {}, "tuple"),
        (nnx.Sequential(nnx.Linear(8, 8, rngs=nnx.Rngs(0))), {"layers.0": lambda x: x[:, :3]}, r"\[2,3\]"),
    ],
)
def test_what_gives_no_logits_is_refused(network, branches, says):
    with pytest.raises(InputError, match=says):
        attach(network, branches, jnp.ones((2, 8)))


def test_a_shared_submodule_is_known_by_all_of_its_paths_and_may_have_several_branches():
    network = Odd(nnx.Rngs(0))
    logits = attach(network, {"once": lambda x: 2 * x, "others.0": lambda x: 3 * x})(jnp.ones((2, 8)))
    np.testing.assert_allclose(logits[:2], jnp.stack([2 * logits[2], 3 * logits[2]]), rtol=1e-6)


def test_recordings_nest_and_an_error_ends_them():
    layer, x = nnx.Linear(2, 2, rngs=nnx.Rngs(0)), jnp.ones(2)
    with record_calls([layer]) as outer:
        with record_calls([layer, layer]) as inner:
            layer(x)
        with pytest.raises(TypeError), record_calls([layer]):
            layer()
        layer(x)
    layer(x)
    assert (len(outer), len(inner), type(layer)) == (2, 1, nnx.Linear)


def test_decay_by_layers_needs_stages():
    ours = attached("sequential", 4)
    with pytest.raises(InputError, match="layer_decay"):
        distances_from_head(ours, get_params(ours))


@pytest.mark.parametrize("by_config", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_branches_are_detached_by_a_config_or_as_they_are_attached(by_config, own):
    rngs = nnx.Rngs(0)
    flat = lambda x: x.reshape(len(x), -1)  # noqa: E731
    network = nnx.Sequential(flat, *(nnx.Linear(i, NUM_CLASSES, rngs=rngs) for i in (192, NUM_CLASSES)))
    ours = attach(network, {"layers.1": nnx.Linear(NUM_CLASSES, NUM_CLASSES, rngs=rngs)}, detach=own)
    config = load_config(str(ROOT / "configs" / "digits_wrn.py"), {"synergy.detach": str(by_config)})
    build_steps(config, ours, steps_of(ours).train_feed, devices=Devices(1))

    def loss(module):
        return jnp.sum(module(jnp.ones((2, 8, 8, 3)))[0] ** 2)

    gradients = nnx.to_flat_state(nnx.grad(loss)(ours))
    reached = {path[0] for path, gradient in gradients if np.asarray(gradient[...]).any()}
    assert reached == ({"branches"} if by_config or own else {"network", "branches"})


@pytest.mark.slow
def test_four_devices_agree_with_one(tmp_path, x64):
    file = tmp_path / "arrays.npz"
    script = ROOT / "tests" / "support" / "foreign_networks.py"
    subprocess.run([sys.executable, str(script), str(file)], env=os.environ | FOUR_DEVICES, check=True)
    ours, found = train_epoch(attached("resnet")), np.load(file)
    assert set(found) == ours.keys()
    for name, value in ours.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-11, err_msg=name)


# A transformer is trained by the optimizer that is usual for it.
RECIPES = {
    "resnet": {"epochs": "8"},
    "sequential": {"epochs": "8"},
    "vit": {
        "epochs": "12",
        "data.batch_size": "32",
        "optimizer.name": "adamw",
        "optimizer.learning_rate": "0.003",
        "optimizer.weight_decay": "0.05",
        "optimizer.warmup_epochs": "1.0",
        "synergy.teaches": "((0,1),(1,0))",
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_it_learns_the_digits_in_a_few_epochs(name):
    fields = {"data.padding": "0"} | RECIPES[name]
    config, devices = load_config(str(ROOT / "configs" / "digits_wrn.py"), fields), Devices()
    images = data.load(config.data)
    feeds = data.make_feeds(config.data, images, seed=0, norm_groups=1, dtype=jnp.float32, devices=devices)
    network, branches, _ = NETWORKS[name](32 if name == "vit" else 16, 10, 1, nnx.Rngs(0))
    steps, _ = build_steps(config, attach(network, branches), *feeds, devices=devices)
    state = steps.initial_state()
    for epoch in range(config.epochs):
        for chunk in steps.train_feed.chunks(epoch):
            state, _ = steps.train(state, chunk)
    measured = [steps.evaluate(state, chunk) for chunk in steps.test_feed.chunks(0)]
    wrong, total = (sum(h[key].sum() for h in measured) for key in ("errors/main", "examples"))
    print(f"{name}: {100 * wrong / total:.2f} % of {total:.0f} digits wrong")
    assert wrong / total < 0.05
