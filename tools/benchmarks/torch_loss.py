"""The loss of deeply-supervised synergy in plain PyTorch, as released and as fast as it gets.

The other side of the comparison that loss.py makes: it knows nothing of dks_jax.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Call = Callable[[], tuple[Tensor, Tensor]]

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
EPSILON = 1e-8


def smooth(p: Tensor) -> Tensor:
    """(p + epsilon) / (1 + num_classes epsilon)."""
    return (p + EPSILON) / (1 + p.shape[-1] * EPSILON)


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(p_teacher || p_student) of logits [batch, class], both smoothed, averaged over the batch."""
    p, q = smooth(F.softmax(teacher, dim=1)), smooth(F.softmax(student, dim=1))
    return (p * torch.log(p / q)).sum(dim=1).mean()


def released_loss(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """The sum over classifiers and ordered pairs, term by term, as in the code released with DKS."""
    terms = []
    for student in logits:
        terms.append(F.cross_entropy(student, labels))
        terms += [divergence(teacher.detach(), student) for teacher in logits if teacher is not student]
    return torch.stack(terms).sum()


def stacked_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The same of logits [classifier, batch, class], by one log-softmax and one matrix product."""
    num_classifiers, batch, _ = logits.shape
    log_p = F.log_softmax(logits, dim=2)
    cross_entropies = -log_p.gather(2, labels.expand(num_classifiers, batch)[..., None]).sum() / batch
    p = smooth(log_p.exp())
    cross = p.detach().flatten(1) @ p.log().flatten(1).T / batch
    # The divergence of a classifier from itself, which is among these, is 0 with a gradient of 0.
    return cross_entropies + num_classifiers * cross.diagonal().detach().sum() - cross.sum()


def value_and_gradient(logits: np.ndarray, labels: np.ndarray) -> dict[str, Call]:
    """By name, a function that computes the loss and its gradient [classifier, batch, class]."""
    on_device = torch.tensor(labels, device=DEVICE)
    apart = [torch.tensor(own, device=DEVICE, requires_grad=True) for own in logits]
    together = torch.tensor(logits, device=DEVICE, requires_grad=True)

    def released() -> tuple[Tensor, Tensor]:
        value = released_loss(apart, on_device)
        return value, torch.stack(torch.autograd.grad(value, apart))

    def stacked() -> tuple[Tensor, Tensor]:
        value = stacked_loss(together, on_device)
        return value, torch.autograd.grad(value, together)[0]

    calls = {"PyTorch as released": released, "PyTorch stacked": stacked}
    return {name: partial(_finished, call) for name, call in calls.items()}


def _finished(call: Call) -> tuple[Tensor, Tensor]:
    value, gradient = call()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return value.detach(), gradient
