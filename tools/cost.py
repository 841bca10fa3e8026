"""What networks cost: parameters, arithmetic and the memory of training, of configs, without their data.

    python tools/cost.py --config FILE[:METHOD] [--config FILE[:METHOD] ...] [--classes N] [--csv FILE]
        [--config.FIELD=VALUE ...]

prints a table in Markdown with a line for the backbone, for each branch, and for the network in training,
which is all of them. Fields that are set on the command line hold for every config. Nothing is trained and
no weight is drawn: every number follows from shapes.

- Parameters are the trainable ones. MACs are the multiply-accumulate operations of convolutions and products
  in a forward pass of one image of the size in use, `data.image_size`; in training the backward pass takes
  about twice as many more.
- MACs / backbone is what a part adds; for training, which is whole, 2.81 says that it computes 2.81 times
  what the backbone alone would. Leaving / backbone is an image's way to the logits of this classifier and no
  other.
- The state of training, in bytes, is what a device holds between two steps: parameters, the state of the
  optimizer, running statistics and, with `ema_decay`, the moving averages. Gradients, which live within a
  step, take as much again as the parameters.
- Activations, in bytes, are an estimate: the arrays that JAX's derivative of the forward pass keeps for the
  backward pass, for one batch of `data.batch_size` at the size of training, in the form for accelerators and
  with `precision` and `remat` as configured. Several devices divide the batch. XLA also needs buffers to
  compute in, and may keep less by computing something anew; docs/performance.md compares the two.
- What frozen teachers take is not counted.

The classes of CIFAR, digits and ImageNet (imagenet2012) are known; for other data --classes gives their
number. Images whose number of channels the data would tell are taken to have 3. --csv also writes the table
to FILE, unrounded and with the parts of the state.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import Var

from dks_jax import command_line, data, models
from dks_jax.command_line import Parser
from dks_jax.config import Config
from dks_jax.inference.exits.costs import Costs, costs_of
from dks_jax.nn import forms, get_params
from dks_jax.nn.functional import Functional
from dks_jax.nn.precision import DTYPES
from dks_jax.reporting.tables import markdown_table
from dks_jax.runtime.errors import InputError
from dks_jax.runtime.files import atomic_write, require_writable
from dks_jax.supervision import DeeplySupervised, distances_from_head
from dks_jax.training import optimizers
from dks_jax.training.experiment import build_network
from dks_jax.training.state import TrainState, with_average

COLUMNS = (
    *("config", "part", "parameters", "MACs", "MACs / backbone", "leaving / backbone"),
    *("state, bytes", "activations, bytes"),
)


class State(NamedTuple):
    """The bytes of the parts of the state of training."""

    parameters: int
    optimizer: int
    statistics: int
    average: int


class Part(NamedTuple):
    """A line of the table; what does not apply to it is None.

    Attributes:
      name: "backbone", the name of a branch, or "training", which is all of them.
      parameters: number of trainable parameters.
      macs: multiply-accumulate operations of a forward pass of one image.
      leaving: of an image that leaves at this classifier, all that is computed on the way to it.
      state: what training holds between two steps.
      activations: bytes that the backward pass of a batch reads, estimated.
    """

    name: str
    parameters: int
    macs: int
    leaving: int | None = None
    state: State | None = None
    activations: int | None = None


class Cost(NamedTuple):
    """What the network of a config costs.

    Attributes:
      config: the config as it was named.
      size: height, width and channels of the images in use.
      num_classes: number of classes.
      parts: the backbone, then with branches each branch and the network in training.
    """

    config: str
    size: tuple[int, int, int]
    num_classes: int
    parts: tuple[Part, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, 2 where the input is wrong, 130 after Ctrl-C."""
    return command_line.run(lambda: _show(sys.argv[1:] if argv is None else argv))


def _show(argv: Sequence[str]) -> None:
    arguments, overrides = _parse(argv)
    configs = [(name, models.load_config(name, overrides)) for name in arguments.config]
    costs = [cost(name, config, arguments.classes) for name, config in configs]
    if arguments.csv:
        with atomic_write(arguments.csv) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(comma_separated(costs))
    print(markdown(costs))


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    parser = Parser("python tools/cost.py", description=__doc__, allow_abbrev=False)
    meaning = "config file, or the name of one that comes with the library, and method; may be repeated"
    parser.add_argument("--config", action="append", required=True, metavar="FILE[:METHOD]", help=meaning)
    meaning = "number of classes; by default that of the data set, where it is known"
    parser.add_argument("--classes", type=int, metavar="N", help=meaning)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="file to write the table to as well")
    arguments, overrides = parser.parse_with_overrides(argv)
    if arguments.classes is not None and arguments.classes < 1:
        raise InputError(f"`--classes` must be at least 1; got {arguments.classes}.")
    if arguments.csv:
        arguments.csv = arguments.csv.expanduser()
        require_writable(arguments.csv, "--csv")
    return arguments, overrides


def cost(name: str, config: Config, num_classes: int | None = None) -> Cost:
    """What the network of a config costs, from shapes alone.

    Args:
      name: the config as the table names it.
      config: the config.
      num_classes: number of classes; None for that of the data set.

    Raises:
      InputError: a field of the config is wrong, or the number of classes is not known.
    """
    data.check(config.data)
    optimizers.check(config.optimizer, config.epochs)
    source = data.source(config.data.source)
    num_classes = num_classes or source.num_classes(config.data)
    if not num_classes:
        raise InputError(
            f"`--classes` must give the number of classes for {name}, since only the data of the source "
            f"{config.data.source} would tell it; got none."
        )
    size, channels = config.data.image_size, source.channels or config.data.channels or 3
    network = nnx.eval_shape(lambda: build_network(config, num_classes=num_classes, channels=channels))
    # Images may be smaller in training than in use.
    batch = config.data.batch_size, *(config.data.train_size or size,) * 2, channels
    images = jax.ShapeDtypeStruct(batch, DTYPES[config.precision])
    parts = _parts(config, network, _macs(network, (size, size, channels)), images)
    return Cost(name, (size, size, channels), num_classes, parts)


def _parts(config: Config, network: DeeplySupervised, macs: Costs, images: Any) -> tuple[Part, ...]:
    """The lines of a network.

    Args:
      config: the config of the network.
      network: the network, of abstract arrays.
      macs: its arithmetic for one image.
      images: a batch in training, abstract.
    """

    def whole(name: str, network: DeeplySupervised, macs: int, leaving: int | None) -> Part:
        state, activations = _state(config, network), count_activations(config, network, images)
        return Part(name, _num_params(network), macs, leaving, state, activations)

    backbone = whole("backbone", network.drop_branches(), macs.staying, macs.staying)
    if not network.branches:
        return (backbone,)
    branches = [
        Part(name, _num_params(branch), own, leaving=trunk + own)
        for name, branch, trunk, own in zip(
            network.names, network.branches, macs.trunk, macs.own, strict=False
        )
    ]
    training = whole("training", network, macs.trunk[-1] + sum(macs.own), None)
    return (backbone, *branches, training)


def _num_params(module: nnx.Module) -> int:
    return sum(array.size for array in get_params(module).values())


def _macs(network: DeeplySupervised, shape: tuple[int, int, int]) -> Costs:
    """The arithmetic of a network of abstract arrays for one image."""
    network.eval()
    graph, arrays = nnx.split(network)
    # They are counted while the function is traced, which is all that needs values.
    found = []
    jax.eval_shape(lambda arrays: found.append(costs_of(nnx.merge(graph, arrays), shape)), arrays)
    return found[0]


def _state(config: Config, network: DeeplySupervised) -> State:
    """The bytes of the state of training a network of abstract arrays."""
    functional = Functional(network)
    params, batch_stats = functional.params, functional.batch_stats
    distances = distances_from_head(network, params)
    # The number of steps has no part in the shapes.
    optimizer, _ = optimizers.from_config(config.optimizer, config.epochs, 1, distances)
    step: Any = jax.ShapeDtypeStruct((), jnp.int32)
    state = TrainState(step, params, batch_stats, jax.eval_shape(optimizer.init, params))
    average = with_average(state).ema if config.ema_decay else ()
    return State(*map(_bytes, ((state.step, params), state.opt_state, batch_stats, average)))


def _bytes(arrays: Any) -> int:
    return sum(array.size * array.dtype.itemsize for array in jax.tree.leaves(arrays))


def count_activations(config: Config, network: DeeplySupervised, images: Any) -> int:
    """The bytes that the forward pass of a batch in training leaves to the backward pass.

    These are the distinct arrays that the derivative of the forward pass holds, without the parameters and
    the images, which are there anyway.

    Args:
      config: the config, of which `remat` and `norm_statistics` have an effect.
      network: the network, of abstract arrays.
      images: the batch, abstract.
    """
    functional = Functional(network, remat=config.remat, statistics=config.norm_statistics)

    def residuals(params: Any, batch_stats: Any, images: jax.Array, key: jax.Array) -> Any:
        return jax.vjp(lambda params: functional.train(params, batch_stats, images, key)[0], params)[1]

    key = jax.eval_shape(lambda: jax.random.key(0))
    with forms("accelerator"):
        jaxpr = jax.make_jaxpr(residuals)(functional.params, functional.batch_stats, images, key).jaxpr
    # Constants, which derivatives may hold too, are literals.
    outputs = {output for output in jaxpr.outvars if isinstance(output, Var)}
    kept = outputs - {*jaxpr.invars, *jaxpr.constvars}
    return _bytes([variable.aval for variable in kept])


def markdown(costs: Sequence[Cost]) -> str:
    """The table in Markdown, with whole counts, and below it what each config was counted for."""
    lines: list[Sequence[str]] = [COLUMNS]
    for own in costs:
        for part in own.parts:
            counts = [part.parameters, part.macs]
            ratios = [_ratio(value, own.parts[0].macs) for value in (part.macs, part.leaving)]
            memory = [part.state and sum(part.state), part.activations]
            lines.append(
                (
                    own.config,
                    part.name,
                    *(f"{count:,}" for count in counts),
                    *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
                    *("" if size is None else f"{size:,}" for size in memory),
                )
            )
    notes = [
        f"{own.config}: images of {'x'.join(map(str, own.size))}, {own.num_classes:,} classes"
        for own in costs
    ]
    return "\n".join([markdown_table(lines), "", *notes])


def comma_separated(costs: Sequence[Cost]) -> list[list[Any]]:
    """The lines of the table in full, its header first."""
    header = ["config", "height", "width", "channels", "classes", "part", "parameters", "macs"]
    header += ["macs_over_backbone", "leaving_over_backbone"]
    header += [f"{name}_bytes" for name in State._fields] + ["activations_bytes"]
    lines: list[list[Any]] = [header]
    for own in costs:
        for part in own.parts:
            ratios = [_ratio(value, own.parts[0].macs) for value in (part.macs, part.leaving)]
            state = part.state or [None] * len(State._fields)
            lines.append(
                [own.config, *own.size, own.num_classes, *part[:3], *ratios, *state, part.activations]
            )
    return lines


def _ratio(value: int | None, backbone: int) -> float | None:
    return None if value is None else value / backbone


if __name__ == "__main__":
    sys.exit(main())
