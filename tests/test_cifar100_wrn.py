"""configs/cifar100_wrn.py on files in the format of CIFAR-100."""

import pickle

import numpy as np
import pytest

from dks_jax import train
from runs import CONFIGS, records


@pytest.fixture
def cifar100(tmp_path):
    """A folder with six training and four test images of random pixels."""
    random = np.random.default_rng(0)
    folder = tmp_path / "data" / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, num in (("train", 6), ("test", 4)):
        batch = {
            b"filenames": [b"image.png"] * num,
            b"batch_label": name.encode(),
            b"fine_labels": random.integers(0, 100, num).tolist(),
            b"coarse_labels": random.integers(0, 20, num).tolist(),
            b"data": random.integers(0, 256, (num, 3072), np.uint8),
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    meta = {b"fine_label_names": [f"class {i}".encode() for i in range(100)]}
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    return folder.parent


def train_one_epoch(root, workdir, precision, *overrides):
    """Two steps, of four and of two images."""
    return train.main(
        [
            f"--config={CONFIGS / 'cifar100_wrn.py'}",
            f"--config.data.root={root}",
            f"--config.precision={precision}",
            "--config.data.batch_size=4",
            "--config.epochs=1",
            f"--workdir={workdir}",
            *overrides,
        ]
    )


def assert_two_real_steps(workdir):
    line = records(workdir)[0]
    assert line["step"] == 2
    # ln 100 = 4.6 is the cross-entropy of an even guess; three of them, and divergences of order one.
    assert 10 < line["loss"] < 60
    assert line["learning_rate"] == pytest.approx(0.1)


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_the_released_recipe_takes_real_steps_at_a_small_size(cifar100, tmp_path, precision):
    small = ["--config.model.depth=16", "--config.model.width=1"]
    assert train_one_epoch(cifar100, tmp_path / "run", precision, *small) == 0
    assert_two_real_steps(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_wrn_28_10_takes_real_steps_with_all_its_parameters(cifar100, tmp_path, precision, capsys):
    assert train_one_epoch(cifar100, tmp_path / "run", precision) == 0
    assert_two_real_steps(tmp_path / "run")
    # 164.15 M in training and 36.54 M in use, as published.
    assert "164,146,364 parameters in training, 36,536,884 in use" in capsys.readouterr().out
