"""The interface of a family of networks, and the assembly of a network from its parts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from flax import nnx

from dks_jax.config import Config, Field
from dks_jax.runtime.records import Record
from dks_jax.supervision import Branch, BranchSpec, DeeplySupervised, require_forks

Shape: TypeAlias = tuple[int, ...]
# An NNX module from features to features, and the number of channels of its output.
Part: TypeAlias = tuple[Any, int]


class Layers(NamedTuple):
    """Factories of layers, so that blocks do not depend on how their layers are made.

    Attributes:
      conv: from (input channels, output channels, kernel size, stride = 1) to a convolution.
      norm: from the number of channels to a normalisation.
    """

    conv: Callable[..., Any]
    norm: Callable[[int], Any]


class Backbone(NamedTuple):
    """Functions that make the parts of a network; each call draws initial values.

    Attributes:
      blocks: number of blocks in each stage.
      widths: width of each stage, before the expansion of a bottleneck.
      stem: makes the stem.
      stage: makes a stage from its index, the channels of its input, its number of blocks and its width. The
        index is the depth of the stage, 0 for the first of the backbone. In a branch that forks after stage i
        the first stage has the index i + 1.
      head: makes a head from the channels of its input.
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    stem: Callable[[], Part]
    stage: Callable[[int, int, int, int], Part]
    head: Callable[[int], nnx.Module]


class Network(NamedTuple):
    """The description from which a network is built.

    Attributes:
      model: name of the network and its arguments.
      branches: its auxiliary classifiers, shallowest fork first.
      num_classes: number of logits of every classifier.
      channels: number of channels of the images.
    """

    model: dict[str, Any]
    branches: tuple[BranchSpec, ...]
    num_classes: int
    channels: int


@dataclass(frozen=True)
class Preprocessing(Record):
    """How images become the input of a network.

    Attributes:
      name: a name in `data.preprocessing.PREPROCESSING`.
      height, width, channels: shape of the input.
      mean, std: per-channel statistics of pixels in the range 0 to 1.
      assumed: whether this is only the usual preprocessing for the network, since the weights do not say.
      crop_ratio, interpolation: see `data.preprocessing.View`; older weights have the defaults.
    """

    name: str
    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    assumed: bool = False
    crop_ratio: float = 0.875
    interpolation: str = "bilinear"

    @classmethod
    def of(cls, fields: Config, shape: tuple[int, int, int]) -> "Preprocessing":
        """The preprocessing that the section `data` of a config describes.

        Args:
          fields: the section `data` of a config.
          shape: height, width and channels of the images.
        """
        return cls(
            fields.preprocessing,
            *shape,
            tuple(fields.mean),
            tuple(fields.std),
            crop_ratio=fields.crop_ratio,
            interpolation=fields.interpolation,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.height, self.width, self.channels


class TorchFormat(NamedTuple):
    """A format of a family's PyTorch checkpoints, in particular the names of the arrays.

    Attributes:
      library: the library or the released code with these names, e.g. "torchvision".
      recognise: function from the names and shapes of a checkpoint's arrays to the network; None if the
        network is not of the family. It looks at a few of the names, and the others are checked later. An odd
        or absent stem or head is no reason for None; without any head `num_classes` is 0.
      rules: pairs (pattern, replacement) for the start of a name without its last part; the first match
        counts.
      replacements: pairs (pattern, replacement) for any part of such a name, all of which apply afterwards.
      order: the parts of PyTorch names in the order in which PyTorch lists them.
      preprocessing: the preprocessing to assume, since a checkpoint does not hold any.
      imagenet: whether to assume the classes of ImageNet for a checkpoint with 1,000 classes.
      bare: whether the kernel of a convolution has the name of its layer, without ".weight".
      counters: whether batch normalisation layers hold a batch counter.
      training: whether a checkpoint may hold epoch and optimizer, as those released with DKS do.
      branches: whether there are names for the published branches.
      kinds: PyTorch's last part of the name of an array, by that of this library, for arrays whose last part
        is another than in layers of PyTorch; "" where the array has the name of its module.
      columns: kinds of vectors, [channel], that PyTorch stores as [channel, 1, 1].
      joined: pairs (pattern, replacement) for a whole name, all of which apply last.
    """

    library: str
    recognise: Callable[[Mapping[str, Shape]], Network | None]
    rules: tuple[tuple[str, str], ...]
    replacements: tuple[tuple[str, str], ...]
    order: tuple[str, ...]
    preprocessing: Preprocessing
    imagenet: bool = False
    bare: bool = False
    counters: bool = True
    training: bool = False
    branches: bool = True
    kinds: Mapping[str, str] = {}
    columns: tuple[str, ...] = ()
    joined: tuple[tuple[str, str], ...] = ()


def count_classes(shapes: Mapping[str, Shape], fc: str = "fc") -> int:
    """The number of classes by the last matrix of a checkpoint's heads; 0 without a head.

    Args:
      shapes: the shapes of its arrays by name.
      fc: part of the name of the linear layer of each head, e.g. of fc.weight and ep1_fc.weight.
    """
    heads = [shape for name, shape in shapes.items() if fc in name.split(".")[0] and len(shape) == 2]
    return heads[-1][0] if heads else 0


def count_channels(shapes: Mapping[str, Shape], stem: str) -> int:
    """The number of channels of the images by the first kernel of a checkpoint's stem; 3 without any."""
    kernels = [shape for name, shape in shapes.items() if name.startswith(stem) and len(shape) == 4]
    return kernels[0][1] if kernels else 3


class Family(NamedTuple):
    """The networks that share a name and differ in their arguments.

    Attributes:
      backbone: function from the arguments of the network, and the keywords `num_classes`, `channels`,
        `norm_groups` and `rngs`, to its `Backbone`.
      branches: function from the arguments of the network to its published branches.
      arguments: schema of the arguments.
      check: function of the arguments that raises InputError for what the schema cannot express.
      torch: formats of its PyTorch checkpoints, the usual one first; () if there is none.
    """

    backbone: Callable[..., Backbone]
    branches: Callable[..., tuple[BranchSpec, ...]] = lambda **_: ()
    arguments: Mapping[str, Field] = {}
    check: Callable[..., None] = lambda **_: None
    torch: tuple[TorchFormat, ...] = ()


def assemble(backbone: Backbone, branches: Sequence[BranchSpec] = ()) -> DeeplySupervised:
    """Assembles a network from a backbone and branches.

    The initial values of the backbone do not depend on the branches.

    Args:
      backbone: functions that make its parts.
      branches: its auxiliary classifiers, shallowest fork first.

    Raises:
      InputError: a branch forks after a stage that does not exist, or the branches are not in depth order.
    """
    require_forks([spec.after for spec in branches], len(backbone.blocks))

    def run(first: int, channels: int, blocks: Sequence[int], widths: Sequence[int]) -> list[Part]:
        made = []
        for index, (num_blocks, width) in enumerate(zip(blocks, widths, strict=True), start=first):
            made.append(backbone.stage(index, channels, num_blocks, width))
            channels = made[-1][1]
        return made

    stem, channels = backbone.stem()
    stages = run(0, channels, backbone.blocks, backbone.widths)
    head = backbone.head(stages[-1][1])
    made = []
    for after, blocks, widths in branches:
        own = run(after + 1, stages[after][1], blocks, widths)
        made.append(Branch(after, [stage for stage, _ in own], backbone.head([stages[after], *own][-1][1])))
    return DeeplySupervised(stem, [stage for stage, _ in stages], head, made)
