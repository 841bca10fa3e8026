"""Vision transformers: what they refuse, their initial values, stochastic depth and weight decay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dks_jax import InputError, models, train
from dks_jax.models.regularisation import identity
from dks_jax.models.vit import Block
from dks_jax.nn import get_arrays
from dks_jax.supervision import distances_from_head
from dks_jax.training.optimizers import adamw
from support.runs import CONFIGS, user_error
from support.tiny_vits import NUM_CLASSES, RECIPE, SIZE, families, tiny_vit

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    for name, family in families().items():
        monkeypatch.setitem(models.NETWORKS, name, family)


def shape_of(network, size=SIZE, batch=2):
    network.eval()
    return jax.eval_shape(network, jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)).shape


def test_a_size_that_the_patches_do_not_divide_is_refused(capsys, tmp_path):
    config = f"--config={CONFIGS / 'finetune_folder.py'}"
    flags = ["--config.model.name=vit_s_16", "--config.model.image_size=100"]
    assert train.main([config, *flags, f"--workdir={tmp_path / 'run'}"]) == 2
    assert "`model.image_size`" in user_error(capsys, alone=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("size", [12, 20])
def test_images_of_another_size_are_refused(size):
    with pytest.raises(InputError, match=r"`data\.image_size`.*`model\.image_size`"):
        shape_of(tiny_vit(branches=()), size)


@pytest.mark.parametrize("width", [64, 256])
def test_a_branch_of_another_width_is_refused(width):
    with pytest.raises(InputError, match=r"`widths`.*128"):
        tiny_vit(branches=((1, (1,), (width,)),))


def test_branches_are_blocks_and_a_head_after_any_stage():
    network = tiny_vit()
    assert [(branch.after, len(branch.stages[0].blocks)) for branch in network.branches] == [(1, 2), (2, 2)]
    assert shape_of(network) == (3, 2, NUM_CLASSES)
    assert shape_of(network.classifier("branch1")) == (1, 2, NUM_CLASSES)
    assert shape_of(tiny_vit(branches=((0, (), ()), (2, (1,), (RECIPE.width,))))) == (3, 2, NUM_CLASSES)
    with pytest.raises(InputError, match="`after`"):
        tiny_vit(branches=((3, (), ()),))


def test_it_starts_as_deit_does():
    """Kernels, class token and positions truncated normal, norms the identity, biases zero."""
    arrays = {name: np.asarray(array) for name, array in get_arrays(tiny_vit(num_classes=100)).items()}
    # A stem of four, seven blocks of two norms and four linear layers, and three heads.
    assert len(arrays) == 4 + 7 * 12 + 3 * 4
    for name, array in arrays.items():
        kind = name.rsplit(".", 1)[1]
        if kind in ("kernel", "class_token", "positions"):
            # Five standard errors of the standard deviation of a normal sample.
            assert abs(array.std() / 0.02 - 1) < 5 / np.sqrt(2 * array.size), name
        else:
            assert np.all(array == (1 if kind == "scale" else 0)), name


def test_stochastic_depth_rises_from_zero_and_both_residuals_of_a_block_draw_on_their_own():
    network = tiny_vit(model={"drop_path": 0.6})
    blocks = [stage.blocks[0] for stage in network.stages]
    assert blocks[0].drop_path is identity
    np.testing.assert_allclose([block.drop_path.rate for block in blocks[1:]], [0.3, 0.6])
    rates = [[block.drop_path.rate for block in branch.stages[0].blocks] for branch in network.branches]
    np.testing.assert_allclose(rates, [[0.45, 0.6], [0.6, 0.6]])
    # Residuals of ones, which the rate of 0.6 divides by 0.4.
    block = blocks[-1]
    for last in (block.attention.proj, block.mlp.fc2):
        last.kernel[...], last.bias[...] = jnp.zeros(last.kernel.shape), jnp.ones(last.bias.shape)
    tokens = np.zeros((64, 2, RECIPE.width), np.float32)
    found = np.unique(np.round(nnx.jit(Block.__call__)(block, tokens) * 0.4, 3))
    np.testing.assert_array_equal(found, [0, 1, 2])


def test_what_does_not_decay_and_how_far_from_the_head_it_is():
    network = tiny_vit()
    arrays = {name: array for name, array in get_arrays(network).items() if name.startswith(("stem", "head"))}
    params = {name: np.ones(array.shape, np.float32) for name, array in arrays.items()}
    optimizer = adamw(lambda step: 0.1, weight_decay=0.5, decay_norm_and_bias=False)

    def decay(params):
        return optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)[0]

    for name, update in jax.jit(decay)(params).items():
        np.testing.assert_allclose(update, -0.05 if name.endswith(".kernel") else 0, err_msg=name)
    distances = distances_from_head(network, params)
    assert {distances[f"stem.{name}"] for name in ("class_token", "positions", "patches.kernel")} == {4}
    assert distances["head.norm.scale"] == 0
