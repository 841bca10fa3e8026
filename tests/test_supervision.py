"""DeeplySupervised around small modules and around the wide ResNet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dks_jax import Branch, DeeplySupervised, InputError
from dks_jax.nn.functional import Functional, get_params, set_arrays
from dks_jax.supervision import backbone_only, distances_from_head
from support.networks import wide_resnet


class Scale(nnx.Module):
    """Multiplies by a number, so that an output tells the way that was taken."""

    def __init__(self, factor: float):
        self.factor = nnx.Param(jnp.array(factor))

    def __call__(self, x):
        return self.factor[...] * x


def marked_network():
    """Stem 2, stages 3, 5, 7, head 11; branch 1 after stage 0: 13, head 17; branch 2 after 1: head 19."""
    branches = [Branch(0, [Scale(13)], Scale(17)), Branch(1, [], Scale(19))]
    return DeeplySupervised(Scale(2), [Scale(3), Scale(5), Scale(7)], Scale(11), branches)


def test_logits_come_in_depth_order_with_the_main_classifier_last():
    network = marked_network()
    logits = network(jnp.ones((4, 1)))
    assert network.names == ("branch1", "branch2", "main")
    assert logits.shape == (3, 4, 1)
    assert logits[:, 0, 0].tolist() == [2 * 3 * 13 * 17, 2 * 3 * 5 * 19, 2 * 3 * 5 * 7 * 11]
    # Several branches may fork after one stage.
    branches = [Branch(0, [], Scale(2)), Branch(0, [], Scale(3))]
    network = DeeplySupervised(Scale(1), [Scale(1)], Scale(1), branches)
    assert network(jnp.ones((1, 1)))[:, 0, 0].tolist() == [2, 3, 1]


def test_the_distance_from_the_head_counts_stages_and_that_of_a_branch_those_beside_it():
    # Branch 1 is as deep as the backbone; branch 2 forks after its last stage and has two more.
    branches = [Branch(0, [Scale(1), Scale(1)], Scale(1)), Branch(2, [Scale(1), Scale(1)], Scale(1))]
    network = DeeplySupervised(Scale(1), [Scale(1), Scale(1), Scale(1)], Scale(1), branches)
    assert distances_from_head(network, get_params(network)) == {
        "stem.factor": 4,
        "stages.0.factor": 3,
        "stages.1.factor": 2,
        "stages.2.factor": 1,
        "head.factor": 0,
        "branches.0.stages.0.factor": 2,
        "branches.0.stages.1.factor": 1,
        "branches.0.head.factor": 0,
        "branches.1.stages.0.factor": 1,
        "branches.1.stages.1.factor": 1,
        "branches.1.head.factor": 0,
    }


@pytest.mark.parametrize("after", [-1, 1])
def test_a_branch_after_no_stage_is_refused(after):
    with pytest.raises(InputError, match=rf"`after` .*{after}"):
        DeeplySupervised(Scale(1), [Scale(1)], Scale(1), [Branch(after, [], Scale(1))])


def test_branches_out_of_depth_order_are_refused():
    branches = [Branch(1, [], Scale(1)), Branch(0, [], Scale(1))]
    with pytest.raises(InputError, match=r"\[1, 0\]"):
        DeeplySupervised(Scale(1), [Scale(1), Scale(1)], Scale(1), branches)


@pytest.fixture(scope="module")
def small_wrn():
    return wide_resnet(16, 1, 10, seed=0)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)


def test_a_classifier_alone_takes_its_own_way_and_shares_the_modules_on_it():
    network, images = marked_network(), jnp.ones((4, 1))
    for index, name in enumerate(network.names):
        alone = network.classifier(name)
        assert alone.names == ("main",)
        np.testing.assert_array_equal(alone(images), network(images)[index : index + 1])
    assert len(network.classifier("branch2").stages) == 2
    network.branches[0].head.factor.set_value(jnp.array(0.0))
    assert network.classifier("branch1")(images).max() == 0


def test_a_classifier_that_is_not_there_is_refused():
    with pytest.raises(InputError, match=r"branch1, branch2, main.*'branch3'"):
        marked_network().classifier("branch3")


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_dropping_the_branches_leaves_the_main_logits_bit_identical(small_wrn, images, mode):
    network = nnx.clone(small_wrn)
    getattr(network, mode)()
    backbone = nnx.clone(network).drop_branches()
    assert backbone.names == ("main",)
    np.testing.assert_array_equal(backbone(images), network(images)[-1:])


def test_the_backbone_starts_from_the_same_weights_with_and_without_branches(small_wrn):
    full, backbone = Functional(small_wrn), Functional(small_wrn.drop_branches())
    assert backbone_only(full.batch_stats).keys() == backbone.batch_stats.keys()
    without = Functional(wide_resnet(16, 1, 10, branches=(), seed=0)).params
    assert len(without) < len(full.params)
    for arrays in (backbone_only(full.params), backbone.params):
        assert arrays.keys() == without.keys()
        for name, value in without.items():
            np.testing.assert_array_equal(arrays[name], value)


@pytest.mark.parametrize("size", [(32, 32), (8, 8), (20, 12), (1, 1)])
def test_images_of_any_size(small_wrn, size):
    logits = jax.eval_shape(small_wrn, jax.ShapeDtypeStruct((2, *size, 3), jnp.float32))
    assert logits.shape == (3, 2, 10)


def test_convolutions_run_in_the_type_of_the_images(small_wrn, images):
    functional = Functional(nnx.clone(small_wrn))
    program = jax.make_jaxpr(functional.eval)(
        functional.params, functional.batch_stats, jnp.asarray(images, jnp.bfloat16)
    )
    convolutions = [e for e in equations(program.jaxpr) if e.primitive.name == "conv_general_dilated"]
    assert len(convolutions) == 28  # stem 1, backbone 12 + 2 shortcuts, branches 6 + 2 and 4 + 1
    assert {e.outvars[0].aval.dtype for e in convolutions} == {jnp.dtype("bfloat16")}
    assert program.out_avals[0].dtype == jnp.float32


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                yield from equations(value.jaxpr)


def test_set_arrays_restores_a_network(small_wrn, images):
    source, target = nnx.clone(small_wrn), wide_resnet(16, 1, 10, seed=1)
    functional = Functional(source)
    set_arrays(target, functional.params | functional.batch_stats)
    source.eval()
    target.eval()
    np.testing.assert_array_equal(source(images), target(images))


def test_set_arrays_lists_what_does_not_fit(small_wrn):
    functional = Functional(nnx.clone(small_wrn))
    arrays = functional.params | functional.batch_stats
    arrays["extra"] = arrays.pop("head.fc.bias")
    arrays["head.bn.scale"] = jnp.zeros(3)
    with pytest.raises(InputError) as error:
        set_arrays(nnx.clone(small_wrn), arrays)
    for name in ("head.fc.bias", "extra", "head.bn.scale"):
        assert name in str(error.value)
