"""configs/cifar10_small.py on real images of CIFAR-10."""

import os
import tarfile
from pathlib import Path

import pytest

from dks_jax import train
from support.runs import CONFIGS, records


@pytest.fixture
def cifar10(tmp_path):
    """A folder with the first 20 training and 4 test images of every class."""
    if "DKS_TEST_DATA" not in os.environ:
        pytest.skip("DKS_TEST_DATA is unset: it names a folder with the archives of CIFAR-10")
    for split, num in (("train", 20), ("test", 4)):
        with tarfile.open(Path(os.environ["DKS_TEST_DATA"]) / f"cifar10_{split}.tar.gz") as archive:
            for member in archive:
                if member.isfile() and int(Path(member.name).stem) < num:
                    archive.extract(member, tmp_path / "data", filter="data")
    return tmp_path / "data"


@pytest.mark.slow
def test_the_loss_falls_on_real_images(cifar10, tmp_path):
    # 200 images in 10 steps an epoch: too few to classify well, enough to learn something from.
    arguments = [f"--config={CONFIGS / 'cifar10_small.py'}", f"--workdir={tmp_path / 'run'}"]
    fields = [f"data.root={cifar10}", "data.train_per_class=20", "data.test_per_class=4"]
    fields += ["data.batch_size=20", "epochs=3"]
    assert train.main(arguments + [f"--config.{field}" for field in fields]) == 0
    training = [line for line in records(tmp_path / "run") if line["split"] == "train"]
    assert training[-1]["loss"] < 0.9 * training[0]["loss"]
    assert training[-1]["error"] < training[0]["error"]
