"""The training step of the PyTorch code released with DKS, in a process of its own.

Its network and its divergence are imported from a checkout of github.com/sundw2014/DKS; what its main program
makes of them, a loss and an optimizer, stands here as it stands there.
"""

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.serving import Requests, serve
from benchmarks.torch_training import DEVICE, is_parameter, read, requests


class NestedDict(dict):
    """What the released code takes of the package nested_dict."""

    def items_flat(self) -> Iterator[tuple[tuple[str, ...], Any]]:
        """The entries that are no dicts, by their paths."""
        for name, value in self.items():
            if isinstance(value, dict):
                yield from (((name, *path), leaf) for path, leaf in NestedDict(value).items_flat())
            else:
                yield (name,), value


def build(options: dict[str, Any]) -> Requests:
    """What can be asked for.

    options: `original`, the folder of the checkout; `depth`, `width` and `classes`; `arrays`, `optimizer` and
    `matrix` as in torch_training.py.
    """
    if not find_spec("nested_dict"):
        module = ModuleType("nested_dict")
        vars(module)["nested_dict"] = NestedDict
        sys.modules["nested_dict"] = module
    if DEVICE.type == "cpu":
        # The released divergence moves a tensor to a GPU, whatever there is.
        torch.Tensor.cuda = lambda self: self  # pyright: ignore[reportAttributeAccessIssue]
    sys.path.insert(0, str(Path(options["original"]) / "wrn_DKS"))
    from KL_divergence import KL_divergence  # pyright: ignore[reportMissingImports]
    from resnet import resnet  # pyright: ignore[reportMissingImports]

    network, parameters = resnet(options["depth"], options["width"], options["classes"], False)
    tensors, batches = read(options["arrays"], lambda tensor: tensor.to(DEVICE))
    assert tensors.keys() == parameters.keys()
    for name, tensor in tensors.items():
        parameters[name].data.copy_(tensor)
    settings = options["optimizer"]
    optimizer = torch.optim.SGD(
        [parameter for name, parameter in parameters.items() if is_parameter(name)],
        settings["learning_rate"],
        momentum=settings["momentum"],
        weight_decay=settings["weight_decay"],
    )

    def step(images: Tensor, labels: Tensor) -> Tensor:
        outputs = [output.float() for output in network(images, parameters, True)]
        terms = []
        for output in outputs:
            terms.append(F.cross_entropy(output, labels))
            for other in outputs:
                if output is not other:
                    terms.append(KL_divergence(other.detach(), output))
        loss = torch.stack(terms).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    def classify(images: Tensor) -> Tensor:
        return network(images, parameters, False)[-1]

    return requests(step, classify, batches, torch.float32, options)


if __name__ == "__main__":
    serve(build)
