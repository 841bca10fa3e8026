"""The training loop: epochs, evaluation, logs, checkpoints; stopping at any moment and going on."""

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dks_jax import hosts, workdir
from dks_jax.checkpoint import Checkpoints, has_checkpoint
from dks_jax.configuration import Config
from dks_jax.curves import draw_curves
from dks_jax.experiment import Experiment, prepare, weights_metadata
from dks_jax.logs import MetricsLog, Progress, Record
from dks_jax.metrics import EpochMeans, Stopwatch, require_finite
from dks_jax.signals import Interrupted, StopSignals
from dks_jax.steps import TrainState
from dks_jax.supervision import backbone_only
from dks_jax.weights_folder import Weights, save_weights

# Drawing takes a third of a second.
SECONDS_BETWEEN_DRAWINGS = 30.0
# How often the processes of a job agree on whether to stop or to save.
SECONDS_BETWEEN_AGREEMENTS = 1.0


class Position(NamedTuple):
    """How far a run has come.

    epoch: whole epochs, evaluated and logged.
    batch: batches of the next one.
    means: of these batches, as `EpochMeans.state` gives them.
    """

    epoch: int = 0
    batch: int = 0
    means: dict[str, Any] | None = None


def train(config: Config, folder: Path, stop: StopSignals) -> None:
    """Trains, or goes on training, in `folder`: logs, checkpoints, curves, and at the end the weights.

    Raises:
      InputError: the config, the data or the workdir is wrong, the loss is no longer finite, or a
        checkpoint cannot be written.
      Interrupted: a signal asked to stop; the run is saved.
    """
    workdir.check(folder, config)
    experiment = prepare(config, resumed=has_checkpoint(folder / "checkpoints"))
    with workdir.claim(folder, config, experiment.images):
        stop.deferred = True
        Loop(config, experiment, folder, stop).run()


class Loop:
    """One run; `run` works it off.

    In a job of several processes each has one: they work in step, and the primary one alone logs.
    """

    def __init__(self, config: Config, experiment: Experiment, folder: Path, stop: StopSignals):
        self._config = config
        self._experiment = experiment
        self._folder = folder
        self._stop = stop
        self._primary = hosts.is_primary()
        self._checkpoints = Checkpoints(folder / "checkpoints")
        self._train_watch, self._test_watch = Stopwatch(), Stopwatch()
        state, self._position, remarks = self._start()
        self._state: TrainState = state
        self._progress = Progress(self._num_steps, self._step, config.epochs, quiet=not self._primary)
        for line in [*experiment.description, *remarks]:
            self._progress.say(line)
        # One process writes what is written once.
        self._log = MetricsLog(folder, self._position.epoch, self._steps_per_epoch) if self._primary else None
        self._saved = self._drawn = time.perf_counter()

    @property
    def _steps_per_epoch(self) -> int:
        return self._experiment.train_feed.steps_per_epoch

    @property
    def _num_steps(self) -> int:
        return self._config.epochs * self._steps_per_epoch

    @property
    def _step(self) -> int:
        return self._position.epoch * self._steps_per_epoch + self._position.batch

    def run(self) -> None:
        """Trains until the last epoch; see `train`."""
        started_finished = self._position.epoch == self._config.epochs
        with ExitStack() as closing:
            for part in (self._checkpoints, self._progress):
                closing.callback(part.close)
            for epoch in range(self._position.epoch, self._config.epochs):
                self._epoch(epoch)
            self._checkpoints.wait()
        if self._log:
            if not started_finished or not (self._folder / "weights").exists():
                self._save_weights("weights", self._log.records[-1] if self._log.records else {})
            self._draw(self._log)
            self._progress.say(result(self._log.records, self._folder))

    def _start(self) -> tuple[TrainState, Position, list[str]]:
        first_epoch = self._experiment.first_epoch
        fresh = self._experiment.steps.initial_state(
            first_epoch * self._steps_per_epoch, self._experiment.momentum
        )
        restored = self._checkpoints.restore_latest(fresh)
        if restored is None:
            return fresh, Position(first_epoch), []
        state, progress, complaints = restored
        position = Position(**progress)
        done = f"{position.epoch} of {self._config.epochs} epochs"
        if position.batch:
            done += f" and {position.batch} of {self._steps_per_epoch} steps"
        return state, position, [*complaints, f"going on after {done}"]

    def _epoch(self, epoch: int) -> None:
        train_record = self._train_epoch(epoch)
        test_record = self._evaluate(epoch)
        if self._log:
            self._write(self._log, train_record, test_record)
        self._position = Position(epoch + 1)
        if epoch + 1 == self._config.epochs or (epoch + 1) % self._config.checkpoint_every_epochs == 0:
            self._save()

    def _write(self, log: MetricsLog, train_record: Record, test_record: Record) -> None:
        """Leaves what an epoch has brought, before any checkpoint that says it is done."""
        best = min((record["error"] for record in log.records if record["split"] == "test"), default=math.inf)
        log.add(train_record)
        log.add(test_record)
        self._progress.end_epoch(train_record, test_record)
        if test_record["error"] < best:
            self._save_weights("best_weights", test_record)
        if time.perf_counter() - self._drawn > SECONDS_BETWEEN_DRAWINGS:
            self._draw(log)
            self._drawn = time.perf_counter()

    def _train_epoch(self, epoch: int) -> Record:
        """Trains on the rest of an epoch; returns its line of the log."""
        feed, watch = self._experiment.train_feed, self._train_watch
        means = EpochMeans(self._position.means)
        agreement = Agreement()
        watch.reset()
        for chunk in watch.waiting(feed.chunks(epoch, self._position.batch)):
            begin = time.perf_counter()
            self._state, history = self._experiment.steps.train(self._state, feed, chunk)
            watch.add(chunk.batch_size, int(history["examples"].sum()), time.perf_counter() - begin)
            require_finite(history, self._step + 1, f"step {{}} (epoch {epoch + 1})")
            means.add(history)
            self._position = Position(epoch, chunk.first + chunk.num_batches, means.state())
            self._progress.advance(chunk.num_batches, epoch + 1, means.result(), watch.images_per_second)
            self._pause(agreement)
        self._progress.warn_of_waiting(epoch + 1, watch.waited, watch.working)
        return self._record("train", epoch, means, watch)

    def _evaluate(self, epoch: int) -> Record:
        """One pass over the held-out images; returns its line of the log."""
        feed, watch = self._experiment.test_feed, self._test_watch
        means = EpochMeans()
        agreement = Agreement()
        watch.reset()
        for chunk in watch.waiting(feed.chunks(epoch)):
            begin = time.perf_counter()
            history = self._experiment.steps.evaluate(self._state, feed, chunk)
            watch.add(chunk.batch_size, int(history["examples"].sum()), time.perf_counter() - begin)
            require_finite(history, chunk.first + 1, f"the evaluation after epoch {epoch + 1}, batch {{}}")
            means.add(history)
            self._pause(agreement)
        return self._record("test", epoch, means, watch)

    def _record(self, split: str, epoch: int, means: EpochMeans, watch: Stopwatch) -> Record:
        step = (epoch + 1) * self._steps_per_epoch
        return {
            "step": step,
            "epoch": epoch + 1,
            "split": split,
            **means.result(),
            "learning_rate": float(self._experiment.schedule(step - 1)),
            "images_per_second": watch.images_per_second,
        }

    def _pause(self, agreement: "Agreement") -> None:
        """Between two calls of a compiled step: saves where it is time, stops where a signal asked for it."""
        self._checkpoints.check()
        seconds = 60 * self._config.checkpoint_every_minutes
        due = 0 < seconds < time.perf_counter() - self._saved
        stop, due = agreement.on(self._stop.requested, due)
        if stop:
            self._save()
            self._checkpoints.wait()
            raise Interrupted(
                stop,
                f"stopped after step {self._step} of {self._num_steps} and saved: the same command goes on "
                "from there",
                saved=True,
            )
        if due:
            self._save()

    def _save(self) -> None:
        self._checkpoints.save(self._step, self._state, self._position._asdict())
        self._saved = time.perf_counter()

    def _save_weights(self, name: str, test_record: Record) -> None:
        params, batch_stats = backbone_only(self._state.params), backbone_only(self._state.batch_stats)
        metadata = weights_metadata(self._config, self._experiment.images)
        metadata |= {"epoch": test_record.get("epoch"), "test_error": test_record.get("error")}
        save_weights(self._folder / name, Weights(params, batch_stats, metadata))

    def _draw(self, log: MetricsLog) -> None:
        if log.records:
            draw_curves(log.records, self._folder / "curves.png", self._folder.name)


class Agreement:
    """Makes all processes of a job stop and save at the same step, asking them about once a second.

    One for each pass over some data, whose calls take about the same time.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._interval = 1
        self._asked = time.perf_counter()

    def on(self, stop: int, save: bool) -> tuple[int, bool]:
        """(signal to stop for or 0, whether to save), the same for all; all call it in step."""
        if jax.process_count() == 1:
            return stop, save
        self._calls += 1
        if self._calls < self._interval:
            return 0, False
        now = time.perf_counter()
        per_call = (now - self._asked) / self._calls
        stop_all, save_all, slowest = hosts.largest(stop, save, per_call)
        self._calls, self._asked = 0, now
        # At most fourfold growth: the next calls may be slower ones.
        self._interval = max(1, min(4 * self._interval, int(SECONDS_BETWEEN_AGREEMENTS / slowest)))
        return int(stop_all), bool(save_all)


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
