"""What training gives on several devices and processes: `python several_devices.py FOLDER [GIVEN]`.

A process alone normalises the batch as a whole; those of a job do so by slices, and stream the images.
GIVEN is a folder with the checkpoint of one device. Without it the training is the regularised one.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dks_jax import train
from dks_jax.data import held_out_feed
from dks_jax.data.preparation import Preparation
from dks_jax.inference.forward import Forward
from dks_jax.models import Preprocessing
from dks_jax.runtime import hosts
from dks_jax.runtime.devices import Devices
from dks_jax.training.checkpoints import Checkpoints
from dks_jax.weights import Metadata, Weights, save_weights
from support.runs import DIGITS
from support.tiny_network import tiny_network
from support.tiny_steps import NUM_CLASSES, images, initial_state, numbers, run_epoch, setting

# What else acts in training.
REGULARISED = {"regularised": True, "ema_decay": 0.9}


class Training:
    """Two epochs of three steps in float64, with a checkpoint between them."""

    def __init__(self, devices, **arguments):
        with jax.enable_x64(True):
            self.steps, _ = setting(devices, dtype=jnp.float64, drop_last=True, **arguments)

    def begin(self, folder):
        """The state after the first epoch, which is saved."""
        with jax.enable_x64(True):
            state, _ = run_epoch(self.steps, initial_state(self.steps, jnp.float64))
            checkpoints = Checkpoints(folder / "checkpoints")
            checkpoints.save(3, state, {"epoch": 1})
            checkpoints.wait()
            checkpoints.close()
            return state

    def restore(self, folder):
        """The same from the checkpoint of a training on other devices."""
        with jax.enable_x64(True):
            like = initial_state(self.steps, jnp.float64)
            checkpoints = Checkpoints(folder / "checkpoints")
            state, progress, complaints = checkpoints.restore_latest(like)
            checkpoints.close()
            assert (progress, complaints) == ({"epoch": 1}, [])
            return state

    def end(self, state):
        """State, losses and held-out errors after the second epoch."""
        with jax.enable_x64(True):
            state, history = run_epoch(self.steps, state, 1)
            result = {"loss": history["loss"], **numbers(state)}
            for i, chunk in enumerate(self.steps.test_feed.chunks(0)):
                errors = self.steps.evaluate(state, chunk)
                result |= {f"test/{i}/{name}": value for name, value in errors.items()}
            return result


def logits(devices):
    """Of 26 images in batches of 6, which several devices make larger."""
    feed = held_out_feed(images(), Preparation((0.5,) * 3, (0.25,) * 3), batch_size=6, devices=devices)
    batches = Forward(tiny_network(NUM_CLASSES), feed, devices).batches()
    return np.concatenate([output.logits for output in batches], axis=1)


def exchange():
    """What the primary process finds is what all have, to the bit."""
    content = np.array([-0.0, np.nan, 1 / 3], np.float32) if hosts.is_primary() else np.zeros(3, np.float32)
    sent = hosts.broadcast({"a": content, "b": np.array(jax.process_index() + 7)})
    assert sent["a"].tobytes() == np.array([-0.0, np.nan, 1 / 3], np.float32).tobytes()
    assert (sent["b"].shape, int(sent["b"])) == ((), 7)
    found = hosts.from_primary(lambda: (jax.process_index(), Path("a.jpg"), {}))
    assert found == (0, Path("a.jpg"), {})


def regularised(folder):
    training = Training(Devices(), **REGULARISED)
    np.savez(folder / "regularised.npz", **training.end(training.begin(folder)))


def main(folder, given):
    devices, several = Devices(), jax.process_count() > 1
    exchange()
    training = Training(devices, **({"streamed": True, "norm_groups": 4} if several else {}))
    found = {}
    for name, state in (("saved", training.begin(folder)), ("restored", training.restore(given))):
        found[name] = numbers(state)
        found[f"end of {name}"] = training.end(state)
    if hosts.is_primary():
        for name, arrays in found.items():
            np.savez(folder / f"{name}.npz", **arrays)
    if several:
        return
    np.save(folder / "logits.npy", logits(devices))
    metadata = Metadata(
        {"name": "resnet18"}, (), (), Preprocessing("squash", 8, 8, 3, (0.5,) * 3, (0.25,) * 3)
    )
    save_weights(folder / "weights", Weights(devices.replicate({"w": jnp.arange(3.0)}), {}, metadata))
    # Batches that the devices cannot divide.
    for field in ("data.batch_size=31", "data.drop_last=False"):
        assert train.main([DIGITS, f"--config.{field}", f"--workdir={folder / 'refused'}"]) == 2


if __name__ == "__main__":
    with hosts.job(hosts.process_info(None, None, None)):
        folders = map(Path, sys.argv[1:])
        main(*folders) if len(sys.argv) == 3 else regularised(*folders)
