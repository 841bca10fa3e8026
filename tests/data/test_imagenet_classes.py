"""The names of ImageNet's classes."""

import os
from pathlib import Path

import pytest

from dks_jax.data.imagenet_classes import display_name, wordnet_ids


def test_labels_count_by_the_order_of_wordnet_ids():
    ids = wordnet_ids()
    assert len(ids) == 1000
    assert ids == sorted(ids)
    # As is widely known of the first, the last and one between.
    assert [display_name(ids[label]) for label in (0, 207, 999)] == [
        "tench (n01440764)",
        "golden retriever (n02099601)",
        "toilet tissue (n15075141)",
    ]
    assert display_name("cat") == "cat"


@pytest.mark.skipif("DKS_TEST_DATA" not in os.environ, reason="DKS_TEST_DATA names no folder of images")
def test_photographs_are_named_as_their_publisher_does():
    """Files are called e.g. n02099429_curly-coated_retriever.JPEG."""
    paths = sorted(Path(os.environ["DKS_TEST_DATA"], "imagenet_samples").glob("val/*/*"))
    words = {path.stem.partition("_")[0]: path.stem.partition("_")[2].replace("_", " ") for path in paths}
    same = [display_name(name) == f"{said} ({name})" for name, said in words.items()]
    # A few have several names.
    assert sum(same) > 0.8 * len(same)
