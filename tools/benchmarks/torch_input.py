"""The input pipelines of CIFAR and ImageNet in plain PyTorch: a DataLoader, whose processes prepare images.

The other side of the comparison that pipelines.py makes: it knows nothing of dks_jax.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Left, top, right, bottom.
Box = tuple[int, int, int, int]


class Crops(Dataset[tuple[Tensor, int]]):
    """Images in memory, augmented one by one as the training released with DKS augments those of CIFAR.

    Padded by 4 pixels of their reflection, mirrored with probability 1/2, cropped at random to their size,
    (x / 255 - mean) / std. Here they are tensors throughout.

    Args:
      images: uint8 [image, height, width, channel].
      labels: integers [image].
      mean, std: per channel.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, mean: Sequence[float], std: Sequence[float]):
        # An array, because the processes would share the memory of a tensor, of which containers have little.
        self.images = images
        self.labels = labels.tolist()
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (mean, std))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        top, left, mirrored = random.randrange(9), random.randrange(9), random.random() < 0.5
        return self.crop(index, top, left, mirrored), self.labels[index]

    def crop(self, index: int, top: int, left: int, mirrored: bool) -> Tensor:
        """One augmented image, [channel, height, width]."""
        pixels = torch.from_numpy(self.images[index]).permute(2, 0, 1)
        _, height, width = pixels.shape
        normalised = pixels.float().div_(255).sub_(self.mean).div_(self.std)
        padded = F.pad(normalised[None], (4, 4, 4, 4), mode="reflect")[0]
        crop = padded[:, top : top + height, left : left + width]
        return crop.flip(-1) if mirrored else crop


class ReleasedCrops(Crops):
    """The same by way of Pillow's images, which is what torchvision's transforms do in the released code."""

    def crop(self, index: int, top: int, left: int, mirrored: bool) -> Tensor:
        """One augmented image, [channel, height, width]; mirrored before it is cropped."""
        height, width, _ = self.images[index].shape
        image = Image.fromarray(self.images[index])
        padded = Image.fromarray(np.pad(np.asarray(image), ((4, 4), (4, 4), (0, 0)), mode="reflect"))
        if mirrored:
            padded = padded.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        cropped = padded.crop((left, top, left + width, top + height))
        pixels = torch.from_numpy(np.array(cropped)).permute(2, 0, 1).contiguous()
        return pixels.float().div_(255).sub_(self.mean).div_(self.std)


class Files(Dataset[Tensor]):
    """Image files as 224 x 224 pixels, (x / 255 - mean) / std.

    For training a part of each, resized bilinearly, and mirrored with probability 1/2; for evaluation resized
    bicubically to 256 x 256 and cropped to the middle, as the evaluation released with DKS does.

    Args:
      paths: of the files.
      boxes: the part of each for training; none for evaluation.
      mean, std: per channel.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        boxes: Sequence[Box] | None,
        mean: Sequence[float],
        std: Sequence[float],
    ):
        self.paths = paths
        self.boxes = boxes
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (mean, std))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.view(index, mirrored=self.boxes is not None and random.random() < 0.5)

    def view(self, index: int, mirrored: bool) -> Tensor:
        """One image, [channel, height, width]."""
        with Image.open(self.paths[index]) as file:
            image = file.convert("RGB")
        if self.boxes is None:
            seen = image.resize((256, 256), Image.Resampling.BICUBIC).crop((16, 16, 240, 240))
        else:
            seen = image.crop(self.boxes[index]).resize((224, 224), Image.Resampling.BILINEAR)
        if mirrored:
            seen = seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(seen)).permute(2, 0, 1)
        return pixels.float().div_(255).sub_(self.mean).div_(self.std)


def make_loader(dataset: Dataset, order: Sequence[int], *, batch_size: int, num_workers: int) -> DataLoader:
    """Batches of a data set in an order. The worker processes start with the first pass and stay."""
    return DataLoader(
        dataset,
        batch_size,
        sampler=order,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=DEVICE.type == "cuda",
        # A process that runs JAX, or has a GPU, must not be forked.
        multiprocessing_context="spawn" if num_workers else None,
    )


def run(loader: DataLoader) -> None:
    """One pass over all batches, each moved to the device."""
    for batch in loader:
        images = batch[0] if isinstance(batch, list) else batch
        images.to(DEVICE, non_blocking=True)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
