"""The input pipelines of CIFAR and ImageNet in plain PyTorch: a DataLoader, whose processes prepare images.

The other side of the comparisons that input.py and evaluate.py make: it knows nothing of dks_jax.
"""

import random
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PADDING = 4
MIRROR = Image.Transpose.FLIP_LEFT_RIGHT


class Normalised(Dataset[tuple[Tensor, int]]):
    """Labelled images; uint8 [height, width, channel] becomes a tensor (x / 255 - mean) / std."""

    def __init__(self, labels: Sequence[int], mean: Sequence[float], std: Sequence[float]):
        self.labels = labels
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (mean, std))

    def __len__(self) -> int:
        return len(self.labels)

    def normalise(self, pixels: np.ndarray) -> Tensor:
        channels_first = torch.from_numpy(pixels).permute(2, 0, 1)
        return channels_first.float().div_(255).sub_(self.mean).div_(self.std)


class Crops(Normalised):
    """Images in memory, augmented one by one as the training released with DKS augments those of CIFAR.

    They are padded by 4 pixels of their reflection, mirrored with probability 1/2 and cropped at random to
    their size; here they are tensors throughout.
    """

    def __init__(self, images: np.ndarray, *labels_mean_std: Sequence):
        super().__init__(*labels_mean_std)
        # An array, because the processes would share the memory of a tensor, of which containers have little.
        self.images = images

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        offsets = random.randrange(2 * PADDING + 1), random.randrange(2 * PADDING + 1)
        return self.crop(index, *offsets, random.random() < 0.5), self.labels[index]

    def crop(self, index: int, top: int, left: int, mirrored: bool) -> Tensor:
        height, width, _ = self.images[index].shape
        padded = F.pad(self.normalise(self.images[index])[None], (PADDING,) * 4, mode="reflect")[0]
        crop = padded[:, top : top + height, left : left + width]
        return crop.flip(-1) if mirrored else crop

    def candidates(self, index: int) -> Iterable[Tensor]:
        """All that may come of an image."""
        offsets = range(2 * PADDING + 1)
        return (self.crop(index, *draws) for draws in product(offsets, offsets, (False, True)))


class ReleasedCrops(Crops):
    """The same by way of Pillow's images, which is what torchvision's transforms do in the released code."""

    def crop(self, index: int, top: int, left: int, mirrored: bool) -> Tensor:
        height, width, _ = self.images[index].shape
        image, edges = np.asarray(Image.fromarray(self.images[index])), (PADDING, PADDING)
        padded = Image.fromarray(np.pad(image, (edges, edges, (0, 0)), mode="reflect"))
        seen = (padded.transpose(MIRROR) if mirrored else padded).crop(
            (left, top, left + width, top + height)
        )
        # Contiguous before they are numbers, as torchvision's ToTensor has them.
        pixels = torch.from_numpy(np.array(seen)).permute(2, 0, 1).contiguous()
        return pixels.float().div_(255).sub_(self.mean).div_(self.std)


class Files(Normalised):
    """Image files as 224 x 224 pixels.

    For training the box of each (left, top, right, bottom) is resized bilinearly, and mirrored with
    probability 1/2. Without boxes they are resized bicubically to 256 x 256 and cropped to the middle, as in
    the evaluation released with DKS.
    """

    def __init__(self, paths: Sequence[Path], boxes: Sequence[tuple] | None, *labels_mean_std: Sequence):
        super().__init__(*labels_mean_std)
        self.paths, self.boxes = paths, boxes

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        mirrored = self.boxes is not None and random.random() < 0.5
        return self.view(index, mirrored), self.labels[index]

    def candidates(self, index: int) -> Iterable[Tensor]:
        """All that may come of an image."""
        return [self.view(index, mirrored) for mirrored in ((False, True) if self.boxes else (False,))]

    def view(self, index: int, mirrored: bool) -> Tensor:
        with Image.open(self.paths[index]) as file:
            image = file.convert("RGB")
        if self.boxes is None:
            seen = image.resize((256, 256), Image.Resampling.BICUBIC).crop((16, 16, 240, 240))
        else:
            seen = image.crop(self.boxes[index]).resize((224, 224), Image.Resampling.BILINEAR)
        return self.normalise(np.array(seen.transpose(MIRROR) if mirrored else seen))


def make_loader(
    dataset: Normalised, batch_size: int, num_workers: int, order: Sequence[int] | None = None
) -> DataLoader:
    """Batches of the examples, in an order; the worker processes start with the first pass and stay."""
    # A process that runs JAX, or has a GPU, must not be forked.
    workers = {"num_workers": num_workers, "persistent_workers": True, "multiprocessing_context": "spawn"}
    return DataLoader(dataset, batch_size, sampler=order, pin_memory=DEVICE.type == "cuda", **workers)


def run(loader: DataLoader) -> None:
    """One pass over all batches, each moved to the device."""
    for images, _ in loader:
        images.to(DEVICE, non_blocking=True)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
