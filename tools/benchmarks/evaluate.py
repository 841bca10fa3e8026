"""Images per second of the evaluation on image files, FOLDER/val/<class>/<image>, beside PyTorch.

Both sides have the same random weights, whose logits must agree; the files are repeated as often as the
batches take. PyTorch's DataLoader has as many processes as there are cores, and as many threads decode here.
decoding: from files to batches. dks_jax: uint8, moved to the device; PyTorch: normalised float32, not moved.
network: from batches on the device to logits on the host. dks_jax: normalisation of uint8 included.
end to end: from files to top-1 and top-5 error and likelihood.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import agreement
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks import measuring, ours, torch_input
from benchmarks.measuring import OURS, add_count
from benchmarks.torch_training import DEVICE, VARIANTS, Network, allow_tf32, place, plain
from dks_jax.runtime.cores import num_cores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", required=True, metavar="FOLDER", help="holds val/<class>/<image>")
    default = str(ours.CONFIGS / "imagenet_resnet50.py:baseline")
    parser.add_argument("--config", default=default, metavar="FILE[:METHOD]", help="default ResNet-50 alone")
    add_count(parser, "--batch_size", 32, "images in a batch")
    add_count(parser, "--batches", 2, "batches in a measurement for each core")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    num_workers, size = num_cores(), options.batch_size
    measuring.require_same_device(DEVICE.type)
    torch.set_num_threads(num_workers)
    torch.backends.cudnn.benchmark = True
    # As here.
    allow_tf32(False)
    fields = ours.IN_FILES | {"data.root": options.root}
    setting = ours.load(options.config, {"batch_size": size, "classes": 1000}, fields)
    # Whole batches for each core, because a worker of a DataLoader decodes no less.
    split, paths, labels = ours.find_files(setting, options.batches * num_workers * size)
    own_network = ours.build_network(setting)
    arrays, own = ours.network_for_pytorch(setting, own_network), ours.Evaluation(setting, split, own_network)
    dataset = torch_input.Files(paths, None, labels, *setting.statistics)
    loader = torch_input.make_loader(dataset, size, num_workers)
    batches, expected, logits = [images for images, _ in loader], own.logits(), {}
    # The memory format is the network's alone.
    decoding: dict[str, Callable[[], Any]] = {OURS: own.decode, VARIANTS[0]: partial(list, loader)}
    rows = {"decoding": decoding, "network": {OURS: own.logits}, "end to end": {OURS: own.metrics}}
    for name in VARIANTS[:2]:
        placing = partial(place, channels_last="channels_last" in name)
        tensors = {array: placing(torch.tensor(values)) for array, values in arrays.items()}
        network, placed = plain(tensors, name)[0], [placing(images) for images in batches]
        logits[name] = agreement.compare(expected, _logits(network, placed).numpy())
        agreement.require(logits[name], name, "how fast they are cannot be compared")
        rows["network"][name] = partial(_logits, network, placed)
        rows["end to end"][name] = partial(_figures, network, placing, loader)
    seconds = measuring.measure_rounds(rows, options.rounds)
    counts = {"num_files": len(set(paths)), "num_images": len(paths)}
    return {**counts, "logits": logits, "seconds": seconds}


@torch.inference_mode()
def _logits(network: Network, batches: list[Tensor]) -> Tensor:
    return torch.cat([network(images, False)[-1] for images in batches]).cpu()


@torch.inference_mode()
def _figures(network: Network, placing: Callable[[Tensor], Tensor], loader: DataLoader) -> list[float]:
    """Top-1 and top-5 error, and mean negative log-likelihood."""
    measured = []
    for images, host_labels in loader:
        logits, labels = network(placing(images), False)[-1], host_labels.to(DEVICE, non_blocking=True)
        wrong = logits.topk(5).indices != labels[:, None]
        likelihoods = F.cross_entropy(logits, labels, reduction="none")
        measured.append(torch.stack([wrong[:, 0], wrong.all(dim=1), likelihoods]))
    return torch.cat(measured, dim=1).mean(dim=1).tolist()


def show(result: dict[str, Any]) -> list[str]:
    count = result["num_images"]
    lines = [f"{count} images in {result['num_files']} files"]
    for name, found in result["logits"].items():
        difference, largest = found["largest_difference"], found["largest_logit"]
        lines.append(f"logits of {name}: different by {difference:.2e} at most, the largest is {largest:.4g}")
    table = measuring.side_table("images/s", result["seconds"], lambda _, seconds: count / seconds)
    return ["\n".join(lines), table]
