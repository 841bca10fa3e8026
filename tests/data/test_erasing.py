"""Random erasing and cutout against torchvision's erase, NumPy and the statistics of torchvision's draws."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dks_jax.config import flatten
from dks_jax.data import ImageData, Split, make_feeds
from dks_jax.data.erasing import cutout, erase, random_erasing
from dks_jax.models import load_config
from dks_jax.runtime.devices import Devices
from support.real_torchvision import transforms
from support.runs import CONFIGS

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(6, 9, 7, 3)), jnp.float32)


def keys(count: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), count)


@partial(jax.jit, static_argnums=(1, 2))
def erased(keys: jax.Array, augmentation, shape: tuple[int, int]) -> jax.Array:
    """Which pixels are set to zero, bool [key, height, width]."""
    return augmentation(keys, jnp.ones((len(keys), *shape, 1)))[..., 0] == 0


def boxes_of(masks: jax.Array) -> np.ndarray:
    """Top, left, height and width of the erased pixels, which are shown to be rectangles."""
    found = []
    for mask in np.asarray(masks):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert mask.sum() == len(rows) * len(columns)
        assert len(rows) == 0 or (np.ptp(rows), np.ptp(columns)) == (len(rows) - 1, len(columns) - 1)
        found.append((rows[0], columns[0], len(rows), len(columns)) if len(rows) else (0, 0, 0, 0))
    return np.array(found)


def test_a_box_is_erased_as_torchvision_erases_it():
    boxes = np.array([(0, 0, 3, 2), (6, 5, 3, 2), (2, 1, 1, 5), (4, 4, 5, 3), (0, 0, 0, 0), (0, 0, 9, 7)])
    ours = erase(IMAGES, jnp.asarray(boxes))
    for image, box, result in zip(IMAGES, boxes, ours, strict=True):
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        theirs = transforms.functional.erase(tensor, *map(int, box), torch.zeros(1, 1, 1))
        np.testing.assert_array_equal(result, theirs.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("shape", [(32, 32), (24, 40)])
def test_boxes_are_distributed_as_those_of_torchvision(shape):
    count = 4000
    ours = boxes_of(erased(keys(count), partial(random_erasing, probability=1), shape))
    torch.manual_seed(0)
    image = torch.ones(1, *shape)
    theirs = np.array(
        [
            transforms.RandomErasing.get_params(image, (0.02, 0.33), (0.3, 3.3), [0.0])[:4]
            for _ in range(count)
        ]
    )
    deviation = np.sqrt(ours.var(axis=0) + theirs.var(axis=0)) / np.sqrt(count)
    # Means and standard deviations of top, left, height and width, within four standard deviations.
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 4 * deviation).all()
    np.testing.assert_allclose(ours.std(axis=0), theirs.std(axis=0), rtol=0.06)
    assert (ours[:, 2:] < shape).all()


def test_the_share_of_erased_images_is_the_probability():
    masks = erased(keys(4000), partial(random_erasing, probability=0.25), (32, 32))
    share = np.asarray(masks).any(axis=(1, 2)).mean()
    assert abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)  # four standard deviations


def test_an_image_into_which_no_box_fits_stays_as_it_is():
    # A box must be smaller than the image in both directions.
    assert not erased(keys(50), partial(random_erasing, probability=1), (1, 300)).any()


@pytest.mark.parametrize("size", [1, 2, 5, 8, 100])
def test_squares_are_those_around_every_centre_cut_off_at_the_border(size):
    height, width = 7, 5
    masks = erased(keys(3000), partial(cutout, size=size), (height, width))
    expected = set()
    for y in range(height):
        for x in range(width):
            mask = np.zeros((height, width), bool)
            top, left = y - size // 2, x - size // 2
            mask[max(top, 0) : top + size, max(left, 0) : left + size] = True
            expected.add(mask.tobytes())
    # Each of 35 centres is missed by 3,000 draws with a probability below 1e-36.
    assert {mask.tobytes() for mask in np.asarray(masks)} == expected


@pytest.mark.parametrize("augmentation", [partial(random_erasing, probability=0.7), partial(cutout, size=4)])
def test_draws_depend_on_the_key_of_an_example_alone(augmentation):
    own = keys(6)
    augmentation = jax.jit(augmentation)
    together = augmentation(own, IMAGES)
    order = jnp.array([4, 1, 3])
    np.testing.assert_array_equal(augmentation(own[order], IMAGES[order]), together[order])
    narrow = augmentation(own, IMAGES.astype(jnp.bfloat16))
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_array_equal(narrow, together.astype(jnp.bfloat16))


@pytest.mark.parametrize("augmentation", [partial(random_erasing, probability=0.7), partial(cutout, size=4)])
def test_programs_hold_no_gather_and_no_scatter(augmentation):
    program = jax.jit(augmentation).lower(keys(6), IMAGES).as_text()
    assert "gather" not in program
    assert "scatter" not in program


def batch(**fields) -> tuple[np.ndarray, str]:
    """The first training batch of random images, and its program."""
    config = load_config(str(CONFIGS / "digits_wrn.py"), {f"data.{n}": str(v) for n, v in fields.items()})
    config.data.update(mean=(0.5,), std=(0.25,), batch_size=16)
    random = np.random.default_rng(1)
    split = Split(random.integers(0, 256, (16, 8, 8, 1), np.uint8), np.zeros(16, np.int32))
    feed, held_out = make_feeds(
        config.data,
        ImageData(split, split, ("a",)),
        seed=0,
        norm_groups=1,
        dtype=jnp.float32,
        devices=Devices(),
    )
    chunk = next(iter(feed.chunks(0)))
    program = jax.jit(feed.batch, static_argnums=2).lower(chunk.arrays, 0, 16)
    evaluated = next(iter(held_out.chunks(0)))
    np.testing.assert_array_equal(
        held_out.batch(evaluated.arrays, 0, 16).images[:, 0, 0, 0],
        ((split.images / np.float32(255) - np.float32(0.5)) / np.float32(0.25))[:, 0, 0, 0],
    )
    return np.asarray(program.compile()(chunk.arrays, 0).images), program.as_text()


def test_fields_of_the_config_switch_them_on_and_zero_leaves_the_program_as_it_was():
    plain, program = batch()
    assert flatten(load_config(str(CONFIGS / "digits_wrn.py"), {}))["data.cutout"] == 0
    assert batch(random_erasing=0, cutout=0)[1] == program
    for fields in ({"random_erasing": 1}, {"cutout": 4}, {"random_erasing": 0.5, "cutout": 2}):
        changed, _ = batch(**fields)
        differing = changed != plain
        assert differing.any()
        assert (changed[differing] == 0).all()
