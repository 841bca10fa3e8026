"""Small data sets that tfds writes without TensorFlow, from images of noise."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from dks_jax.data import Split

IMAGE = tfds.features.Image
LABEL = tfds.features.ClassLabel
# What a record of cifar100 holds.
FEATURES = {
    "id": tfds.features.Text(),
    "image": IMAGE(shape=(6, 6, 3)),
    "label": LABEL(names=["apple", "bear", "clock"]),
    "coarse_label": LABEL(num_classes=2),
}


def noise(seed: int, height: int = 6, width: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: np.ndarray, kind: str = "png") -> bytes:
    """An image as tfds stores it; to encode an array itself, it needs TensorFlow."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def example(seed: int) -> dict[str, Any]:
    return {"id": str(seed), "image": encoded(noise(seed)), "label": seed % 3, "coarse_label": seed % 2}


def prepare(
    root: Path,
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    version: str = "1.0.0",
    config: str | None = None,
    features: Mapping[str, Any] = FEATURES,
    supervised: tuple[str, str] | None = ("image", "label"),
    num_shards: int | None = None,
) -> Path:
    """Has tfds write the data set "tiny"; returns its folder."""

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=supervised
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {name: self._generate_examples(examples) for name, examples in splits.items()}

        def _generate_examples(self, examples: Sequence[Mapping[str, Any]]) -> Iterable[tuple[int, Any]]:
            return enumerate(examples)

    builder = Tiny(data_dir=root, file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=num_shards, try_download_gcs=False)
    )
    return Path(builder.data_dir)


def in_order(split: Split) -> list[tuple[bytes, int]]:
    """Images and labels in an order of their own: tfds shuffles what it writes."""
    pairs = zip(split.images, split.labels.tolist(), strict=True)
    return sorted((image.tobytes(), label) for image, label in pairs)


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
