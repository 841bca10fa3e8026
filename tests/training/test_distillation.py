"""A ResNet-50 of torchvision teaches a ResNet-18 on photographs with the loss that PyTorch computes."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from torch.nn import functional

from dks_jax.data.imagenet_classes import wordnet_ids
from dks_jax.models import load_config
from dks_jax.training.experiment import prepare
from dks_jax.weights import Weights
from dks_jax.weights.torch_weights import write_checkpoint
from support.real_torchvision import torchvision
from support.runs import CONFIGS

PHOTOGRAPHS = os.environ.get("DKS_TEST_DATA")
SIZE, BATCH_SIZE, TEMPERATURE, ALPHA = 64, 10, 4.0, 0.5


def randomised(network):
    """With values of every array drawn, so that a wrong place of one shows."""
    torch.manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.dtype.is_floating_point and tensor.ndim == 1:
            low = 0.5 if "bias" not in name and "mean" not in name else -0.2
            tensor.uniform_(low, low + 0.5)
    return network


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOGRAPHS, reason="needs photographs: DKS_TEST_DATA")
def test_a_torchvision_network_teaches_with_the_loss_of_pytorch(tmp_path):
    teacher = randomised(torchvision.models.resnet50(weights=None)).eval()
    torch.save(teacher.state_dict(), tmp_path / "resnet50.pth")
    for split in ("train", "val"):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / split).symlink_to(Path(PHOTOGRAPHS, "imagenet_samples", "val"))
    fields = {
        "data.source": "folder",
        "data.root": str(tmp_path / "images"),
        "data.streamed": "False",
        "data.random_resized_crop": "False",
        "data.flip": "False",
        "data.image_size": str(SIZE),
        "data.batch_size": str(BATCH_SIZE),
        "synergy.teachers": f"('{tmp_path / 'resnet50.pth'}',)",
        "synergy.alpha": str(ALPHA),
        "synergy.temperature": str(TEMPERATURE),
        "synergy.epsilon": "0.0",
        "optimizer.drop_epochs": "()",
    }
    experiment = prepare(load_config(f"{CONFIGS / 'imagenet_resnet18.py'}:baseline", fields), resumed=False)
    assert any(line.startswith("teacher 1: resnet50") for line in experiment.description)
    state = experiment.steps.initial_state()
    student = torchvision.models.resnet18(weights=None, num_classes=50)
    weights = Weights(jax.device_get(state.params), jax.device_get(state.batch_stats), experiment.metadata)
    write_checkpoint(tmp_path / "resnet18.pth", weights)
    student.load_state_dict(torch.load(tmp_path / "resnet18.pth", weights_only=True))
    chunk = next(experiment.steps.train_feed.chunks(0))
    batch = experiment.steps.train_feed.batch(chunk.arrays, np.int32(0), BATCH_SIZE)
    images, labels = torch.tensor(np.array(batch.images)), torch.tensor(np.array(batch.targets)).long()
    images = images.permute(0, 3, 1, 2)
    logits = student.train()(images)
    # The classes of the folder are 50 of the teacher's 1,000, in the order of their names.
    wnids = wordnet_ids()
    places = [wnids.index(name) for name in experiment.images.class_names]
    with torch.no_grad():
        taught = teacher(functional.interpolate(images, size=(224, 224), mode="bilinear"))[:, places]
    divergence = functional.kl_div(
        functional.log_softmax(logits / TEMPERATURE, -1),
        functional.log_softmax(taught / TEMPERATURE, -1),
        reduction="batchmean",
        log_target=True,
    )
    expected = (functional.cross_entropy(logits, labels) + ALPHA * TEMPERATURE**2 * divergence).item()
    _, history = experiment.steps.train(state, chunk)
    assert divergence.item() > 0.01
    assert float(history["loss"][0]) == pytest.approx(expected, rel=1e-5)
