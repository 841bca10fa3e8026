"""The training step, the evaluation step and the forward pass, compiled once over a mesh of all devices.

The program is a global one: the state is replicated, the batch divided over the devices along its first
axis, and XLA inserts the communication. Reductions, dropout masks and crops therefore have global
meaning, and the result does not depend on the number of devices.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dks_jax import optim
from dks_jax.compilation import DETERMINISTIC, KEEP_BARRIERS
from dks_jax.convolution import CPU_COMPILER_OPTIONS
from dks_jax.data.feed import Batch, Chunk, Feed
from dks_jax.functional import Arrays, Functional
from dks_jax.metrics import History
from dks_jax.supervision import DeeplySupervised

# (logits [classifier, batch, class], labels [batch], weights=[batch]) -> total and its terms by name.
Loss = Callable[..., tuple[jax.Array, Arrays]]


class TrainState(NamedTuple):
    """All that a training run is made of; a plain pytree."""

    step: jax.Array
    params: Arrays
    batch_stats: Arrays
    opt_state: optax.OptState


class Devices:
    """The mesh of all devices, its one axis dividing the batch.

    batches_per_call: how many batches one call of a compiled step may work through. A loop inside the
      program keeps the host out of the way of an accelerator. On a CPU it is 1 and there is no loop: XLA
      runs the same convolutions 4 to 5 times slower inside of one (WRN-16-1 on 64 digits, 2 cores: 67
      against 327 ms a step).
    deterministic: whether a GPU must compute the same bits in every run.
    devices: which ones; None for all there are.
    compiler_options: what XLA is told where it compiles a program for them.
    """

    def __init__(
        self,
        batches_per_call: int | None = None,
        *,
        deterministic: bool = False,
        devices: Sequence[Any] | None = None,
    ) -> None:
        devices = jax.devices() if devices is None else devices
        self.count = len(devices)
        self.on_cpu = devices[0].platform == "cpu"
        default = 1 if self.on_cpu else 1024
        self.compiler_options = {
            **(CPU_COMPILER_OPTIONS if self.on_cpu else {}),
            **(DETERMINISTIC if deterministic else {}),
        }
        self.batches_per_call = default if batches_per_call is None else batches_per_call
        # Auto axes, because sharding constraints do not apply to explicit ones.
        mesh = jax.make_mesh((self.count,), ("batch",), axis_types=(AxisType.Auto,), devices=devices)
        self.replicated = NamedSharding(mesh, PartitionSpec())
        self.divided = NamedSharding(mesh, PartitionSpec("batch"))

    def replicate(self, tree: Any) -> Any:
        """A copy of every array on every device."""
        # jax.device_put would first compare the arrays of all processes, whole data sets among them.
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(self.replicated, np.asarray(x)), tree
        )

    def rows(self, batch_size: int) -> np.ndarray:
        """Which rows of a divided batch lie on the devices of this process; rising."""
        slices = self.divided.addressable_devices_indices_map((batch_size,)).values()
        return np.unique(np.concatenate([np.arange(batch_size)[index] for index in slices]))

    def divide(self, tree: Any, batch_size: int) -> Any:
        """Arrays of a batch divided over all devices, from this process's `rows` of them."""
        rows = self.rows(batch_size)

        def place(own: np.ndarray) -> jax.Array:
            def shard(index: Any) -> np.ndarray:
                wanted = np.arange(batch_size)[index[0]]
                return own[np.searchsorted(rows, wanted)]

            return jax.make_array_from_callback((batch_size, *own.shape[1:]), self.divided, shard)

        return jax.tree.map(place, tree)

    def shard(self, tree: Any) -> Any:
        """Inside a jitted function: arrays divided over the devices along their first axis."""
        return jax.lax.with_sharding_constraint(tree, self.divided)


class Steps:
    """The compiled steps of one network, objective and optimizer.

    Args:
      network: returns logits [classifier, batch, class].
      loss: the objective, e.g. `objective` with its keywords filled in.
      optimizer: optax transformation of the gradients.
      seed: of the network's random streams (dropout), together with the step number.
      devices: where the arrays live.
      remat: whether stages compute activations twice instead of keeping them; see `layers.Stage`.
    """

    def __init__(
        self,
        network: DeeplySupervised,
        loss: Loss,
        optimizer: optax.GradientTransformation,
        *,
        seed: int,
        devices: Devices,
        remat: bool = False,
    ):
        self._names = network.names
        self._network = Functional(network, remat=remat)
        self._loss = loss
        self._optimizer = optimizer
        self._seed = seed
        self._devices = devices
        compiled = partial(jax.jit, static_argnames=("feed", "batch_size"))
        options = devices.compiler_options
        keep = KEEP_BARRIERS if remat and devices.on_cpu else {}
        self._train = compiled(self._train_chunk, donate_argnums=0, compiler_options=options | keep)
        self._evaluate = compiled(self._evaluate_chunk, compiler_options=options)

    def initial_state(self, step: int = 0, momentum: Arrays | None = None) -> TrainState:
        """The state before a step, 0 for the first, with the weights that the network was given.

        Args:
          momentum: of every parameter; None for that of an optimizer that has just been made.
        """
        params = self._network.params
        opt_state = optim.state_before(self._optimizer.init(params), step, momentum)
        state = TrainState(jnp.int32(step), params, self._network.batch_stats, opt_state)
        # Copied, because training donates the state's buffers, which on a CPU may be those of host arrays.
        return self._devices.replicate(jax.tree.map(np.array, state))

    def train(self, state: TrainState, feed: Feed, chunk: Chunk) -> tuple[TrainState, History]:
        """One optimizer step per batch of the chunk; `state` is donated.

        Stops after a batch whose loss or one of its terms is not finite: the history ends with it.
        """
        state, done, history = self._train(
            state, chunk.arrays, chunk.first, chunk.num_batches, feed=feed, batch_size=chunk.batch_size
        )
        return state, self._fetch(history, done)

    def evaluate(self, state: TrainState, feed: Feed, chunk: Chunk) -> History:
        """Loss and errors of every classifier in evaluation mode, batch by batch."""
        history = self._evaluate(
            state.params,
            state.batch_stats,
            chunk.arrays,
            chunk.first,
            chunk.num_batches,
            feed=feed,
            batch_size=chunk.batch_size,
        )
        return self._fetch(history, chunk.num_batches)

    def _train_chunk(self, state, arrays, first, count, *, feed, batch_size):
        def body(carry):
            state, done, history, _ = carry
            batch = feed.batch(arrays, first + done, batch_size)
            state, measured = self._train_step(state, batch)
            finite = jnp.all(jnp.isfinite(jnp.stack(list(measured.values()))))
            return state, done + 1, self._record(history, done, measured), finite

        carry = (state, jnp.int32(0), self._blank_history(), jnp.array(True))
        if self._devices.batches_per_call == 1:
            carry = body(carry)
        else:
            # The length is known at run time only: one compilation serves every chunk, and XLA does not
            # unroll the loop, so that a step computes the same bits however an epoch is cut into chunks.
            carry = jax.lax.while_loop(lambda carry: (carry[1] < count) & carry[3], body, carry)
        return jax.lax.with_sharding_constraint(carry[:3], self._devices.replicated)

    def _train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Arrays]:
        key = jax.random.fold_in(jax.random.key(self._seed), state.step)

        def loss(params):
            logits, batch_stats = self._network.train(params, state.batch_stats, batch.images, key)
            measured = self._measure(logits, batch)
            return measured["loss"], (batch_stats, measured)

        gradients, (batch_stats, measured) = jax.grad(loss, has_aux=True)(state.params)
        updates, opt_state = self._optimizer.update(gradients, state.opt_state, state.params)
        params = cast(Arrays, optax.apply_updates(state.params, updates))
        return TrainState(state.step + 1, params, batch_stats, opt_state), measured

    def _evaluate_chunk(self, params, batch_stats, arrays, first, count, *, feed, batch_size):
        def body(i, history):
            batch = feed.batch(arrays, first + i, batch_size)
            logits = self._network.eval(params, batch_stats, batch.images)
            return self._record(history, i, self._measure(logits, batch))

        history = self._blank_history()
        if self._devices.batches_per_call == 1:
            history = body(jnp.int32(0), history)
        else:
            history = jax.lax.fori_loop(0, count, body, history)
        return jax.lax.with_sharding_constraint(history, self._devices.replicated)

    def _measure(self, logits: jax.Array, batch: Batch) -> Arrays:
        total, terms = self._loss(logits, batch.labels, weights=batch.weights)
        wrong = jnp.sum((jnp.argmax(logits, axis=-1) != batch.labels) * batch.weights, axis=-1)
        errors = {f"errors/{name}": wrong[i] for i, name in enumerate(self._names)}
        return {"examples": jnp.sum(batch.weights), "loss": total, **terms, **errors}

    def _blank_history(self) -> Arrays:
        """Room for the measurements of a chunk; their names are those that a tiny batch gives."""
        logits = jnp.zeros((len(self._names), 1, 2))
        batch = Batch(jnp.zeros((1, 1)), jnp.zeros(1, jnp.int32), jnp.ones(1))
        names = jax.eval_shape(self._measure, logits, batch)
        length = self._devices.batches_per_call
        return {name: jnp.zeros(length, value.dtype) for name, value in names.items()}

    @staticmethod
    def _record(history: Arrays, index: jax.Array, measured: Arrays) -> Arrays:
        return {name: history[name].at[index].set(measured[name]) for name in history}

    @staticmethod
    def _fetch(history: Arrays, length) -> History:
        values, length = jax.device_get((history, length))
        return {name: value[: int(length)] for name, value in values.items()}


class Output(NamedTuple):
    """What the examples of a batch give, on the host.

    logits: float32 [classifier, example, class].
    labels: integers [example].
    """

    logits: np.ndarray
    labels: np.ndarray


class Forward:
    """The compiled forward pass of one network in evaluation mode; float32 in full on every device.

    Args:
      network: returns logits [classifier, batch, class].
      devices: where the arrays live; one batch per call.
    """

    def __init__(self, network: DeeplySupervised, devices: Devices):
        self._network = Functional(network)
        self._arrays = devices.replicate((self._network.params, self._network.batch_stats))
        self._apply = jax.jit(
            self._apply_batch,
            static_argnames=("feed", "batch_size"),
            compiler_options=devices.compiler_options,
        )

    def batches(self, feed: Feed) -> Iterator[Output]:
        """The examples of a feed, batch by batch, what fills up the last one left out.

        While the caller works on a batch the devices work on the next one.
        """
        in_flight = None
        for chunk in feed.chunks(0):
            dispatched = self._apply(
                *self._arrays, chunk.arrays, chunk.first, feed=feed, batch_size=chunk.batch_size
            )
            if in_flight:
                yield self._fetch(in_flight)
            in_flight = dispatched
        if in_flight:
            yield self._fetch(in_flight)

    def _apply_batch(self, params, batch_stats, arrays, index, *, feed, batch_size):
        batch = feed.batch(arrays, index, batch_size)
        # By default accelerators round the factors of a float32 product, to 8 or 10 bits.
        with jax.default_matmul_precision("highest"):
            logits = self._network.eval(params, batch_stats, batch.images)
        return logits.astype(jnp.float32), batch.labels, batch.weights

    @staticmethod
    def _fetch(dispatched) -> Output:
        logits, labels, weights = jax.device_get(dispatched)
        return Output(logits[:, weights == 1], labels[weights == 1])
