"""ConvNeXt: its initial values, its sizes, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dks_jax import InputError, models, train
from dks_jax.nn import get_arrays
from support.runs import CONFIGS, user_error
from support.tiny_convnexts import FAMILY, tiny_convnext, torchvision_convnext


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(models.NETWORKS, "tiny_convnext", FAMILY)


def test_it_starts_as_torchvision_has_it():
    """Kernels normal with a deviation of 0.02, biases 0, norms the identity, residuals scaled by 1e-6."""
    arrays = {name: np.asarray(array) for name, array in get_arrays(tiny_convnext()).items()}
    kinds = {"bias": 0, "scale": 1, "gamma": np.float32(1e-6)}
    for name, array in arrays.items():
        kind = name.rsplit(".", 1)[1]
        if kind == "kernel":
            # Five standard errors of the standard deviation of a normal sample.
            assert abs(array.std() / 0.02 - 1) < 5 / np.sqrt(2 * array.size), name
        else:
            assert np.all(array == kinds[kind]), name


def test_branches_are_ours_and_go_on_with_the_widths_of_the_backbone():
    early, late = models.resolve_branches({"name": "convnext_base"}, "published")
    assert tuple(early) == (1, (3, 1), (512, 1024))
    assert tuple(late) == (2, (2,), (1024,))
    network = tiny_convnext()
    network.eval()
    assert jax.eval_shape(network, jax.ShapeDtypeStruct((2, 33, 47, 3), jnp.float32)).shape == (3, 2, 7)


def test_stochastic_depth_is_that_of_torchvision():
    network = tiny_convnext(model={"drop_path": 0.4}, branches=())
    blocks = [block for stage in network.stages for block in stage.blocks]
    theirs = [m.p for m in torchvision_convnext(stochastic_depth_prob=0.4).modules() if hasattr(m, "p")]
    ours = [getattr(block.drop_path, "rate", 0.0) for block in blocks]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("size", [(31, 40), (40, 31), (3, 3)])
def test_images_that_are_smaller_than_the_patches_are_refused(size):
    network = tiny_convnext(branches=())
    network.eval()
    with pytest.raises(InputError, match=r"`data\.image_size`.*32"):
        jax.eval_shape(network, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))


def test_a_branch_that_goes_on_after_the_last_stage_takes_larger_images():
    network = tiny_convnext(branches=((3, (1,), (12,)),))
    network.eval()
    for size, works in ((64, True), (63, False)):
        images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        if works:
            assert jax.eval_shape(network, images).shape == (2, 1, 7)
        else:
            with pytest.raises(InputError, match="64"):
                jax.eval_shape(network, images)


def test_a_training_with_too_small_images_ends_in_one_sentence_and_leaves_nothing(
    image_folder, tmp_path, capsys
):
    workdir = tmp_path / "run"
    command = [f"--config={CONFIGS / 'finetune_folder.py'}", f"--workdir={workdir}"]
    command += ["--config.model.name=tiny_convnext", f"--config.data.root={image_folder}"]
    assert train.main([*command, "--config.data.batch_size=4", "--config.data.image_size=31"]) == 2
    assert "`data.image_size`" in user_error(capsys, alone=True)
    assert not workdir.exists()
