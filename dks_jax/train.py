"""Trains a deeply-supervised network.

    python -m dks_jax.train --config configs/NAME.py[:METHOD] [--workdir DIR] [--config.FIELD=VALUE ...]

METHOD is dks (every classifier teaches every other one), ds (deep supervision alone), baseline (no
branch), top_down or bottom_up. A run that was stopped goes on when it is started again in its workdir.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp

from dks_jax import configuration, data, models, optim, workdir
from dks_jax.checkpoint import Checkpoints, save_weights
from dks_jax.configuration import Config
from dks_jax.curves import draw_curves
from dks_jax.data.feed import Feed
from dks_jax.data.images import ImageData
from dks_jax.errors import InputError
from dks_jax.logs import MetricsLog, Progress, Record
from dks_jax.metrics import EpochMeans, Stopwatch, require_finite
from dks_jax.steps import Devices, Steps, TrainState
from dks_jax.supervision import backbone_only
from dks_jax.synergy import METHODS, objective

# Drawing takes a third of a second.
SECONDS_BETWEEN_DRAWINGS = 30.0
PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status, 2 where the input is wrong."""
    try:
        config, folder = parse(sys.argv[1:] if argv is None else argv)
        train(config, folder)
    # The operating system's own errors are about files: no space, no permission, a name too long.
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint, if any", file=sys.stderr)
        return 130
    return 0


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line as every other wrong input is reported."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[0].upper()}{message[1:]}; see python -m dks_jax.train --help.")


def parse(argv: Sequence[str]) -> tuple[Config, Path]:
    """The config and the workdir that a command line asks for."""
    parser = Parser(
        "python -m dks_jax.train",
        description=__doc__,
        epilog=fields_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE[:METHOD]", help="config file and method")
    parser.add_argument("--workdir", metavar="DIR", help="default: runs/<config>-<method>-seed<seed>")
    overrides, rest = {}, []
    for argument in argv:
        if override := re.fullmatch(r"--config\.([^=]+)=(.*)", argument, re.DOTALL):
            overrides[override[1]] = override[2]
        else:
            rest.append(argument)
    arguments = parser.parse_args(rest)
    config = configuration.load(arguments.config, overrides)
    if arguments.workdir == "":
        raise InputError("`--workdir` must name a folder; got an empty name.")
    if arguments.workdir:
        return config, Path(os.path.expanduser(arguments.workdir))
    name = configuration.split_method(arguments.config)[0].stem
    return config, Path("runs", f"{name}-{config.method}-seed{config.seed}")


def fields_help() -> str:
    """The fields of a config and their meaning, a line each."""
    meanings = {name: field.meaning for name, field in configuration.FIELDS.items()}
    for model in models.MODELS:
        meanings |= {f"model.{name}": f"of {model}" for name in models.arguments(model)}
    return "\n".join(
        ["fields of the config:", *(f"  --config.{name:34} {text}" for name, text in meanings.items())]
    )


class Run(NamedTuple):
    """What the loop works with; built and checked before anything is written."""

    images: ImageData
    train_feed: Feed
    test_feed: Feed
    steps: Steps
    schedule: optim.Schedule


def prepare(config: Config) -> Run:
    """Loads the data and builds the network, the objective, the optimizer and the compiled steps.

    Raises:
      InputError: a field of the config is wrong, or the data is absent or damaged.
    """
    for field, accepted in (("method", METHODS), ("precision", PRECISIONS)):
        if config[field] not in accepted:
            raise InputError(f"`{field}` must be one of {', '.join(accepted)}; got {config[field]!r}.")
    # Everything that can be checked without the data comes before they are downloaded or decoded.
    data.check(config.data)
    models.check(config.model)
    optim.check(config.optimizer, config.epochs)
    devices = Devices()
    images = data.load(config.data)
    train_feed, test_feed = data.make_feeds(
        config.data,
        images,
        seed=config.seed,
        norm_groups=config.norm_groups,
        dtype=PRECISIONS[config.precision],
        devices=devices,
    )
    optimizer, schedule = optim.from_config(config.optimizer, config.epochs, train_feed.steps_per_epoch)
    network = models.build(
        config.model,
        num_classes=len(images.class_names),
        channels=images.train.images.shape[-1],
        branches=config.method != "baseline",
        norm_groups=config.norm_groups,
        seed=config.seed,
    )
    teaches = METHODS[config.method](len(network.names))
    loss = partial(objective, teaches=teaches, names=network.names, **config.synergy)
    steps = Steps(network, loss, optimizer, seed=config.seed, devices=devices)
    return Run(images, train_feed, test_feed, steps, schedule)


def train(config: Config, folder: Path) -> None:
    """Trains, or goes on training, in `folder`: logs, checkpoints, curves, and at the end the weights.

    Raises:
      InputError: the config, the data or the workdir is wrong, or the loss is no longer finite.
    """
    workdir.check(folder, config)
    run = prepare(config)
    workdir.create(folder, config, run.images)
    checkpoints = Checkpoints(folder / "checkpoints")
    fresh = run.steps.initial_state()
    state = checkpoints.restore_latest(fresh) or fresh
    del fresh
    step = int(state.step)
    log = MetricsLog(folder, last_step=step)
    progress = Progress(config.epochs * run.train_feed.steps_per_epoch, step, config.epochs)
    first_epoch = step // run.train_feed.steps_per_epoch
    progress.say(describe(config, run, state))
    if first_epoch:
        progress.say(f"going on after epoch {first_epoch} of {config.epochs}")
    train_watch, test_watch = Stopwatch(), Stopwatch()
    drawn = time.perf_counter()
    try:
        for epoch in range(first_epoch, config.epochs):
            state, train_record = train_epoch(run, state, epoch, train_watch, progress)
            test_record = evaluate(run, state, epoch, test_watch)
            log.add(train_record)
            log.add(test_record)
            progress.end_epoch(train_record, test_record)
            last = epoch + 1 == config.epochs
            if last or (epoch + 1) % config.checkpoint_every_epochs == 0:
                checkpoints.save(int(state.step), state)
            if time.perf_counter() - drawn > SECONDS_BETWEEN_DRAWINGS:
                draw_curves(log.records, folder / "curves.png", folder.name)
                drawn = time.perf_counter()
    finally:
        progress.close()
        log.close()
        checkpoints.close()
    if log.records:
        draw_curves(log.records, folder / "curves.png", folder.name)
    if first_epoch < config.epochs or not (folder / "weights").exists():
        params, batch_stats = backbone_only(state.params), backbone_only(state.batch_stats)
        save_weights(folder / "weights", params, batch_stats, weights_metadata(config, run.images))
    print(result(log.records, folder))


def train_epoch(
    run: Run, state: TrainState, epoch: int, watch: Stopwatch, progress: Progress
) -> tuple[TrainState, Record]:
    """One pass over the training images, and its line of the log."""
    feed = run.train_feed
    step = epoch * feed.steps_per_epoch
    means = EpochMeans()
    watch.reset()
    for chunk in feed.chunks(epoch):
        begin = time.perf_counter()
        state, history = run.steps.train(state, feed, chunk)
        watch.add(chunk.batch_size, int(history["examples"].sum()), time.perf_counter() - begin)
        require_finite(history, step + 1, f"step {{}} (epoch {epoch + 1})")
        step += chunk.num_batches
        means.add(history)
        progress.advance(chunk.num_batches, epoch + 1, means.result(), watch.images_per_second)
    return state, _record(run, "train", epoch, means, watch)


def evaluate(run: Run, state: TrainState, epoch: int, watch: Stopwatch) -> Record:
    """One pass over the held-out images, and its line of the log."""
    means = EpochMeans()
    watch.reset()
    for chunk in run.test_feed.chunks(epoch):
        begin = time.perf_counter()
        history = run.steps.evaluate(state, run.test_feed, chunk)
        watch.add(chunk.batch_size, int(history["examples"].sum()), time.perf_counter() - begin)
        require_finite(history, chunk.first + 1, f"the evaluation after epoch {epoch + 1}, batch {{}}")
        means.add(history)
    return _record(run, "test", epoch, means, watch)


def _record(run: Run, split: str, epoch: int, means: EpochMeans, watch: Stopwatch) -> Record:
    step = (epoch + 1) * run.train_feed.steps_per_epoch
    return {
        "step": step,
        "epoch": epoch + 1,
        "split": split,
        **means.result(),
        "learning_rate": float(run.schedule(step - 1)),
        "images_per_second": watch.images_per_second,
    }


def describe(config: Config, run: Run, state: TrainState) -> str:
    """What is about to be trained, on what, in three lines."""
    model = ", ".join(f"{field} {value}" for field, value in config.model.items() if field != "name")
    params = sum(array.size for array in state.params.values())
    backbone = sum(array.size for array in backbone_only(state.params).values())
    return (
        f"{config.model.name} ({model}), method {config.method}: {params:,} parameters in training, "
        f"{backbone:,} in use\n"
        f"{config.data.source}: {run.train_feed.num_examples:,} training and {run.test_feed.num_examples:,} "
        f"held-out images in {len(run.images.class_names)} classes\n"
        f"{config.epochs} epochs of {run.train_feed.steps_per_epoch} steps, {config.precision}, on "
        f"{jax.device_count()} {jax.devices()[0].device_kind} device(s)"
    )


def weights_metadata(config: Config, images: ImageData) -> dict[str, Any]:
    """What it takes to use the weights: model, class names and preprocessing."""
    height, width, channels = images.train.images.shape[1:]
    return {
        "model": dict(config.model),
        "class_names": images.class_names,
        "preprocessing": {
            "height": height,
            "width": width,
            "channels": channels,
            "mean": config.data.mean,
            "std": config.data.std,
        },
    }


def result(records: Sequence[Record], folder: Path) -> str:
    """The outcome of a finished run in one line."""
    tests = [record for record in records if record["split"] == "test"]
    if not tests:
        return f"result: unknown, since the lines of {folder / 'metrics.jsonl'} are gone"
    best = min(tests, key=lambda record: record["error"])
    return (
        f"result: test error {tests[-1]['error']:.2f} % after epoch {tests[-1]['epoch']} "
        f"(best {best['error']:.2f} % at epoch {best['epoch']}); "
        f"weights in {folder / 'weights'}, curves in {folder / 'curves.png'}"
    )


if __name__ == "__main__":
    sys.exit(main())
