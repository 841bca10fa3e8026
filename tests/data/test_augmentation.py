"""Crops, flips and normalisation against NumPy and PyTorch."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dks_jax.data.augmentation import crop_and_flip, example_keys, normalise
from dks_jax.nn import forms

IMAGES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (6, 9, 7, 3), np.uint8))
PAD = {"reflect": {"mode": "reflect"}, "zero": {"mode": "constant"}}


@partial(jax.jit, static_argnames=("padding", "pad_mode", "flip"))
def crop(images, indices, seed, **how):
    """Examples that stand at their own numbers, by one key."""
    return crop_and_flip(images, indices, example_keys(jax.random.key(seed), indices), **how)


@partial(jax.jit, static_argnames=("padding", "pad_mode", "flip"))
def crops(image, seeds, **how):
    """One image by many keys."""
    return jax.vmap(lambda seed: crop(image[None], jnp.zeros(1, int), seed, **how)[0])(seeds)


def every_crop(image, padding, pad_mode, flip):
    """All images that padding, flipping and cropping back can make of one, made by np.pad."""
    height, width, _ = image.shape
    padded = np.pad(np.asarray(image), ((padding, padding), (padding, padding), (0, 0)), **PAD[pad_mode])
    sources = [padded, padded[:, ::-1]] if flip else [padded]
    return {
        source[y : y + height, x : x + width].tobytes()
        for source in sources
        for y in range(2 * padding + 1)
        for x in range(2 * padding + 1)
    }


@pytest.mark.parametrize(("pad_mode", "flip"), [("reflect", False), ("reflect", True), ("zero", True)])
def test_exactly_the_crops_of_the_padded_image_occur(pad_mode, flip):
    # 2 shifts x 9 x 2 directions at most: 2,000 draws leave one out with a probability below 1e-20.
    images = crops(IMAGES[3], jnp.arange(2000), padding=1, pad_mode=pad_mode, flip=flip)
    assert {image.tobytes() for image in np.asarray(images)} == every_crop(IMAGES[3], 1, pad_mode, flip)


def test_no_padding_and_no_flip_change_nothing():
    indices = jnp.array([5, 0, 2])
    cropped = crop(IMAGES, indices, 0, padding=0, pad_mode="reflect", flip=False)
    np.testing.assert_array_equal(cropped, IMAGES[indices])


def test_draws_depend_on_the_example_and_not_on_its_batch():
    how = {"padding": 3, "pad_mode": "reflect", "flip": True}
    together = crop(IMAGES, jnp.array([4, 1, 5, 0]), 7, **how)
    np.testing.assert_array_equal(together[jnp.array([3, 1])], crop(IMAGES, jnp.array([0, 1]), 7, **how))


def test_shifts_are_uniform_and_half_of_the_images_flipped():
    # An image whose pixel tells its place, with zero padding: the shift can be read off.
    place = jnp.arange(1, 65, dtype=jnp.uint8).reshape(8, 8, 1)
    images = crops(place, jnp.arange(8000), padding=2, pad_mode="zero", flip=True)
    centre = np.asarray(images)[:, 3:5, 3:5, 0].astype(int)
    flipped = centre[:, 0, 0] > centre[:, 0, 1]
    assert abs(flipped.mean() - 0.5) < 4 * 0.5 / np.sqrt(8000)  # four standard deviations
    rows = (centre[:, 0, 0] - 1) // 8 - 3
    counts = np.bincount(rows + 2, minlength=5)
    assert np.abs(counts / 8000 - 0.2).max() < 4 * 0.4 / np.sqrt(8000)


def test_normalisation_equals_pytorch_bit_for_bit():
    mean, std = (125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)
    ours = normalise(IMAGES, mean, std)
    # torchvision's ToTensor divides by 255, Normalize subtracts and divides in place.
    theirs = (
        torch.from_numpy(np.array(IMAGES)).float().div(255).sub(torch.tensor(mean)).div(torch.tensor(std))
    )
    np.testing.assert_array_equal(ours, theirs.numpy())


def test_bfloat16_is_rounded_after_normalising_in_float32():
    wide = normalise(IMAGES, (0.5,) * 3, (0.25,) * 3)
    narrow = normalise(IMAGES, (0.5,) * 3, (0.25,) * 3, jnp.bfloat16)
    np.testing.assert_array_equal(narrow, wide.astype(jnp.bfloat16))


def test_accelerators_crop_and_flip_to_the_same_pixels():
    indices = jnp.array([4, 1, 5, 0, 2, 3])
    cases = [
        (0, "zero", True),
        (1, "zero", False),
        (1, "reflect", True),
        (6, "reflect", False),
        (6, "zero", True),
    ]
    for padding, pad_mode, flip in cases:
        how = {"padding": padding, "pad_mode": pad_mode, "flip": flip}
        expected = crop(IMAGES, indices, 3, **how)
        with forms("accelerator"):
            np.testing.assert_array_equal(crop(IMAGES, indices, 3, **how), expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_accelerators_normalise_up_to_rounding(dtype):
    levels = jnp.arange(256, dtype=jnp.uint8)[:, None].repeat(3, axis=1)
    statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = normalise(levels, *statistics)
    with forms("accelerator"):
        ours = normalise(levels, *statistics, dtype)
    # Values reach 2.6, where a number of float32 is within 2.4e-7 of the next, one of bfloat16 within 0.016.
    assert ours.dtype == dtype
    assert jnp.abs(ours - expected).max() < (5e-7 if dtype == jnp.float32 else 0.0081)


def test_programs_for_accelerators_gather_entire_images_alone():
    def prepare(images, positions, keys, padding):
        cropped = crop_and_flip(images, positions, keys, padding=padding, pad_mode="reflect", flip=True)
        return normalise(cropped, (0.5,) * 3, (0.5,) * 3)

    keys = example_keys(jax.random.key(0), jnp.arange(6))
    for padding in (0, 2):
        with forms("accelerator"):
            program = jax.jit(prepare, static_argnums=3).lower(IMAGES, jnp.arange(6), keys, padding).as_text()
        # The sizes of the slices are those of one image.
        sizes = re.findall(r"stablehlo\.gather.*?slice_sizes = array<i64: ([^>]*)>", program, re.DOTALL)
        assert sizes == ["1, 9, 7, 3"]
