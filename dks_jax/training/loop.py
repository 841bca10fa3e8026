"""The training loop with evaluation, logs and checkpoints; a run can stop at any moment and resume."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dks_jax import models
from dks_jax.config import Config, complete, flatten
from dks_jax.data.feeds import Chunk
from dks_jax.reporting.curves import draw_curves
from dks_jax.reporting.measurements import EpochMeans, History, Stopwatch, require_finite
from dks_jax.reporting.metrics_log import MetricsLog, Record, records_until
from dks_jax.reporting.progress import Progress
from dks_jax.runtime import hosts, output
from dks_jax.runtime.signals import Interrupted, StopSignals
from dks_jax.training import schedules, workdir
from dks_jax.training.calls import Calls
from dks_jax.training.checkpoints import Checkpoints, has_checkpoint
from dks_jax.training.consensus import StopConsensus
from dks_jax.training.experiment import Experiment, prepare
from dks_jax.training.state import Average, AveragedState, State, to_use
from dks_jax.weights import Weights, save_weights

# Drawing the curves takes a third of a second, so it is not done after every epoch.
SECONDS_BETWEEN_DRAWINGS = 30.0


def train(
    config: Config,
    folder: Path,
    stop: StopSignals,
    *,
    config_file: str = "",
    change: bool = False,
    skip_unreadable: bool = False,
) -> None:
    """Trains or resumes a run in `folder`, where it writes logs, checkpoints, curves and at the end weights.

    Of a finished run whose checkpoints were deleted it prints the result alone.

    Args:
      config: the config.
      folder: the workdir, which is made.
      stop: signals that ask the run to stop.
      config_file: name of the file of the config, which is recorded.
      change: whether a run that goes on may do so with another learning rate; see `workdir.check`.
      skip_unreadable: whether the next image takes the place of one that cannot be decoded.

    Raises:
      InputError: the config, the data or the workdir is wrong, the loss is no longer finite, or a
        checkpoint cannot be written.
      Interrupted: a signal asked the run to stop, and it has been saved.
    """
    config = workdir.adopt(folder, config)
    workdir.check(folder, config, change=change)
    if workdir.is_finished(folder, config):
        if hosts.is_primary():
            output.say(result(records_until(folder / "metrics.jsonl"), folder))
        return
    resumed = has_checkpoint(folder / "checkpoints")
    experiment = prepare(config, resumed=resumed, skip_unreadable=skip_unreadable)
    config = experiment.config
    teachers = experiment.teachers.checksums if experiment.teachers else []
    with workdir.claim(folder, config, experiment.images, teachers, config_file=config_file, change=change):
        stop.deferred = True
        run = Run(config, experiment, folder, stop)
        try:
            for epoch in range(run.position.epoch, config.epochs):
                train_record = run.train(epoch)
                test_record = run.evaluate(epoch)
                run.log(train_record, test_record)
                run.end_epoch(epoch)
            run.finish()
        finally:
            run.close()


class Position(NamedTuple):
    """The progress of a run.

    epoch: number of epochs that are trained, evaluated and logged.
    batch: number of batches of the next epoch that are trained.
    means: means over these batches; see `EpochMeans.state`.
    """

    epoch: int = 0
    batch: int = 0
    means: dict[str, Any] | None = None


class Run:
    """The state of a run, with a method for each line of the loop in `train`.

    Each process of a job has its own run. They work in step, and only the primary process logs.

    position: progress of the run, initially as restored from the last checkpoint.
    """

    def __init__(self, config: Config, experiment: Experiment, folder: Path, stop: StopSignals):
        self._config = config
        self._experiment = experiment
        self._steps = experiment.steps
        self._steps_per_epoch = experiment.steps.train_feed.steps_per_epoch
        self._num_steps = config.epochs * self._steps_per_epoch
        self._folder = folder
        self._stop = stop
        self._checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint_keep)
        self._train_watch, self._test_watch = Stopwatch(), Stopwatch()
        self._state, self.position, remarks = self._restore()
        self._found_finished = self.position.epoch == config.epochs
        changes = hosts.on_primary(lambda: workdir.record_changes(folder, config, self._step)) or {}
        self._first_step, self._earlier_schedule = self._step, self._schedule_before(changes)
        # Only one process of a job prints and writes logs.
        primary = hosts.is_primary()
        self._progress = Progress(self._num_steps, self._step, config.epochs, quiet=not primary)
        for line in [*experiment.description, *remarks, *self._explain(changes)]:
            self._progress.say(line)
        self._log = MetricsLog(folder, self.position.epoch, self._steps_per_epoch) if primary else None
        self._saved = self._drawn = time.perf_counter()

    def train(self, epoch: int) -> Record:
        """Trains on the rest of an epoch and returns its record for the log."""
        watch, means, consensus = self._train_watch, EpochMeans(self.position.means), StopConsensus()
        watch.reset()

        def take(chunk: Chunk, history: History) -> None:
            require_finite(history, self._step + 1, f"step {{}} (epoch {epoch + 1})")
            means.add(history)
            self.position = Position(epoch, chunk.first + chunk.num_batches, means.state())
            self._progress.advance(chunk.num_batches, epoch + 1, means.result(), watch.images_per_second)

        calls = Calls(self._steps.train_feed.chunks(epoch, self.position.batch), watch, take)
        for chunk in calls:
            self._state, fetch = self._steps.train_async(self._state, chunk)
            calls.add(chunk, fetch)
            self._pause(consensus, calls)
        self._progress.warn_of_waiting(epoch + 1, watch.waited, watch.working)
        return self._record("train", epoch, means, watch)

    def evaluate(self, epoch: int) -> Record:
        """Evaluates on the held-out images and returns the record for the log."""
        watch, means, consensus = self._test_watch, EpochMeans(), StopConsensus()
        watch.reset()

        def take(chunk: Chunk, history: History) -> None:
            require_finite(history, chunk.first + 1, f"the evaluation after epoch {epoch + 1}, batch {{}}")
            means.add(history)

        calls = Calls(self._steps.test_feed.chunks(epoch), watch, take)
        for chunk in calls:
            calls.add(chunk, self._steps.evaluate_async(self._state, chunk))
            self._pause(consensus, calls)
        return self._record("test", epoch, means, watch)

    def log(self, train_record: Record, test_record: Record) -> None:
        """Writes the records of an epoch and the best weights, before a checkpoint says that it is done."""
        if not self._log:
            return
        tests = [record["error"] for record in self._log.records if record["split"] == "test"]
        self._log.add(train_record)
        self._log.add(test_record)
        self._progress.end_epoch(train_record, test_record)
        if test_record["error"] < min(tests, default=math.inf):
            self._save_weights("best_weights", to_use(self._state), test_record)
        if time.perf_counter() - self._drawn > SECONDS_BETWEEN_DRAWINGS:
            self._draw(self._log)

    def end_epoch(self, epoch: int) -> None:
        """Advances to the next epoch and saves a checkpoint if one is due."""
        self.position = Position(epoch + 1)
        if epoch + 1 == self._config.epochs or (epoch + 1) % self._config.checkpoint_every_epochs == 0:
            self._save()

    def finish(self) -> None:
        """Writes the final weights and curves, and prints the result of the run."""
        self._checkpoints.wait()
        if not self._log:
            return
        if not self._found_finished or not (self._folder / "weights").exists():
            last = self._log.records[-1] if self._log.records else {}
            if isinstance(self._state, AveragedState):
                self._save_weights("raw_weights", self._state, {"epoch": last.get("epoch")})
            self._save_weights("weights", to_use(self._state), last)
        self._draw(self._log)
        # To train for more epochs the last one is enough.
        self._checkpoints.keep(1)
        self._progress.say(result(self._log.records, self._folder))

    def close(self) -> None:
        """Ends the background threads and the progress bar."""
        self._progress.close()
        self._checkpoints.close()

    @property
    def _step(self) -> int:
        return self.position.epoch * self._steps_per_epoch + self.position.batch

    def _restore(self) -> tuple[State, Position, list[str]]:
        """The state and the position of the last checkpoint or of a fresh run, and remarks for the log."""
        first_epoch = self._experiment.first_epoch
        fresh = self._steps.initial_state(first_epoch * self._steps_per_epoch, self._experiment.momentum)
        restored = self._checkpoints.restore_latest(fresh)
        if restored is None:
            return fresh, Position(first_epoch), []
        state, progress, complaints = restored
        position = Position(**progress)
        done = f"{position.epoch} of {self._config.epochs} epochs"
        if position.batch:
            done += f" and {position.batch} of {self._steps_per_epoch} steps"
        return state, position, [*complaints, f"going on after {done}"]

    def _schedule_before(self, changes: workdir.Changes) -> schedules.Schedule:
        """The learning rate as the config had it before it changed."""
        before = {name: tuple(old) if isinstance(old, list) else old for name, (old, _) in changes.items()}
        earlier = complete(flatten(self._config) | before, {}, models.arguments)
        return schedules.from_config(earlier.optimizer, earlier.epochs, self._steps_per_epoch)

    def _explain(self, changes: workdir.Changes) -> list[str]:
        """Lines about what has changed in the config since the last start, and what the rate is by it."""
        listed = [
            f"changed: {name} was {before} and is {now}"
            for name, (before, now) in changes.items()
            if name not in workdir.FREE_FIELDS
        ]
        if not listed:
            return []
        was, now = (float(rate(self._step)) for rate in (self._earlier_schedule, self._experiment.schedule))
        return [
            *listed,
            f"the learning rate at step {self._step} was {was:.4g} and is {now:.4g}",
        ]

    def _record(self, split: str, epoch: int, means: EpochMeans, watch: Stopwatch) -> Record:
        step = (epoch + 1) * self._steps_per_epoch
        # The last step of the epoch may have come before this start.
        schedule = self._experiment.schedule if step > self._first_step else self._earlier_schedule
        return {
            "step": step,
            "epoch": epoch + 1,
            "split": split,
            **means.result(),
            "learning_rate": float(schedule(step - 1)),
            "images_per_second": watch.images_per_second,
        }

    def _pause(self, consensus: StopConsensus, calls: Calls) -> None:
        """Saves and stops between two calls of a compiled step, if a checkpoint is due or a signal came.

        All calls are finished before, so that nothing is saved that is not finite.
        """
        self._checkpoints.check()
        seconds = 60 * self._config.checkpoint_every_minutes
        due = 0 < seconds < time.perf_counter() - self._saved
        stop, due = consensus.on(self._stop.requested, due)
        if stop or due:
            calls.finish()
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
        self._checkpoints.save(self._step, self._state, self.position._asdict())
        self._saved = time.perf_counter()

    def _save_weights(self, name: str, network: Average | State, test_record: Record) -> None:
        metadata = self._experiment.metadata.replace(
            epoch=test_record.get("epoch"), test_error=test_record.get("error")
        )
        save_weights(self._folder / name, Weights(network.params, network.batch_stats, metadata))

    def _draw(self, log: MetricsLog) -> None:
        if log.records:
            draw_curves(log.records, self._folder / "curves.png", self._folder.name)
        self._drawn = time.perf_counter()


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
