"""Every family in use after training: images leave it early, and the page about runs shows it."""

import json

import numpy as np
import pytest
import report
from PIL import Image

from dks_jax import early_exit, evaluate, train
from dks_jax.weights import load_network
from support.leaving import assert_as_the_whole
from support.runs import CONFIGS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("usual_fusions")]

# By config, the fields that make its network or its images small.
FIELDS = {
    "cifar100_resnet32": ["model.depth=8", "data.image_size=8", "data.padding=1"],
    "cifar100_densenet40": ["model.depth=10", "data.image_size=8", "data.padding=1"],
    "cifar100_densenet_bc100": ["model.depth=16", "data.image_size=8", "data.padding=1"],
    "cifar100_mobilenet": ["data.image_size=8", "data.padding=1"],
    "cifar100_wrn16_8": ["model.width=1", "data.image_size=8", "data.padding=1"],
} | {
    name: [f"model.name={name}", "data.image_size=32", *(["model.image_size=32"] if "_16" in name else [])]
    for name in ("resnet18", "resnext50_32x4d", "wide_resnet50_2", "convnext_tiny", "vit_s_16", "deit_s_16")
}


@pytest.fixture
def folder(tmp_path):
    """Two classes of four training images and eight held-out ones."""
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 8)):
        for label in "ab":
            (tmp_path / "images" / split / label).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (40, 36, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / split / label / f"{index}.png")
    return tmp_path / "images"


@pytest.mark.parametrize("name", FIELDS)
def test_images_leave_a_trained_network_early_and_the_page_shows_it(name, folder, tmp_path):
    run, point, page = tmp_path / "run", tmp_path / "exit.json", tmp_path / "page.html"
    config = name if name.startswith("cifar100") else "images"
    fields = {"source": "folder", "root": folder, "batch_size": 4, "train_split": "train", "held_out": "test"}
    fields |= {"mean": "(0.5,0.5,0.5)", "std": "(0.25,0.25,0.25)"}
    given = [*(f"data.{field}={value}" for field, value in fields.items()), "epochs=2", *FIELDS[name]]
    # Branches of heads alone, so that leaving there costs less than staying.
    given += ["optimizer.learning_rate=0.001", "model.branches=((0,(),()),(1,(),()))"]
    flags = [f"--config.{field}" for field in given]
    assert train.main([f"--config={CONFIGS / config}.py", f"--workdir={run}", *flags]) == 0

    network, metadata = load_network(run)
    network.eval()
    assert_as_the_whole(network, 14, 4, size=metadata.preprocessing.height)

    # Whatever it costs in errors: some images leave at the first exit.
    assert early_exit.main([f"--weights={run}", "--loss=100", f"--output={point}"]) == 0
    found = json.loads(point.read_text())
    assert list(found["errors"]) == ["branch1", "branch2", "main"]
    assert found["reported"]["shares"]["branch1"] > 0
    assert found["reported"]["cost"] < 1

    assert report.main([str(run), f"--output={page}"]) == 0
    assert evaluate.main([f"--weights={run}", f"--output={tmp_path / 'evaluation.json'}"]) == 0
    shown, evaluated = page.read_text(), json.loads((tmp_path / "evaluation.json").read_text())
    assert f"{evaluated['nll']:.4f}" in shown
