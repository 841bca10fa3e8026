"""Exported files of whole networks on photographs, run by JAX alone and by onnxruntime."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dks_jax import export, models
from dks_jax.data import decoding
from dks_jax.data.augmentation import normalise
from dks_jax.inference.exporting import Exported, onnx_files, stablehlo
from dks_jax.models import Preprocessing, resolve_branches
from dks_jax.nn import get_arrays, set_arrays
from dks_jax.weights import Metadata, Weights, load_weights, save_weights

pytestmark = pytest.mark.slow

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = ["resnet18", "resnet50", "resnet152", "resnext50_32x4d", "convnext_tiny", "vit_s_16"]
CIFAR = {
    "wrn16-1": {"name": "wide_resnet", "depth": 16, "width": 1, "dropout": 0.0},
    "wrn28-10": {"name": "wide_resnet", "depth": 28, "width": 10, "dropout": 0.0},
    "cifar_resnet32": {"name": "cifar_resnet", "depth": 32},
    "densenet40": {"name": "densenet"},
    "densenet_bc100": {"name": "densenet", "depth": 100, "bottleneck": True, "compression": 0.5},
    "mobilenet": {"name": "mobilenet"},
}
# Runs a program on the batches that `batches` names, in a process that has JAX and NumPy alone.
ALONE = """
import sys
import jax
import numpy as np
from jax import export

with open("own.stablehlo", "rb") as file:
    program = export.deserialize(bytearray(file.read()))
run, images, outputs = jax.jit(program.call), np.load("images.npy"), []
for size in map(int, sys.argv[1:]):
    outputs += [run(images[i : i + size]) for i in range(0, len(images), size)]
np.save("outputs.npy", np.concatenate(outputs))
assert not {"dks_jax", "flax", "orbax"} & {name.partition(".")[0] for name in sys.modules}
"""
SIZES = (1, 7, 32)


@pytest.fixture(scope="module")
def photographs():
    if "DKS_TEST_DATA" not in os.environ:
        pytest.skip("DKS_TEST_DATA is unset: it names a folder with imagenet_samples/val")
    paths = sorted(Path(os.environ["DKS_TEST_DATA"], "imagenet_samples", "val").glob("*/*.JPEG"))
    assert len(paths) == 50
    return paths


def lively(array, name, random):
    """An array as after some training: with statistics, scales and biases."""
    shape = array.shape
    if name.endswith((".var", ".scale", ".gamma")):
        return random.uniform(0.5, 1.2, shape).astype(np.float32)
    if name.endswith((".mean", ".bias")):
        return random.normal(0, 0.1, shape).astype(np.float32)
    return array


def build(name):
    """A network with its published branches and random weights, and their metadata."""
    if name in CIFAR:
        model, count, view = CIFAR[name], 100, ("squash", 32, 32, 3)
    else:
        model, count, view = {"name": name}, 1000, ("standard", 224, 224, 3)
    network = models.build(model, num_classes=count, channels=3, seed=0)
    random = np.random.default_rng(0)
    set_arrays(network, {own: jnp.asarray(lively(a, own, random)) for own, a in get_arrays(network).items()})
    network.eval()
    preprocessing = Preprocessing(*view, MEAN, STD)
    names = tuple(map(str, range(count)))
    return network, Metadata(model, resolve_branches(model, "published"), names, preprocessing)


@pytest.mark.parametrize("name", [*IMAGENET, *CIFAR])
def test_files_compute_what_the_network_computes_on_photographs_and_hold_no_branch(
    name, photographs, tmp_path, monkeypatch
):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install -e '.[export]'")
    monkeypatch.chdir(tmp_path)
    network, metadata = build(name)
    deep = Weights(get_arrays(network), {}, metadata)
    save_weights(tmp_path / "deep", deep)
    save_weights(tmp_path / "backbone", deep.without_branches())
    backbone = Exported(load_weights(tmp_path / "backbone"))
    for ending, form in (("stablehlo", stablehlo), ("onnx", onnx_files)):
        assert export.main(["--weights=deep", f"--output=own.{ending}"]) == 0
        form.write(tmp_path / f"plain.{ending}", backbone)
        assert Path(f"own.{ending}").stat().st_size == Path(f"plain.{ending}").stat().st_size

    images = np.stack([decoding.decode(path, metadata.view) for path in photographs])
    np.save("images.npy", images)
    apply = jax.jit(lambda images: network.drop_branches()(normalise(images, MEAN, STD))[0])
    expected = np.concatenate([apply(images[i : i + 10]) for i in range(0, 50, 10)])
    largest = np.abs(expected).max()

    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", ALONE, *map(str, SIZES)], check=True, env=alone)
    session = onnxruntime.InferenceSession("own.onnx", providers=["CPUExecutionProvider"])
    by_onnx = []
    for size in SIZES:
        batches = (images[i : i + size] for i in range(0, len(images), size))
        by_onnx += [session.run(None, {"images": batch})[0] for batch in batches]
    for what, outputs in (("StableHLO", np.load("outputs.npy")), ("ONNX", np.concatenate(by_onnx))):
        difference = np.abs(outputs.reshape(len(SIZES), 50, -1) - expected).max() / largest
        print(f"{name}, {what}: largest difference {difference:.1e} of the largest logit, {largest:.3g}")
        assert difference < 1e-5
