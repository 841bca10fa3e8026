"""The evaluation of ImageNet in plain PyTorch: a DataLoader, whose processes decode, and the forward pass.

The other side of the comparison that evaluation.py makes: it knows nothing of dks_jax.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torch_forward
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MEMORY_FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


class Images(Dataset[tuple[Tensor, int]]):
    """Image files, over and over, as the evaluation released with DKS prepares them.

    Resized bicubically to 256 x 256, cropped to the middle 224, (x / 255 - mean) / std.

    Args:
      paths, labels: of the files.
      num_examples: how many images to give; the files are repeated.
      mean, std: per channel.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Sequence[int],
        num_examples: int,
        mean: Sequence[float],
        std: Sequence[float],
    ):
        self.paths = paths
        self.labels = labels
        self.num_examples = num_examples
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (mean, std))

    def __len__(self) -> int:
        return self.num_examples

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        index %= len(self.paths)
        with Image.open(self.paths[index]) as image:
            resized = image.convert("RGB").resize((256, 256), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(resized.crop((16, 16, 240, 240)))).permute(2, 0, 1)
        return pixels.float().div_(255).sub_(self.mean).div_(self.std), self.labels[index]


def make_loader(images: Images, *, batch_size: int, num_workers: int) -> DataLoader:
    """Batches of the images in order, normalised [batch, 3, 224, 224], and their labels.

    The worker processes start with the first pass and stay.
    """
    return DataLoader(
        images,
        batch_size,
        num_workers=num_workers,
        persistent_workers=True,
        pin_memory=DEVICE.type == "cuda",
        # A process that runs JAX, or has a GPU, must not be forked.
        multiprocessing_context="spawn",
    )


class Forward:
    """The forward pass of a ResNet in evaluation mode.

    Args:
      tensors: by PyTorch's names.
      memory_format: of images and kernels, one of MEMORY_FORMATS.
    """

    def __init__(self, tensors: Mapping[str, Tensor], memory_format: str):
        self._memory_format = MEMORY_FORMATS[memory_format]
        self._tensors = {name: self.place(tensor) for name, tensor in tensors.items()}

    def place(self, tensor: Tensor) -> Tensor:
        """The tensor on the device, in the memory format where it is one of images or a kernel."""
        if tensor.dim() != 4:
            return tensor.to(DEVICE)
        return tensor.to(DEVICE, memory_format=self._memory_format, non_blocking=True)

    @torch.inference_mode()
    def logits(self, batches: Iterable[Tensor]) -> np.ndarray:
        """Logits [image, class] of all batches."""
        logits = [torch_forward.logits(self._tensors, self.place(images))[-1] for images in batches]
        return torch.cat(logits).cpu().numpy()

    @torch.inference_mode()
    def evaluate(self, loader: DataLoader) -> tuple[float, float, float]:
        """Top-1 and top-5 error in %, and mean negative log-likelihood."""
        measured = []
        for images, host_labels in loader:
            logits = torch_forward.logits(self._tensors, self.place(images))[-1]
            labels = host_labels.to(DEVICE, non_blocking=True)
            wrong = logits.topk(5).indices != labels[:, None]
            likelihoods = F.cross_entropy(logits, labels, reduction="none")
            measured.append(torch.stack([100 * wrong[:, 0], 100 * wrong.all(dim=1), likelihoods]))
        top1_error, top5_error, nll = torch.cat(measured, dim=1).mean(dim=1).tolist()
        return top1_error, top5_error, nll
