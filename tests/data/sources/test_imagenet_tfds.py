"""ImageNet as tfds prepares it from its archives, evaluated as the same images in a folder are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import prepare_dataset
import pytest

from dks_jax import evaluate, models
from dks_jax.data.imagenet_classes import wordnet_ids
from dks_jax.data.preprocessing import View
from dks_jax.data.sources import tfds as tfds_source
from dks_jax.nn.functional import get_arrays
from dks_jax.weights import Metadata, Weights, save_weights
from support.imagenet_archives import photo, val_name, write_archives
from support.runs import CONFIGS
from support.tensorflow import NEEDS_TENSORFLOW

PHOTOGRAPHS = os.environ.get("DKS_TEST_DATA")


def images(every):
    """Encoded ones: of the real photographs, where they are, one in so many; and some of odd sizes."""
    made = [photo(seed, 60 + 13 * seed, 90 - 7 * seed) for seed in (0, 3)]
    if not PHOTOGRAPHS:
        return made
    real = sorted(Path(PHOTOGRAPHS, "imagenet_samples").glob("val/*/*"))
    return [*made, *(path.read_bytes() for path in real[::every])]


def prepare(root, encoded):
    """Has the tool prepare them as validation images, beside three training images of two classes."""
    manual = root.with_name("manual")
    manual.mkdir()
    write_archives(manual, {"n01440764": [photo(9), photo(8)], "n01443537": [photo(7)]}, encoded, [photo(6)])
    places = [f"--data_dir={root}", f"--manual_dir={manual}"]
    program = [sys.executable, "-W", "error", prepare_dataset.__file__, "imagenet2012", *places]
    result = subprocess.run(program, capture_output=True, text=True, check=True)
    (line,) = result.stdout.splitlines()
    assert f"3 train, {len(encoded)} validation, 1 test" in line
    # TensorFlow announces it unless it is told not to use it.
    assert "oneDNN" not in result.stderr


def save_random_weights(folder, favourite):
    """A ResNet-18 that finds one class in every image."""
    network = models.build({"name": "resnet18"}, num_classes=1000, channels=3, branches=(), seed=0)
    arrays = {name: np.array(array) for name, array in get_arrays(network).items()}
    for name, array in arrays.items():
        if name.endswith("head.fc.bias"):
            array[favourite] += 100.0
    preprocessing = models.Preprocessing(
        "dks", *(224, 224, 3), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    metadata = Metadata({"name": "resnet18"}, (), tuple(wordnet_ids()), preprocessing)
    save_weights(folder, Weights(arrays, {}, metadata))


@NEEDS_TENSORFLOW
@pytest.mark.parametrize("every", [16, pytest.param(1, marks=pytest.mark.slow)])
def test_a_prepared_imagenet_and_a_folder_give_the_same_errors_and_logits(every, tmp_path):
    encoded = images(every)
    prepare(tmp_path / "tfds", encoded)
    loaded = tfds_source.load(str(tmp_path / "tfds"), "imagenet2012", View(224, 3, "dks"))
    train, split, names = loaded.train, loaded.test, loaded.class_names
    assert sorted(train.read(i)[1] for i in range(3)) == [0, 0, 1]
    order = [split.name(i) for i in range(split.num_examples)]
    assert sorted(order) == [val_name(i) for i in range(len(encoded))]
    labels = {split.name(i): split.read(i)[1] for i in range(split.num_examples)}
    # The published class of the first validation image is a sea snake.
    assert names[labels[val_name(0)]] == "n01751748"
    # The same images as a folder; train/ says which label a class has.
    for name in names:
        (tmp_path / "folder" / "train" / name).mkdir(parents=True)
    for i, image in enumerate(encoded):
        path = tmp_path / "folder" / "val" / names[labels[val_name(i)]] / val_name(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    save_random_weights(tmp_path / "weights", favourite=labels[val_name(0)])
    results, logits = {}, {}
    for source in ("tfds", "folder"):
        command = [f"--config={CONFIGS / 'imagenet_resnet18.py'}", f"--weights={tmp_path / 'weights'}"]
        command += [f"--config.data.source={source}", f"--config.data.root={tmp_path / source}"]
        command += [f"--output={tmp_path / source}.json", f"--logits={tmp_path / source}.npy"]
        # The two orders differ, and so would the rounding of an image at another place in its batch.
        assert evaluate.main([*command, "--config.data.batch_size=1"]) == 0
        results[source] = json.loads((tmp_path / f"{source}.json").read_text())
        logits[source] = np.load(tmp_path / f"{source}.npy")
    in_folder = [path.name for path in sorted((tmp_path / "folder").glob("val/*/*"))]
    assert order != in_folder
    np.testing.assert_array_equal(
        logits["tfds"], logits["folder"][:, [in_folder.index(name) for name in order]]
    )
    assert results["tfds"]["num_examples"] == len(encoded)
    assert 0 < results["tfds"]["top1_error"] < 100
    for classifier, figures in results["tfds"]["classifiers"].items():
        assert figures == pytest.approx(results["folder"]["classifiers"][classifier], rel=1e-12)
