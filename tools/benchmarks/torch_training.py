"""The training step in plain PyTorch, in a process of its own: the released algorithm and faster forms of it.

It knows nothing of dks_jax. Of the released code, network and divergence are imported from a checkout.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torch_forward
from torch import Tensor

from benchmarks.worker import MATRIX, Requests, UnmeasurableError, peak_memory, serve

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# The first one as PyTorch comes by default: eager, NCHW, float32 and an optimizer that is not fused.
VARIANTS = "PyTorch", *(f"PyTorch channels_last{how}" for how in ("", ", compiled", ", bfloat16"))
VARIANTS += (f"{VARIANTS[-1]}, compiled",)
RELEASED = "released code"
# In the smoothing of the probabilities, as released.
EPSILON = 1e-8
Loss = Callable[[Any, Tensor], Tensor]
# From images to logits; in training mode or not.
Network = Callable[[Tensor, bool], Sequence[Tensor]]


def build(options: dict[str, Any]) -> Requests:
    """What train.py asks for.

    options: `variant`, one of VARIANTS or RELEASED; `arrays`, a file of the network's arrays by PyTorch's
    names, `images` [step, batch, channel, height, width], normalised, and `labels` [step, batch]; keywords of
    the `optimizer`; `original`, the folder of the released code, and the arguments of its `network`.
    """
    variant = options["variant"]
    with np.load(options["arrays"]) as file:
        given = {name: torch.from_numpy(file[name]) for name in file.files}
    placing = partial(place, channels_last="channels_last" in variant)
    labels = placing(given.pop("labels").long())
    batches = list(zip(map(placing, given.pop("images")), labels, strict=True))
    tensors = {name: placing(tensor) for name, tensor in given.items()}
    trained = {name: t for name, t in tensors.items() if not name.endswith(("running_mean", "running_var"))}
    parameters = [tensor.requires_grad_() for tensor in trained.values()]
    fused = True if variant in VARIANTS[1:] else None
    optimizer = torch.optim.SGD(parameters, **options["optimizer"], fused=fused)
    network, loss_of = released(tensors, options) if variant == RELEASED else plain(tensors, variant)
    dtype = torch.bfloat16 if "bfloat16" in variant else torch.float32
    torch.backends.cudnn.benchmark = True
    matrix = torch.randn((MATRIX, MATRIX), device=DEVICE, dtype=dtype)

    def forward_and_loss(images: Tensor, labels: Tensor) -> Tensor:
        return loss_of([logits.float() for logits in network(images, True)], labels)

    def classify(images: Tensor) -> Tensor:
        return network(images, False)[-1].float()

    if "compiled" in variant:
        forward_and_loss, classify = torch.compile(forward_and_loss), torch.compile(classify)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        try:
            loss = forward_and_loss(images, labels)
        except RuntimeError as error:
            # What torch.compile lacks on a machine, a compiler for example, shows here.
            if "compiled" not in variant:
                raise
            raise UnmeasurableError(f"torch.compile fails with {str(error).splitlines()[0]}") from error
        loss.backward()
        optimizer.step()
        return loss.detach()

    def first_losses() -> list[float]:
        allow_tf32(False)
        return [float(step(*batch)) for batch in batches[:2]]

    def train() -> None:
        allow_tf32(True)
        losses = torch.stack([step(*batch) for batch in batches])
        # Fetching them waits for the device.
        if not torch.isfinite(losses).all():
            raise UnmeasurableError("the loss is not finite.")

    @torch.no_grad()
    def forward() -> None:
        allow_tf32(False)
        for images, _ in batches:
            classify(images).cpu()

    def product() -> None:
        allow_tf32(True)
        torch.stack([(matrix @ matrix)[0, 0] for _ in batches]).cpu()

    memory = torch.cuda.max_memory_allocated if DEVICE.type == "cuda" else peak_memory
    requests = {"first losses": first_losses, "train": train, "forward": forward, "product": product}
    return requests | {"peak memory": memory}


def allow_tf32(allowed: bool) -> None:
    """Whether float32 products may round their factors to 10 bits on a GPU, as XLA does by default there."""
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


def place(tensor: Tensor, channels_last: bool) -> Tensor:
    """The tensor on the device; images and kernels in the memory format."""
    kind = torch.channels_last if channels_last and tensor.dim() == 4 else torch.contiguous_format
    return tensor.to(DEVICE, memory_format=kind, non_blocking=True)


def plain(tensors: dict[str, Tensor], variant: str) -> tuple[Network, Loss]:
    """The network, without its branches in evaluation mode, as it is deployed; and the stacked loss."""
    backbone = {name: t for name, t in tensors.items() if not name.startswith("ep") and "_head" not in name}

    def network(images: Tensor, training: bool) -> list[Tensor]:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled="bfloat16" in variant):
            return torch_forward.outputs(tensors if training else backbone, images, training=training)

    return network, lambda logits, labels: stacked_loss(torch.stack(list(logits)), labels)


class NestedDict(dict):
    """What the released code takes of the package nested_dict."""

    def items_flat(self) -> Iterator[tuple[tuple[str, ...], Any]]:
        for name, value in self.items():
            inner = NestedDict(value).items_flat() if isinstance(value, dict) else [((), value)]
            yield from (((name, *path), leaf) for path, leaf in inner)


def released(tensors: dict[str, Tensor], options: Mapping[str, Any]) -> tuple[Network, Loss]:
    """The network and the loss of the released code."""
    module = ModuleType("nested_dict")
    vars(module)["nested_dict"] = NestedDict
    sys.modules["nested_dict"] = module
    if DEVICE.type == "cpu":
        # The released divergence moves a tensor to a GPU, whatever there is.
        torch.Tensor.cuda = lambda self: self  # pyright: ignore[reportAttributeAccessIssue]
    sys.path.insert(0, str(Path(options["original"]) / "wrn_DKS"))
    from KL_divergence import KL_divergence  # pyright: ignore[reportMissingImports]
    from resnet import resnet  # pyright: ignore[reportMissingImports]

    network, parameters = resnet(*options["network"])
    assert tensors.keys() == parameters.keys()
    return lambda images, training: network(images, tensors, training), partial(released_loss, KL_divergence)


def released_loss(divergence: Loss, logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """The sum over classifiers and ordered pairs, term by term; divergence: of a teacher and a student."""
    terms = []
    for student in logits:
        terms.append(F.cross_entropy(student, labels))
        terms += [divergence(teacher.detach(), student) for teacher in logits if teacher is not student]
    return torch.stack(terms).sum()


def stacked_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The same of logits [classifier, batch, class], by one log-softmax and one matrix product."""
    count, batch, _ = logits.shape
    log_p = F.log_softmax(logits, dim=2)
    cross_entropies = -log_p.gather(2, labels.expand(count, batch)[..., None]).sum() / batch
    p = smooth(log_p.exp())
    cross = p.detach().flatten(1) @ p.log().flatten(1).T / batch
    # The divergence of a classifier from itself, which is among these, is 0 with a gradient of 0.
    return cross_entropies + count * cross.diagonal().detach().sum() - cross.sum()


def smooth(p: Tensor) -> Tensor:
    """(p + epsilon) / (1 + num_classes epsilon)."""
    return (p + EPSILON) / (1 + p.shape[-1] * EPSILON)


if __name__ == "__main__":
    serve(build)
