"""The names and layouts of PyTorch checkpoints, and ours: one table for each family of networks.

ResNets are named as in torchvision; their branches as in the code released with DHM (`*_head2` is the early
branch, `*_head1` the late one). Wide ResNets are named as in the checkpoints released with DKS, where a
convolution is its own name and branches are `ep1_*` and `ep2_*`. Both list the arrays in the order in which
PyTorch has them, which is what an optimizer's state counts by.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from dks_jax.errors import InputError
from dks_jax.models import Network, wide_resnet
from dks_jax.models.resnet import RECIPES

Shape = tuple[int, ...]
ARRAYS = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
COUNTER = "num_batches_tracked"
# Of a wide ResNet: the published ones end at 40, and building one takes longer with the square of its depth.
DEEPEST = 100
# Number of classes, of channels, or width: far beyond any that fits into memory.
LARGEST = 10**6


class Table(NamedTuple):
    """The names of a family.

    rules: patterns of our names without the last part, and what replaces them; tried in order.
    order: the parts of a PyTorch name in the order in which PyTorch lists them.
    bare: whether a convolution is its own name, without ".weight".
    counters: whether a batch normalisation counts its batches.
    """

    rules: tuple[tuple[str, str], ...]
    order: tuple[str, ...]
    bare: bool
    counters: bool


RESNET = Table(
    rules=(
        (r"branches\.0\.stages\.0\.blocks", "layer3_head2"),
        (r"branches\.0\.stages\.1\.blocks", "layer4_head2"),
        (r"branches\.0\.head\.fc", "fc_head2"),
        (r"branches\.1\.stages\.0\.blocks", "layer4_head1"),
        (r"branches\.1\.head\.fc", "fc_head1"),
        (r"stages\.0\.blocks", "layer1"),
        (r"stages\.1\.blocks", "layer2"),
        (r"stages\.2\.blocks", "layer3"),
        (r"stages\.3\.blocks", "layer4"),
        (r"(stem|head)\.", ""),
    ),
    order=(
        *("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample"),
        *("layer1", "layer2", "layer3", "layer4", "fc"),
        *("layer3_head2", "layer4_head2", "fc_head2", "layer4_head1", "fc_head1"),
        *("weight", "bias", "running_mean", "running_var", COUNTER),
    ),
    bare=False,
    counters=True,
)

WIDE_RESNET = Table(
    rules=(
        (r"branches\.0\.stages\.0\.", "ep1_group1."),
        (r"branches\.0\.stages\.1\.", "ep1_group2."),
        (r"branches\.0\.head\.", "ep1_"),
        (r"branches\.1\.stages\.0\.", "ep2_group2."),
        (r"branches\.1\.head\.", "ep2_"),
        (r"stages\.(\d)\.", r"group\1."),
        (r"stem", "conv0"),
        (r"head\.", ""),
    ),
    order=(
        *("conv0", "conv1", "bn0", "bn1", "convdim", "group0", "group1", "group2", "bn", "fc"),
        *("ep1_group1", "ep1_group2", "ep1_bn", "ep1_fc", "ep2_group2", "ep2_bn", "ep2_fc"),
        *("weight", "bias", "running_mean", "running_var"),
    ),
    bare=True,
    counters=False,
)

# By the name that `config.model.name` gives.
TABLES = {"wide_resnet": WIDE_RESNET} | {f"resnet{depth}": RESNET for depth in RECIPES}


def torch_name(table: Table, name: str) -> str:
    """The name that PyTorch has for an array of ours."""
    module, kind = name.rsplit(".", 1)
    for pattern, replacement in table.rules:
        module, found = re.subn(f"^{pattern}", replacement, module)
        if found:
            break
    if table is RESNET:
        module = re.sub(r"downsample\.conv$", "downsample.0", module)
        module = re.sub(r"downsample\.bn$", "downsample.1", module)
    else:
        module = re.sub(r"\.blocks\.", ".block", module)
    is_conv = re.search(r"(^|\.)conv\w*$", module)
    return module if table.bare and is_conv else f"{module}.{ARRAYS[kind]}"


def names(table: Table, ours: Iterable[str]) -> dict[str, str]:
    """Our names by the names of PyTorch, in the order in which PyTorch lists them."""

    def rank(name: str) -> list[int]:
        # A number is the place of a block, or of a layer within a downsample.
        parts = re.sub(r"block(\d)", r"\1", name).split(".")
        return [int(part) if part.isdecimal() else table.order.index(part) for part in parts]

    theirs = {torch_name(table, name): name for name in ours}
    return {name: theirs[name] for name in sorted(theirs, key=rank)}


def counter_names(theirs: Iterable[str]) -> list[str]:
    """The names of the counters of batches that stand beside running variances."""
    return [name.replace("running_var", COUNTER) for name in theirs if name.endswith("running_var")]


def to_torch(table: Table, ours: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Our arrays by PyTorch's names, in its order and layout: kernels [out, in, height, width], [out, in]."""
    arrays = {name: np.asarray(ours[own]) for name, own in names(table, ours).items()}
    return {name: np.ascontiguousarray(a.transpose(_to_torch(a.ndim))) for name, a in arrays.items()}


def torch_shape(shape: Shape) -> Shape:
    """The shape that PyTorch gives an array of ours."""
    return tuple(shape[axis] for axis in _to_torch(len(shape)))


def from_torch(array: np.ndarray) -> np.ndarray:
    """An array in PyTorch's layout in ours."""
    return np.ascontiguousarray(array.transpose(np.argsort(_to_torch(array.ndim))))


def _to_torch(ndim: int) -> Shape:
    return {4: (3, 2, 0, 1), 2: (1, 0)}.get(ndim, tuple(range(ndim)))


def recognise(shapes: Mapping[str, Shape]) -> Network | None:
    """The network whose checkpoint has arrays of these names and shapes; None where it is none of ours.

    Only a few of the names are looked at: whether the others are right is another question.
    """
    network = None
    try:
        if "group0.block0.conv0" in shapes:
            network = _wide_resnet(shapes)
        elif "layer1.0.conv1.weight" in shapes:
            network = _resnet(shapes)
    except (KeyError, IndexError, InputError):
        pass
    return network if network and _is_real(network) else None


def _is_real(network: Network) -> bool:
    """Whether it can be built: a small file can state sizes without holding that many numbers."""
    sizes = network.num_classes, network.channels, network.model.get("width", 1)
    return all(1 <= size <= LARGEST for size in sizes) and network.model.get("depth", 0) <= DEEPEST


def _wide_resnet(shapes: Mapping[str, Shape]) -> Network:
    num_blocks = len({match[1] for name in shapes if (match := re.match(r"group0\.block(\d+)\.", name))})
    model = {"depth": 6 * num_blocks + 4, "width": shapes["group0.block0.conv0"][0] // 16, "dropout": 0.0}
    wide_resnet.check(**model)
    branches = any(name.startswith("ep") for name in shapes)
    return Network({"name": "wide_resnet", **model}, shapes["fc.weight"][0], shapes["conv0"][1], branches)


def _resnet(shapes: Mapping[str, Shape]) -> Network:
    blocks = {match[0] for name in shapes if (match := re.match(r"layer[1-4]\.\d+(?=\.)", name))}
    counts = Counter(block.partition(".")[0] for block in blocks)
    found = "layer1.0.conv3.weight" in shapes, tuple(counts[f"layer{i}"] for i in range(1, 5))
    depths: dict[Any, int] = {
        (recipe.bottleneck, recipe.backbone): depth for depth, recipe in RECIPES.items()
    }
    branches = any("_head" in name for name in shapes)
    return Network(
        {"name": f"resnet{depths[found]}"}, shapes["fc.weight"][0], shapes["conv1.weight"][1], branches
    )
