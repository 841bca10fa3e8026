"""The training and evaluation steps, compiled once for a mesh of all devices.

The program is global: the state is replicated, the batch is divided over the devices along its first axis,
and XLA inserts the communication. Reductions, dropout masks and crops are therefore global, and the result
does not depend on the number of devices.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dks_jax.data.feeds import Batch, Chunk, Feed
from dks_jax.nn import Arrays, Functional, forms
from dks_jax.reporting.measurements import ECE_BINS, History
from dks_jax.runtime.compilation import KEEP_BARRIERS
from dks_jax.runtime.devices import Devices
from dks_jax.runtime.errors import InputError
from dks_jax.supervision import Attached, DeeplySupervised
from dks_jax.training import optimizers
from dks_jax.training.state import AveragedState, State, TrainState, to_use, update_average, with_average
from dks_jax.training.teachers import Teachers

# (logits [classifier, batch, class], targets, weights=[batch]) -> total, or (total, terms by name), all
# scalars; the targets are labels [batch] or probabilities [batch, class].
Loss: TypeAlias = Callable[..., jax.Array | tuple[jax.Array, Arrays]]
# The step -> keyword arguments of the loss, inside the compiled step of training.
LossSchedule: TypeAlias = Callable[[jax.Array], dict[str, jax.Array]]
# (batch, key of the step) -> batch, inside the compiled step, e.g. to mix images and targets.
Mix: TypeAlias = Callable[[Batch, jax.Array], Batch]

# Waits for the measurements of a call that has been started.
Fetch: TypeAlias = Callable[[], History]

# The network's random streams take the first numbers, one each.
MIXING_STREAM = 2**31 - 1
# The number of a batch, for tracing.
INDEX = jax.ShapeDtypeStruct((), jnp.int32)


@partial(jax.tree_util.register_dataclass, data_fields=["values"], meta_fields=["names"])
@dataclass(frozen=True)
class Measured:
    """The measurements of the batches of one call, in one array, which takes one transfer to fetch.

    names: names of the measurements.
    values: [batch, name], zeros for batches that have not run.
    """

    names: tuple[str, ...]
    values: jax.Array

    @classmethod
    def blank(cls, like: Arrays, length: int) -> "Measured":
        """No measurements yet, of the names and types that those of a batch have."""
        dtype = jnp.result_type(*(value.dtype for value in like.values()))
        return cls(tuple(like), jnp.zeros((length, len(like)), dtype))

    def record(self, index: jax.Array, measured: Arrays) -> "Measured":
        """The same with the measurements of a batch."""
        row = jnp.stack([measured[name] for name in self.names]).astype(self.values.dtype)
        return replace(self, values=self.values.at[index].set(row))

    def fetch(self) -> dict[str, np.ndarray]:
        """The measurements of the batches that have run, [batch] by name; waits for the devices."""
        values = dict(zip(self.names, jax.device_get(self.values).T, strict=True))
        # Every batch has examples.
        return {name: value[values["examples"] > 0] for name, value in values.items()}


class Steps:
    """The compiled steps of one network, objective and optimizer on their feeds.

    Args:
      network: network that returns logits [classifier, batch, class].
      loss: objective, e.g. `objective` with its keyword arguments bound. One that does not take the keyword
        `weights` serves where no batch is padded.
      optimizer: optax transformation of the gradients.
      train_feed: training images.
      test_feed: held-out images; None if nothing is evaluated.
      seed: seed of the network's random streams (dropout) and of mixing, combined with the step.
      devices: devices that hold the arrays.
      remat: whether the backward pass recomputes activations; see `nn.layers.Stage`.
      statistics: how batch normalisation computes its statistics; see `nn.layers.BatchNorm`.
      mix: transformation of each training batch before the network; None for none.
      ema_decay: decay of the moving average of the network's arrays, which is then evaluated in their place;
        0 for none. See `state.update_average`. The average teaches nobody: in the loss the classifiers of
        the network itself are the teachers.
      loss_schedule: function from the step to keyword arguments that `loss` takes in training alone, in place
        of those that are bound; None for none.
      teachers: frozen networks, whose logits `loss` takes as `teachers` in training; None for none.
    """

    def __init__(
        self,
        network: DeeplySupervised | Attached,
        loss: Loss,
        optimizer: optax.GradientTransformation,
        train_feed: Feed,
        test_feed: Feed | None = None,
        *,
        seed: int,
        devices: Devices,
        remat: bool = False,
        statistics: str = "auto",
        mix: Mix | None = None,
        ema_decay: float = 0.0,
        loss_schedule: LossSchedule | None = None,
        teachers: Teachers | None = None,
    ):
        self.train_feed = train_feed
        # Without a feed of held-out images only `evaluate` fails.
        self.test_feed = cast(Feed, test_feed)
        self._names = network.names
        self._network = Functional(network, remat=remat, statistics=statistics)
        self._loss = loss
        self._loss_schedule = loss_schedule
        self._takes_weights = _takes_weights(loss)
        self._optimizer = optimizer
        self._seed = seed
        self._devices = devices
        self._mix = mix
        self._teachers = teachers
        # Arguments of the compiled step, which would otherwise hold them as constants.
        self._teacher_arrays = devices.replicate(teachers.arrays) if teachers else []
        self._ema_decay = ema_decay
        compiled = partial(jax.jit, static_argnames="batch_size")
        options = devices.compiler_options
        keep = KEEP_BARRIERS if remat and devices.on_cpu else {}
        self._train = compiled(self._train_chunk, donate_argnums=0, compiler_options=options | keep)
        self._evaluate = compiled(self._evaluate_chunk, compiler_options=options)

    def initial_state(self, step: int = 0, momentum: Arrays | None = None) -> State:
        """The state before a step, with the weights that the network had when it was given.

        Args:
          step: number of the step, 0 for the first.
          momentum: momentum of every parameter; None for a new optimizer's.
        """
        params = self._network.params
        opt_state = optimizers.state_before(self._optimizer.init(params), step, momentum)
        state: State = TrainState(jnp.int32(step), params, self._network.batch_stats, opt_state)
        if self._ema_decay:
            state = with_average(state)
        # Copied because training donates the buffers, which on a CPU may be shared with the host's arrays.
        return self._devices.replicate(jax.tree.map(np.array, state))

    def train(self, state: State, chunk: Chunk) -> tuple[State, History]:
        """Takes an optimizer step for each batch of a chunk of `train_feed`; `state` is donated.

        Stops after a batch whose loss, or a term of it, is not finite; the history ends with this batch.

        Raises:
          InputError: the loss does not take weights, and a batch is padded.
        """
        state, fetch = self.train_async(state, chunk)
        return state, fetch()

    def train_async(self, state: State, chunk: Chunk) -> tuple[State, Fetch]:
        """Starts what `train` does for `state` and `chunk`, without waiting for the devices."""
        state, measured = self._train(
            state,
            (chunk.arrays, self._teacher_arrays),
            chunk.first,
            chunk.num_batches,
            batch_size=chunk.batch_size,
        )
        return state, partial(self._fetch, measured, chunk.batch_size)

    def evaluate(self, state: State, chunk: Chunk) -> History:
        """The loss and the errors of every classifier, for each batch of a chunk of `test_feed`.

        Of a state with moving averages these are evaluated.

        Raises:
          InputError: the loss does not take weights, and a batch is padded.
        """
        return self.evaluate_async(state, chunk)()

    def evaluate_async(self, state: State, chunk: Chunk) -> Fetch:
        """Starts what `evaluate` does for `state` and `chunk`, without waiting for the devices."""
        network = to_use(state)
        measured = self._evaluate(
            network.params,
            network.batch_stats,
            chunk.arrays,
            chunk.first,
            chunk.num_batches,
            batch_size=chunk.batch_size,
        )
        return partial(self._fetch, measured, chunk.batch_size)

    def lower(self, state: State, chunk: Chunk) -> jax.stages.Lowered:
        """The lowered training step of `state` and `chunk`, to be read or compiled for other devices."""
        return self._train.lower(
            state,
            (chunk.arrays, self._teacher_arrays),
            chunk.first,
            chunk.num_batches,
            batch_size=chunk.batch_size,
        )

    def _train_chunk(self, state, given, first, count, *, batch_size):
        arrays, teacher_arrays = given

        def step(state, index):
            with forms(self._devices.form):
                return self._train_step(
                    state, self.train_feed.batch(arrays, index, batch_size), teacher_arrays
                )

        # Traced once for both its shapes and its operations, which become those of the loop's body.
        step = jax.jit(step, inline=True)

        def body(carry):
            state, done, measured, _ = carry
            state, new = step(state, first + done)
            finite = jnp.all(jnp.isfinite(jnp.stack(list(new.values()))))
            return state, done + 1, measured.record(done, new), finite

        blank = Measured.blank(jax.eval_shape(step, state, INDEX)[1], self._devices.batches_per_call)
        carry = (state, jnp.int32(0), blank, jnp.array(True))
        if self._devices.batches_per_call == 1:
            carry = body(carry)
        else:
            # The length is known only at run time, so that one compilation serves every chunk. XLA does not
            # unroll the loop either, so a step computes the same bits however an epoch is cut into chunks.
            carry = jax.lax.while_loop(lambda carry: (carry[1] < count) & carry[3], body, carry)
        state, _, measured, _ = carry
        return jax.lax.with_sharding_constraint((state, measured), self._devices.replicated)

    def _train_step(self, state: State, batch: Batch, teacher_arrays: Sequence[Any]) -> tuple[State, Arrays]:
        key = jax.random.fold_in(jax.random.key(self._seed), state.step)
        if self._mix:
            batch = self._mix(batch, jax.random.fold_in(key, MIXING_STREAM))
        arguments = self._loss_schedule(state.step) if self._loss_schedule else {}
        if self._teachers:
            arguments["teachers"] = self._teachers.logits(teacher_arrays, batch.images)

        def loss(params):
            logits, batch_stats = self._network.train(params, state.batch_stats, batch.images, key)
            measured = self._measure(logits, batch, **arguments)
            return measured["loss"], (batch_stats, measured)

        gradients, (batch_stats, measured) = jax.grad(loss, has_aux=True)(state.params)
        updates, opt_state = self._optimizer.update(gradients, state.opt_state, state.params)
        params = cast(Arrays, optax.apply_updates(state.params, updates))
        new = TrainState(state.step + 1, params, batch_stats, opt_state)
        if isinstance(state, AveragedState):
            ema = update_average(state.ema, params, batch_stats, state.step, self._ema_decay)
            return AveragedState(*new, ema), measured
        return new, measured

    def _evaluate_chunk(self, params, batch_stats, arrays, first, count, *, batch_size):
        def step(index):
            with forms(self._devices.form):
                batch = self.test_feed.batch(arrays, index, batch_size)
                logits = self._network.eval(params, batch_stats, batch.images)
            return self._measure(logits, batch) | _measure_probabilities(logits, batch)

        step = jax.jit(step, inline=True)

        def body(i, measured):
            return measured.record(i, step(first + i))

        measured = Measured.blank(jax.eval_shape(step, INDEX), self._devices.batches_per_call)
        if self._devices.batches_per_call == 1:
            measured = body(jnp.int32(0), measured)
        else:
            measured = jax.lax.fori_loop(0, count, body, measured)
        return jax.lax.with_sharding_constraint(measured, self._devices.replicated)

    def _measure(self, logits: jax.Array, batch: Batch, **arguments: jax.Array) -> Arrays:
        if self._takes_weights:
            arguments["weights"] = batch.weights
        result = self._loss(logits, batch.targets, **arguments)
        total, terms = result if isinstance(result, tuple) else (result, {})
        labels = _labels(batch)
        wrong = jnp.sum((jnp.argmax(logits, axis=-1) != labels) * batch.weights, axis=-1)
        errors = {f"errors/{name}": wrong[i] for i, name in enumerate(self._names)}
        measured = {"examples": jnp.sum(batch.weights), "loss": total, **terms, **errors}
        # A mixed image has no label of its own.
        if batch.true_labels is not None and batch.targets.ndim == 1:
            measured |= label_noise_counts(logits[-1], labels, batch.true_labels)
        return measured

    def _fetch(self, measured: Measured, batch_size: int) -> History:
        values = measured.fetch()
        # The loss has then counted the padding like examples.
        if not self._takes_weights and np.any(values["examples"] != batch_size):
            raise InputError(
                f"`loss` must take the keyword `weights` where a batch is padded; one of {batch_size} holds "
                f"{values['examples'].min():.0f} examples: have it weigh them, or choose a batch size that "
                "divides the number of images."
            )
        return values


def label_noise_counts(logits: jax.Array, labels: jax.Array, true_labels: jax.Array) -> Arrays:
    """How many labels of a batch are wrong, and what the main classifier makes of the images.

    Args:
      logits: of the main classifier, [batch, class].
      labels: the labels that the images are given, integers [batch].
      true_labels: their true labels, integers [batch].

    Returns:
      Numbers of images. "count/wrong": with a wrong label. "count/memorised": with a wrong label that is
      predicted. "count/wrong_errors", "count/clean_errors": with a wrong and with a right label, whose true
      class is not predicted.
    """
    predicted, wrong = jnp.argmax(logits, axis=-1), labels != true_labels
    missed = predicted != true_labels
    found = {
        "wrong": wrong,
        "memorised": wrong & (predicted == labels),
        "wrong_errors": wrong & missed,
        "clean_errors": ~wrong & missed,
    }
    return {f"count/{name}": jnp.sum(which, dtype=jnp.float32) for name, which in found.items()}


def _labels(batch: Batch) -> jax.Array:
    """The labels [example]; with probabilities as targets the most likely class counts as the label."""
    return batch.targets if batch.targets.ndim == 1 else jnp.argmax(batch.targets, axis=-1)


def _measure_probabilities(logits: jax.Array, batch: Batch) -> Arrays:
    """Calibration of the main classifier, and errors of the mean of the classifiers' probabilities.

    Returns:
      gaps/0 to gaps/14: sums of correctness (0 or 1) minus confidence in each bin of confidence, for
        `calibration_error`.
      errors/mean: number of wrong predictions of the mean, where there are branches.
    """
    labels, probabilities = _labels(batch), jax.nn.softmax(logits, axis=-1)
    confidences = jnp.max(probabilities[-1], axis=-1)
    gaps = ((jnp.argmax(logits[-1], axis=-1) == labels) - confidences) * batch.weights
    bins = jnp.sum(confidences[:, None] > jnp.arange(1, ECE_BINS) / ECE_BINS, axis=1)
    measured = {f"gaps/{i}": jnp.sum(jnp.where(bins == i, gaps, 0)) for i in range(ECE_BINS)}
    if len(logits) > 1:
        mean = jnp.mean(probabilities, axis=0)
        measured["errors/mean"] = jnp.sum((jnp.argmax(mean, axis=-1) != labels) * batch.weights)
    return measured


def _takes_weights(loss: Loss) -> bool:
    try:
        parameters = inspect.signature(loss).parameters
    except (TypeError, ValueError):
        # Some callables have no signature; they fail where they do not take what they are given.
        return True
    return "weights" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
