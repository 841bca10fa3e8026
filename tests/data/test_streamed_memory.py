"""Sources whose images are in memory, streamed so that each image can be augmented as it is read."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dks_jax import data
from dks_jax.data import operations, policies
from dks_jax.data.feeds.interface import Epochs
from dks_jax.models import load_config
from dks_jax.runtime.devices import Devices
from support.cifar_files import batches, write_python
from support.runs import CONFIGS


@pytest.fixture(params=["digits_wrn", "cifar10_wrn"])
def loaded(request, tmp_path):
    """A function from fields of `data` to the section and the images that it describes."""
    if request.param == "cifar10_wrn":
        write_python(tmp_path, "cifar10", batches("cifar10", 8))

    @cache
    def load(**fields):
        given = {f"data.{name}": str(value) for name, value in fields.items()}
        if request.param == "cifar10_wrn":
            given["data.root"] = str(tmp_path)
        else:
            given |= {"data.train_per_class": "4", "data.test_per_class": "2"}
        section = load_config(str(CONFIGS / f"{request.param}.py"), given).data
        data.check(section)
        section = data.resolve(section, training=True)
        return section, data.load(section)

    return load


def feeds(section, images):
    return data.make_feeds(
        section, images, seed=5, norm_groups=1, dtype=jnp.float32, devices=Devices(batches_per_call=1)
    )


def assert_same_batches(feed, other):
    assert feed.steps_per_epoch == other.steps_per_epoch
    prepare = [jax.jit(f.batch, static_argnums=2) for f in (feed, other)]
    for chunks in zip(feed.chunks(1), other.chunks(1), strict=True):
        ours, theirs = (
            own(chunk.arrays, np.int32(chunk.first), chunk.batch_size)
            for own, chunk in zip(prepare, chunks, strict=True)
        )
        for one, another in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, another)


def test_without_a_policy_the_batches_are_those_of_resident_images(loaded):
    fields = {"batch_size": 16, "drop_last": False}
    resident, streamed = loaded(**fields), loaded(streamed=True, policy="none", **fields)
    assert isinstance(streamed[1].train, data.StoredSplit)
    # The first images of every class too, where fewer are asked for.
    assert (streamed[1].train.num_examples, streamed[1].test.num_examples) == (
        40,
        len(resident[1].test.labels),
    )
    assert streamed[1].train.checksum == resident[1].train.checksum
    for feed, expected in zip(feeds(*streamed), feeds(*resident), strict=True):
        assert_same_batches(feed, expected)


@pytest.mark.parametrize("policy", ["autoaugment_cifar10", "randaugment"])
def test_an_image_is_what_the_policy_makes_of_its_array(loaded, policy):
    _, plain = loaded()
    _, images = loaded(streamed=True, policy=policy)
    epochs = Epochs(plain.train.num_examples, 4, False, 0)
    changed = 0
    for index in range(30):
        original = plain.train.images[index]
        image = Image.fromarray(original.squeeze())
        steps = policies.draw(policy, epochs.generator(2, index), image.size, (2, 9))
        expected = np.asarray(operations.apply(image, steps)).reshape(original.shape)
        pixels, label = images.train.read(index, epochs.generator(2, index))
        np.testing.assert_array_equal(pixels, expected)
        assert label == plain.train.labels[index]
        changed += (pixels != original).any()
        np.testing.assert_array_equal(images.train.read(index)[0], original)
    assert changed > 10


def test_random_crops_and_another_size_need_no_more_than_streaming(loaded):
    section, images = loaded(
        streamed=True, random_resized_crop=True, train_size=6, padding=0, color_jitter=0.4, batch_size=10
    )
    assert images.train.image_shape[:2] == (6, 6)
    assert images.test.image_shape[:2] == (section.image_size,) * 2
    feed, _ = feeds(section, images)
    assert next(iter(feed.chunks(0))).arrays["images"].shape == (10, *images.train.image_shape)
