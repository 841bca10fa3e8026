"""The training step in plain PyTorch, in a process of its own: the released algorithm and faster forms of it.

The other side of the comparison that train_step.py makes: it knows nothing of dks_jax but how to be asked.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import torch_forward
from torch import Tensor

from benchmarks.serving import Requests, UnmeasurableError, peak_memory, serve

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Variant(NamedTuple):
    """How the same algorithm is run."""

    channels_last: bool = False
    bfloat16: bool = False
    compiled: bool = False

    @property
    def plain(self) -> bool:
        """Eager, NCHW, float32 and an optimizer as it comes by default."""
        return not any(self)


VARIANTS = {
    "PyTorch": Variant(),
    "PyTorch channels_last": Variant(channels_last=True),
    "PyTorch channels_last, compiled": Variant(channels_last=True, compiled=True),
    "PyTorch channels_last, bfloat16": Variant(channels_last=True, bfloat16=True),
    "PyTorch channels_last, bfloat16, compiled": Variant(channels_last=True, bfloat16=True, compiled=True),
}


class Objective(NamedTuple):
    """The loss of the released code, its smoothing included.

    pairs: of teacher and student, by their places among the classifiers.
    alpha, temperature: weight of the divergences, and what their logits are divided by.
    epsilon: p becomes (p + epsilon) / (1 + number of classes * epsilon).
    """

    pairs: Sequence[tuple[int, int]]
    alpha: float
    temperature: float
    epsilon: float

    def __call__(self, logits: Sequence[Tensor], labels: Tensor) -> Tensor:
        """The cross-entropies of all classifiers and the divergences of all pairs, summed."""
        loss = sum((F.cross_entropy(z, labels) for z in logits), start=torch.zeros((), device=labels.device))
        p = [self._smoothed(F.softmax(z / self.temperature, dim=1)) for z in logits]
        for teacher, student in self.pairs:
            divergence = F.kl_div(p[student].log(), p[teacher].detach(), reduction="batchmean")
            loss = loss + self.alpha * self.temperature**2 * divergence
        return loss

    def _smoothed(self, p: Tensor) -> Tensor:
        return (p + self.epsilon) / (1 + p.shape[1] * self.epsilon)


def why_not_compiled() -> str:
    """What torch.compile lacks here; empty where that is nothing."""
    compiler = os.environ.get("CXX", "g++") if DEVICE.type == "cpu" else os.environ.get("CC", "gcc")
    if not shutil.which(compiler):
        return f"torch.compile needs a compiler, and there is no {compiler}"
    return "" if DEVICE.type == "cpu" or find_spec("triton") else "torch.compile needs triton"


def make_optimizer(parameters: Sequence[Tensor], options: Mapping[str, Any], fused: bool) -> torch.optim.SGD:
    """SGD with momentum; options: learning_rate, momentum, weight_decay, decay_norm_and_bias."""
    decays = [p for p in parameters if p.ndim > 1 or options["decay_norm_and_bias"]]
    others = [p for p in parameters if p.ndim == 1 and not options["decay_norm_and_bias"]]
    groups = [{"params": decays, "weight_decay": options["weight_decay"]}, {"params": others}]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=options["learning_rate"],
        momentum=options["momentum"],
        fused=fused or None,
    )


def place(tensor: Tensor, channels_last: bool) -> Tensor:
    """The tensor on the device, images and kernels in the memory format."""
    image_or_kernel = channels_last and tensor.dim() == 4
    return tensor.to(
        DEVICE, memory_format=torch.channels_last if image_or_kernel else torch.contiguous_format
    )


def is_parameter(name: str) -> bool:
    """Whether a tensor is trained."""
    return not name.endswith(("running_mean", "running_var"))


def build(options: dict[str, Any]) -> Requests:
    """What can be asked for.

    options: `variant`, a name of VARIANTS; `arrays`, a file of the network's arrays by PyTorch's names and of
    `images` [step, batch, channel, height, width], normalised, and `labels` [step, batch]; `objective` and
    `optimizer`, as `Objective` and `make_optimizer` take them; `matrix`, the side of a matrix.
    """
    variant = VARIANTS[options["variant"]]
    if variant.compiled and (reason := why_not_compiled()):
        raise UnmeasurableError(f"{reason}.")
    tensors, batches = read(options["arrays"], partial(place, channels_last=variant.channels_last))
    objective = Objective(**options["objective"])
    parameters = [tensor.requires_grad_() for name, tensor in tensors.items() if is_parameter(name)]
    optimizer = make_optimizer(parameters, options["optimizer"], fused=not variant.plain)
    clip_norm = options["optimizer"]["clip_norm"]

    def network(images: Tensor, training: bool, tensors: Mapping[str, Tensor] = tensors) -> list[Tensor]:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=variant.bfloat16):
            outputs = torch_forward.outputs(tensors, images, training=training)
        return [logits.float() for logits in outputs]

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        return objective(network(images, training=True), labels)

    # As it is deployed: without the branches.
    backbone = {name: t for name, t in tensors.items() if not name.startswith("ep") and "_head" not in name}

    def classify(images: Tensor) -> Tensor:
        return network(images, False, backbone)[-1]

    if variant.compiled:
        loss_of, classify = torch.compile(loss_of), torch.compile(classify)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        try:
            loss = loss_of(images, labels)
        except RuntimeError as error:
            if not variant.compiled:
                raise
            raise UnmeasurableError(f"torch.compile fails with {str(error).splitlines()[0]}") from error
        loss.backward()
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()
        return loss.detach()

    return requests(step, classify, batches, torch.bfloat16 if variant.bfloat16 else torch.float32, options)


def read(
    path: str, place: Callable[[Tensor], Tensor]
) -> tuple[dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
    """The tensors of the network by name, and the batches."""
    with np.load(path) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    images, labels = (arrays.pop(name) for name in ("images", "labels"))
    batches = [(place(x), y.long().to(DEVICE)) for x, y in zip(images, labels, strict=True)]
    return {name: place(tensor) for name, tensor in arrays.items()}, batches


def requests(
    step: Callable[[Tensor, Tensor], Tensor],
    classify: Callable[[Tensor], Tensor],
    batches: Sequence[tuple[Tensor, Tensor]],
    dtype: torch.dtype,
    options: Mapping[str, Any],
) -> Requests:
    """What can be asked of a network in PyTorch.

    Args:
      step: trains with a batch; returns its loss.
      classify: logits of images in evaluation mode.
      dtype: of the matrices.
      options: `matrix`, their side; they are multiplied as often as there are batches.
    """
    torch.backends.cudnn.benchmark = True
    matrix = torch.randn((options["matrix"],) * 2, device=DEVICE, dtype=dtype)

    def first_losses() -> list[float]:
        _allow_tf32(False)
        return [float(step(*batch)) for batch in batches[:2]]

    def train() -> None:
        _allow_tf32(True)
        losses = torch.stack([step(*batch) for batch in batches])
        # Fetching them waits for the device.
        if not torch.isfinite(losses).all():
            raise UnmeasurableError("the loss is not finite.")

    @torch.no_grad()
    def forward() -> None:
        _allow_tf32(False)
        for images, _ in batches:
            classify(images).cpu()

    def product() -> float:
        _allow_tf32(True)
        return float(torch.stack([(matrix @ matrix)[0, 0] for _ in batches]).sum())

    return {
        "first losses": first_losses,
        "train": train,
        "forward": forward,
        "product": product,
        "peak memory": lambda: torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else peak_memory(),
    }


def _allow_tf32(allowed: bool) -> None:
    """Whether float32 products may round their factors to 10 bits on a GPU, as XLA does by default there."""
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


if __name__ == "__main__":
    serve(build)
