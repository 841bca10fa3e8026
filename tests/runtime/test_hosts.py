"""Several devices and several processes give the result of one, and go on from each other's checkpoints."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from dks_jax.runtime import hosts
from dks_jax.runtime.devices import Devices
from dks_jax.runtime.errors import InputError
from dks_jax.weights import load_weights
from support.runs import DIGITS, ROOT, SMALL, records, run, signal_after, whole_checkpoints
from support.several_devices import REGULARISED, Training, logits
from support.tiny_steps import numbers

# Processes inherit from it what makes them quick.
pytestmark = pytest.mark.usefixtures("tiny_model")

SUPPORT = ROOT / "tests" / "support"
# Batches of 20 images, which four devices divide.
BATCHES = ["--config.data.batch_size=20", "--config.norm_groups=4"]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Job:
    """Processes of a job, each with so many virtual devices; run by the words after `python`.

    folders: where each process is started; None for here.
    """

    def __init__(self, folder, processes, devices, *command, folders=None):
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        place = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": str(processes)}
        self.files = [folder / f"output{i}.txt" for i in range(processes)]
        self.processes = []
        for i, output in enumerate(self.files):
            own = place | {"JAX_PROCESS_ID": str(i)} if processes > 1 else {}
            with output.open("w") as file:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, *map(str, command)],
                        env=os.environ | {"XLA_FLAGS": flags} | own,
                        cwd=folders and folders[i],
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )

    def wait(self, seconds=240):
        """Exit statuses and outputs of all processes; the test fails where one does not end."""
        try:
            statuses = [process.wait(seconds) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return statuses, [output.read_text() for output in self.files]

    def wait_until(self, condition, seconds=240):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.files[0].read_text()
            time.sleep(0.05)


def train_job(folder, *arguments, workdir=None, folders=None):
    """Two processes that train."""
    workdir = f"--workdir={workdir or folder / 'run'}"
    command = [SUPPORT / "tiny_train.py", DIGITS, *SMALL, *BATCHES, workdir, *arguments]
    return Job(folder, 2, 1, *command, folders=folders)


def assert_close(result, expected):
    assert set(result) == set(expected)
    for name, value in expected.items():
        largest = np.abs(value).max() if value.size else 0
        np.testing.assert_allclose(result[name], value, rtol=0, atol=1e-10 * max(largest, 1e-30))


def assert_equal(result, expected):
    assert set(result) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(result[name], value)


class OneDevice(NamedTuple):
    """A training in this process: its folder, and what it saves there and gives at its end."""

    training: Training
    folder: Path
    saved: dict
    end: dict


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    """By the number of slices that the batch is normalised in."""
    found = {}
    for groups in (1, 4):
        training, folder = Training(Devices(), norm_groups=groups), tmp_path_factory.mktemp("one")
        state = training.begin(folder)
        found[groups] = OneDevice(training, folder, numbers(state), training.end(state))
    return found


def on_several(folder, processes, devices, *given):
    return Job(folder, processes, devices, SUPPORT / "several_devices.py", folder, *given)


@pytest.fixture(scope="module")
def several(one_device, tmp_path_factory):
    """(folder, output) of several_devices.py on 8 devices, and on 2 processes with 2 each."""
    folders = [tmp_path_factory.mktemp(name) for name in ("devices", "processes")]
    jobs = [
        on_several(folders[0], 1, 8, one_device[1].folder),
        on_several(folders[1], 2, 2, one_device[4].folder),
    ]
    ends = [job.wait() for job in jobs]
    assert [statuses for statuses, _ in ends] == [[0], [0, 0]], ends
    return [(folder, outputs[0]) for folder, (_, outputs) in zip(folders, ends, strict=True)]


def assert_agrees(folder, one):
    """Several devices give the same, from the start and from the checkpoint of one, whose bits they keep."""
    assert_equal(np.load(folder / "restored.npz"), one.saved)
    for start in ("saved", "restored"):
        assert_close(np.load(folder / f"end of {start}.npz"), one.end)


def test_devices_and_processes_give_the_result_of_one_device_and_go_on_from_it(one_device, several):
    for (folder, _), groups in zip(several, (1, 4), strict=True):
        assert_agrees(folder, one_device[groups])


@pytest.mark.slow
def test_they_do_so_with_lamb_stochastic_depth_and_moving_averages(tmp_path):
    training, (one, other) = Training(Devices(), **REGULARISED), (tmp_path / "one", tmp_path / "several")
    other.mkdir()
    statuses, outputs = on_several(other, 1, 8).wait()
    assert statuses == [0], outputs
    assert_close(np.load(other / "regularised.npz"), training.end(training.begin(one)))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_two_and_four_devices_do_so_too(one_device, tmp_path, devices):
    statuses, outputs = on_several(tmp_path, 1, devices, one_device[1].folder).wait()
    assert statuses == [0], outputs
    assert_agrees(tmp_path, one_device[1])


def test_one_device_goes_on_from_the_checkpoint_of_several_devices_or_processes(one_device, several):
    for (folder, _), groups in zip(several, (1, 4), strict=True):
        one = one_device[groups]
        state = one.training.restore(folder)
        assert_equal(numbers(state), np.load(folder / "saved.npz"))
        assert_close(one.training.end(state), one.end)


def test_evaluation_on_several_devices_counts_every_image_once(several):
    np.testing.assert_allclose(np.load(several[0][0] / "logits.npy"), logits(Devices()), rtol=1e-5, atol=1e-5)


def test_weights_saved_on_several_devices_load_on_one(several):
    np.testing.assert_array_equal(load_weights(several[0][0] / "weights").params["w"], [0, 1, 2])


def test_batches_that_the_devices_do_not_divide_are_refused(several):
    folder, output = several[0]
    size, last = (line for line in output.splitlines() if line.startswith("error: "))
    assert "`data.batch_size` must be a multiple of the number of devices, 8; got 31" in size
    assert "data.drop_last=True" in last
    assert not (folder / "refused").exists()


@pytest.mark.parametrize("killed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_job_goes_on_after_a_killed_process_after_a_signal_and_elsewhere(
    tmp_path, monkeypatch, capsys, killed
):
    folder = tmp_path / "run"
    long = ["--config.epochs=1000", "--config.optimizer.learning_rate=0.001"]
    job = train_job(tmp_path, *long)
    job.wait_until(lambda: len(whole_checkpoints(folder)) == 2)
    job.processes[killed].kill()
    statuses, outputs = job.wait(60)
    assert statuses[killed] == -9
    # 1 where it is noticed here, -6 where JAX's runtime is quicker.
    survivor = 1 - killed
    assert statuses[survivor] in (1, -6)
    assert "Traceback" not in outputs[survivor]
    if statuses[survivor] == 1:
        assert outputs[survivor].splitlines()[-1].startswith("error: ")
    left = whole_checkpoints(folder)[-1]

    job = train_job(tmp_path, *long)
    job.wait_until(lambda: whole_checkpoints(folder)[-1] > left)
    job.processes[1].send_signal(signal.SIGINT)
    statuses, outputs = job.wait()
    assert statuses == [130, 130], outputs
    stopped = whole_checkpoints(folder)[-1]
    for output in outputs:
        assert output.splitlines()[-1].startswith(f"stopped after step {stopped} of 5000")
    # One process logs.
    assert "epoch" in outputs[0]
    assert "epoch" not in outputs[1]
    assert len(list(folder.glob("events.out.tfevents*"))) == 2

    # On one device, in this process, through the end of an epoch.
    signal_after(monkeypatch, "train", 7, signal.SIGTERM)
    assert run(folder, *BATCHES, *long) == 143
    assert whole_checkpoints(folder)[-1] == stopped + 7
    epochs = [line["epoch"] for line in records(folder) if line["split"] == "train"]
    assert epochs == list(range(1, (stopped + 6) // 5 + 1))
    description = json.loads((folder / "config.json").read_text())
    starts = (description, *description["resumed"])
    assert [(start["processes"], len(start["devices"])) for start in starts] == [(2, 2), (1, 1)]


def test_an_error_of_one_process_ends_all(tmp_path):
    # The workdir is another folder for each.
    folders = [tmp_path / "host0", tmp_path / "host1"]
    for folder in folders:
        folder.mkdir()
    statuses, outputs = train_job(tmp_path, workdir="run", folders=folders).wait(120)
    assert statuses[1] == 2
    assert "error: `--workdir`" in outputs[1]
    assert statuses[0] in (1, -6)


def test_an_error_of_the_first_process_alone_is_one_of_all(monkeypatch):
    """Each sees what the largest of all is, which is how the others know."""

    def fails():
        raise OSError("No space left on device")

    monkeypatch.setattr(hosts, "max_over_processes", lambda *values: [1.0])
    with pytest.raises(OSError, match="No space"):
        hosts.on_primary(fails)
    monkeypatch.setattr(hosts, "is_primary", lambda: False)
    with pytest.raises(InputError, match="Process 0"):
        hosts.on_primary(fails)


def test_a_user_error_that_speaks_of_a_connection_is_no_lost_process():
    assert hosts.lost(InputError("The connection timed out.")) is None
    gone = hosts.LostHostError("Process 0 stops.")
    assert hosts.lost(gone) is gone


def test_flags_count_more_than_the_environment(monkeypatch):
    for name, value in (("COORDINATOR_ADDRESS", "a:1"), ("NUM_PROCESSES", "4"), ("PROCESS_ID", "3")):
        monkeypatch.setenv(f"JAX_{name}", value)
    assert hosts.process_info(None, None, None) == ("a:1", 4, 3)
    assert hosts.process_info("b:2", None, "1") == ("b:2", 4, 1)
    monkeypatch.undo()
    assert hosts.process_info(None, None, None) is None
