"""CIFAR files in their published formats, written small."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dks_jax.data import ImageData
from dks_jax.data.sources import cifar
from dks_jax.runtime.errors import InputError

FOLDERS = {
    ("cifar10", "python"): "cifar-10-batches-py",
    ("cifar10", "binary"): "cifar-10-batches-bin",
    ("cifar100", "python"): "cifar-100-python",
    ("cifar100", "binary"): "cifar-100-binary",
}
FILES = {
    "cifar10": [*(f"data_batch_{part}" for part in range(1, 6)), "test_batch"],
    "cifar100": ["train", "test"],
}
LABELS = {"cifar10": "labels", "cifar100": "fine_labels"}
NAMES = {
    "cifar10": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    "cifar100": [f"kind_{label}" for label in range(100)],
}
META = {
    "cifar10": ("batches.meta", "label_names"),
    "cifar100": ("meta", "fine_label_names"),
}
DATASETS = pytest.mark.parametrize("name", ["cifar10", "cifar100"])
Batch = tuple[np.ndarray, np.ndarray]


def batches(name: str, count: int = 2) -> list[Batch]:
    """Random rows and labels for every file of a data set, the last of them the test file."""
    rng = np.random.default_rng(7)
    classes = len(NAMES[name])
    return [
        (rng.integers(0, 256, (count, 3072), dtype=np.uint8), rng.integers(0, classes, count))
        for _ in FILES[name]
    ]


def write_python(
    root: Path,
    name: str,
    content: list[Batch],
    *,
    protocol: int = 2,
    text: Callable[[str], str | bytes] = str.encode,
    labels: Callable[[np.ndarray], Any] = np.ndarray.tolist,
) -> Path:
    folder = root / FOLDERS[name, "python"]
    folder.mkdir(parents=True)
    for file, (rows, targets) in zip(FILES[name], content, strict=True):
        batch = {text("batch_label"): text(""), text(LABELS[name]): labels(targets), text("data"): rows}
        (folder / file).write_bytes(pickle.dumps(batch, protocol))
    meta, key = META[name]
    (folder / meta).write_bytes(pickle.dumps({text(key): [text(entry) for entry in NAMES[name]]}, protocol))
    return folder


def write_binary(root: Path, name: str, content: list[Batch]) -> Path:
    folder = root / FOLDERS[name, "binary"]
    folder.mkdir(parents=True)
    coarse = b"" if name == "cifar10" else b"\x13"
    for file, (rows, targets) in zip(FILES[name], content, strict=True):
        records = [coarse + bytes([label]) + row.tobytes() for row, label in zip(rows, targets, strict=True)]
        (folder / f"{file}.bin").write_bytes(b"".join(records))
    meta = "batches.meta.txt" if name == "cifar10" else "fine_label_names.txt"
    (folder / meta).write_text("\n".join(NAMES[name]) + "\n\n")
    return folder


def pixels(rows: np.ndarray) -> np.ndarray:
    """The images of some rows, one pixel after the other."""
    images = np.empty((len(rows), 32, 32, 3), dtype=np.uint8)
    for row in range(32):
        for column in range(32):
            for channel in range(3):
                images[:, row, column, channel] = rows[:, channel * 1024 + row * 32 + column]
    return images


def check(data: ImageData, name: str, content: list[Batch]) -> None:
    """Asserts that the data are the content and carry the class names."""
    *train, test = content
    for split, parts in ((data.train, train), (data.test, [test])):
        np.testing.assert_array_equal(split.images, pixels(np.concatenate([rows for rows, _ in parts])))
        np.testing.assert_array_equal(split.labels, np.concatenate([labels for _, labels in parts]))
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
    assert data.class_names == tuple(NAMES[name])


def refused(root: Path, name: str = "cifar10") -> str:
    """The one line with which loading is refused."""
    with pytest.raises(InputError) as caught:
        cifar.load(str(root), name)
    message = str(caught.value)
    assert "\n" not in message
    return message
