"""Several devices and several processes give the result of one, and go on from each other's checkpoints."""

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dks_jax import hosts
from dks_jax.errors import InputError
from runs import DIGITS, SMALL, records

TESTS = Path(__file__).parent
# Batches of 20 images, which four devices divide.
ARGUMENTS = [DIGITS, *SMALL, "--config.data.batch_size=20", "--config.norm_groups=4"]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Job:
    """Processes of a job, each with so many virtual devices; run by the words after `python`."""

    def __init__(self, folder, processes, devices, *command):
        flags = f"--xla_force_host_platform_device_count={devices}"
        place = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": str(processes)}
        self.outputs = [folder / f"output{i}.txt" for i in range(processes)]
        self.processes = []
        for i, output in enumerate(self.outputs):
            own = place | {"JAX_PROCESS_ID": str(i)} if processes > 1 else {}
            with output.open("w") as file:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, *map(str, command)],
                        env=os.environ | {"XLA_FLAGS": flags} | own,
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
        return statuses, [output.read_text() for output in self.outputs]

    def wait_for(self, words, seconds=240):
        end = time.monotonic() + seconds
        while words not in self.outputs[0].read_text():
            assert time.monotonic() < end, self.outputs[0].read_text()
            time.sleep(0.05)


def train_job(folder, processes, devices, *overrides):
    return Job(
        folder,
        processes,
        devices,
        TESTS / "tiny_train.py",
        *ARGUMENTS,
        f"--workdir={folder / 'run'}",
        *overrides,
    )


STEPS_PROGRAM = """
import sys
import jax
jax.config.update("jax_enable_x64", True)
from dks_jax import hosts
place = hosts.membership(None, None, None)
with hosts.job(place):
    import numpy as np
    import jax.numpy as jnp
    sys.path.insert(0, sys.argv[1])
    from test_steps import images, numbers, run_epoch, setting
    from dks_jax.data.feed import Epochs
    from dks_jax.data.images import StoredSplit
    from dks_jax.data.streamed import StreamedTrainingFeed
    from dks_jax.steps import Devices
    steps, state, feed, test = setting(Devices(), dtype=jnp.float64, norm_groups=4, drop_last=True)
    if sys.argv[3] == "streamed":
        split = images()
        read = lambda index, rng: (split.images[index], int(split.labels[index]))
        stored = StoredSplit(split.num_examples, split.image_shape, 0, read)
        feed = StreamedTrainingFeed(stored, feed.preparation, feed.epochs, feed.devices)
    for epoch in range(2):
        state, history = run_epoch(steps, state, feed, epoch)
    errors = [steps.evaluate(state, test, chunk) for chunk in test.chunks(0)]
    if jax.process_index() == 0:
        errors = {f"test/{i}/{name}": value for i, h in enumerate(errors) for name, value in h.items()}
        np.savez(sys.argv[2], devices=jax.device_count(), loss=history["loss"], **errors, **numbers(state))
"""


def five_steps(folder, processes, devices, feed="resident"):
    """The state after two epochs of three steps in float64, the losses and the held-out errors."""
    folder.mkdir()
    file = folder / "result.npz"
    statuses, outputs = Job(folder, processes, devices, "-c", STEPS_PROGRAM, TESTS, file, feed).wait()
    assert statuses == [0] * processes, outputs
    return dict(np.load(file))


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    return five_steps(tmp_path_factory.mktemp("devices") / "one", 1, 1)


@pytest.mark.parametrize(
    ("processes", "devices", "feed"),
    [
        (1, 4, "streamed"),
        (2, 1, "resident"),
        pytest.param(1, 2, "resident", marks=pytest.mark.slow),
        pytest.param(1, 8, "resident", marks=pytest.mark.slow),
        pytest.param(2, 2, "streamed", marks=pytest.mark.slow),
    ],
)
def test_devices_and_processes_give_the_result_of_one_device(one_device, tmp_path, processes, devices, feed):
    result = five_steps(tmp_path / "several", processes, devices, feed)
    assert result.pop("devices") == processes * devices
    for name, value in one_device.items():
        if name != "devices":
            largest = np.abs(value).max() if value.size else 0
            np.testing.assert_allclose(result[name], value, rtol=0, atol=1e-10 * max(largest, 1e-30))


CHECKPOINT_PROGRAM = """
import sys
import jax
from dks_jax import hosts
with hosts.job(hosts.membership(None, None, None)):
    from pathlib import Path
    import numpy as np
    sys.path.insert(0, sys.argv[1])
    from test_steps import numbers, run_epoch, setting
    from dks_jax.checkpoint import Checkpoints
    from dks_jax.steps import Devices
    root, own, others = Path(sys.argv[2]), sys.argv[3], sys.argv[5:]
    steps, state, feed, _ = setting(Devices(), drop_last=True)
    if sys.argv[4] == "save":
        state, _ = run_epoch(steps, state, feed)
        checkpoints = Checkpoints(root / own / "checkpoints")
        checkpoints.save(3, state, {"epoch": 1})
        checkpoints.wait()
        checkpoints.close()
        if jax.process_index() == 0:
            np.savez(root / own / "state.npz", **numbers(state))
    for other in others:
        checkpoints = Checkpoints(root / other / "checkpoints")
        restored, progress, complaints = checkpoints.restore_latest(state)
        checkpoints.close()
        assert progress == {"epoch": 1} and complaints == []
        expected = np.load(root / other / "state.npz")
        assert set(expected) == set(numbers(restored))
        for name, value in numbers(restored).items():
            np.testing.assert_array_equal(value, expected[name])
        # Placed as this job's devices are, so that training goes on.
        assert int(run_epoch(steps, restored, feed, 1)[0].step) == 6
"""


TOPOLOGIES = {"1": (1, 1), "4": (1, 4), "2x2": (2, 2)}


@pytest.mark.parametrize(
    "jobs",
    [
        [("1", "save", []), ("2x2", "save", ["1"]), ("1", "keep", ["2x2"])],
        pytest.param(
            [(name, "save", []) for name in TOPOLOGIES]
            + [(name, "keep", [*TOPOLOGIES]) for name in TOPOLOGIES],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["there and back", "all on all"],
)
def test_checkpoints_of_one_device_and_of_several_processes_restore_on_each_other(tmp_path, jobs):
    for name, action, others in jobs:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        processes, devices = TOPOLOGIES[name]
        arguments = [TESTS, tmp_path, name, action, *others]
        statuses, outputs = Job(folder, processes, devices, "-c", CHECKPOINT_PROGRAM, *arguments).wait()
        assert statuses == [0] * processes, outputs


@pytest.mark.slow
def test_a_run_goes_on_on_other_devices_and_processes(tmp_path):
    """By turns: on 4 devices, then on 2 processes with 2 each, then on 1."""
    for turn, (processes, devices) in enumerate([(1, 4), (2, 2), (1, 1)], start=1):
        job = train_job(tmp_path, processes, devices)
        if turn < 3:
            job.wait_for(f"epoch {turn}/3")
            job.processes[-1].send_signal(signal.SIGTERM)
        statuses, outputs = job.wait()
        assert statuses == [0] * processes, outputs
        assert turn == 1 or "going on after" in outputs[0]
    description = json.loads((tmp_path / "run" / "config.json").read_text())
    starts = (description, *description["resumed"])
    assert [(start["processes"], len(start["devices"])) for start in starts] == [(1, 4), (2, 4), (1, 1)]
    assert [line["epoch"] for line in records(tmp_path / "run")] == [1, 1, 2, 2, 3, 3]
    assert (tmp_path / "run" / "checkpoints" / "15" / "complete.json").is_file()


@pytest.mark.slow
def test_one_process_logs_and_all_say_how_they_were_stopped(tmp_path):
    job = train_job(tmp_path, 2, 1, "--config.epochs=1000", "--config.optimizer.learning_rate=0.001")
    job.wait_for("epoch 1/1000")
    job.processes[1].send_signal(signal.SIGINT)
    statuses, outputs = job.wait()
    assert statuses == [130, 130], outputs
    stopped = [re.search(r"stopped after step (\d+) of 5000 and saved", output)[1] for output in outputs]
    assert stopped[0] == stopped[1]
    assert (tmp_path / "run" / "checkpoints" / stopped[0]).is_dir()
    assert "epoch 1/1000" not in outputs[1]
    assert len(list((tmp_path / "run").glob("events.out.tfevents*"))) == 1


@pytest.mark.parametrize("killed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_process_stops_the_others_with_a_sentence_and_the_job_goes_on(tmp_path, killed):
    short = ["--config.epochs=2"]
    job = train_job(tmp_path, 2, 1, *short)
    job.wait_for("epoch 1/2")
    while not (tmp_path / "run" / "checkpoints" / "5").exists():
        time.sleep(0.05)
    job.processes[killed].kill()
    statuses, outputs = job.wait(60)
    survivor = 1 - killed
    assert statuses[killed] == -9
    # 1 where we have noticed, -6 where JAX's runtime was quicker.
    assert statuses[survivor] in (1, -6)
    last = outputs[survivor].splitlines()[-1]
    assert re.match("error: .*another process of the job is gone.*start all of them again to go on", last)
    assert "Traceback" not in outputs[survivor]
    statuses, outputs = train_job(tmp_path, 2, 1, *short).wait()
    assert statuses == [0, 0], outputs
    assert "going on after" in outputs[0]
    assert [line["epoch"] for line in records(tmp_path / "run")] == [1, 1, 2, 2]


def test_an_error_of_one_process_ends_all(tmp_path):
    # Process 1 sees another folder of data than process 0.
    program = """
import os, sys
from dks_jax import hosts, train
from dks_jax.data import digits
if os.environ["JAX_PROCESS_ID"] == "1":
    whole = digits.load
    digits.load = lambda: whole(split_seed=1)
status = train.main(sys.argv[1:])
hosts.leave(status)
sys.exit(status)
"""
    statuses, outputs = Job(tmp_path, 2, 1, "-c", program, *ARGUMENTS, f"--workdir={tmp_path / 'run'}").wait(
        120
    )
    assert statuses[1] == 2
    assert "belongs to a run with other data (test_checksum was" in outputs[1]
    assert statuses[0] in (1, -6)
    assert "another process of the job is gone" in outputs[0].splitlines()[-1]


def test_a_user_error_that_speaks_of_a_connection_is_no_lost_process():
    assert hosts.lost(InputError("The connection timed out.")) is None
    gone = hosts.LostHostError("Process 0 stops.")
    assert hosts.lost(gone) is gone


def test_processes_that_do_not_share_the_workdir_are_told_so(tmp_path):
    program = """
import os, sys
from dks_jax import hosts, train
os.chdir(sys.argv.pop(1) + os.environ["JAX_PROCESS_ID"])
status = train.main(sys.argv[1:])
hosts.leave(status)
sys.exit(status)
"""
    for i in (0, 1):
        (tmp_path / f"host{i}").mkdir()
    job = Job(tmp_path, 2, 1, "-c", program, tmp_path / "host", *ARGUMENTS, "--workdir=run")
    statuses, outputs = job.wait(120)
    assert statuses[1] == 2
    assert "`--workdir` must be on a disk that all processes of the job see" in outputs[1]
    assert statuses[0] in (1, -6)


def test_an_error_of_the_first_process_alone_is_told_by_the_others(tmp_path):
    (tmp_path / "run").mkdir()
    holder = os.open(tmp_path / "run", os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    statuses, outputs = train_job(tmp_path, 2, 1).wait(120)
    os.close(holder)
    assert statuses[0] == 2
    assert "Another program trains in" in outputs[0].splitlines()[-1]
    # -6 where JAX's runtime notices the end of process 0 before the sentence is written.
    assert statuses[1] in (2, -6)
    assert statuses[1] == -6 or "Process 0 of the job has stopped" in outputs[1].splitlines()[-1]


WRONG = {
    "a part alone": (
        ("127.0.0.1:1234", None, None),
        r"`--num_processes` \(or JAX_NUM_PROCESSES\) must be given",
    ),
    "no port": (("here", "2", "0"), r"`--coordinator` must be HOST:PORT of process 0.*got 'here'"),
    "no number": (("127.0.0.1:1234", "two", "0"), "`--num_processes` must be a whole number; got 'two'"),
    "beyond": (
        ("127.0.0.1:1234", "2", "2"),
        "`--process_id` must be at least 0 and below --num_processes, 2; got 2",
    ),
    "negative": (("127.0.0.1:1234", "2", "-1"), "`--process_id` must be a whole number; got '-1'"),
}


@pytest.mark.parametrize(("given", "sentence"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_place_in_a_job_is_refused(given, sentence):
    with pytest.raises(InputError, match=sentence):
        hosts.membership(*given)


def test_flags_count_more_than_the_environment(monkeypatch):
    for name, value in (("COORDINATOR_ADDRESS", "a:1"), ("NUM_PROCESSES", "4"), ("PROCESS_ID", "3")):
        monkeypatch.setenv(f"JAX_{name}", value)
    assert hosts.membership(None, None, None) == ("a:1", 4, 3)
    assert hosts.membership("b:2", None, "1") == ("b:2", 4, 1)
    monkeypatch.undo()
    assert hosts.membership(None, None, None) is None
