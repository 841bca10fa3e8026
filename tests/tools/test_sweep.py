"""Sweeps: which runs there are, and what becomes of them side by side and when processes end."""

import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import sweep
from sweeps import processes
from sweeps.plan import run_name
from sweeps.processes import gpu_names, visible_gpus

from dks_jax.training.workdir import in_use
from support.runs import DIGITS, ROOT, SMALL, assert_same_end, records, run, user_error

# Processes inherit from it what makes them quick.
pytestmark = pytest.mark.usefixtures("tiny_model", "default_signals")

FILE = DIGITS.removeprefix("--config=")
CONFIG = ["--config", FILE]
SUPPORT = ROOT / "tests" / "support"
# Two runs of a few steps.
RUNS = [*CONFIG, "--methods", "baseline,dks", "--seeds", "1", *SMALL]
NAMES = ["baseline-seed1", "dks-seed1"]


@pytest.fixture
def tiny_processes(monkeypatch):
    """Has sweeps in this process train the tiny network."""
    monkeypatch.setattr(processes, "PROGRAM", (str(SUPPORT / "tiny_train.py"),))


def start(output, log, *arguments):
    """A process that sweeps, whose standard error goes to a file."""
    command = [sys.executable, str(SUPPORT / "tiny_sweep.py"), *RUNS, "--output", str(output), *arguments]
    with log.open("w") as file:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True)


@pytest.fixture(scope="module")
def unbroken_sweep(tmp_path_factory, tiny_model):
    """The folder of a sweep that nothing has stopped, one run after the other, and its table."""
    folder = tmp_path_factory.mktemp("sweep")
    process = start(folder / "runs", folder / "log")
    table, _ = process.communicate(timeout=300)
    assert process.returncode == 0, (folder / "log").read_text()
    return folder / "runs", table


def folders(output):
    return sorted(path.name for path in output.iterdir() if path.is_dir())


def test_every_run_is_that_of_the_training_command(unbroken_sweep, tmp_path):
    output, table = unbroken_sweep
    assert folders(output) == NAMES
    assert run(tmp_path / "alone", "--config.seed=1") == 0
    assert_same_end(output / "dks-seed1", tmp_path / "alone")
    assert "DKS - baseline" in table


@pytest.mark.slow
def test_runs_side_by_side_end_with_the_bits_of_runs_one_after_another(
    unbroken_sweep, tiny_processes, tmp_path, capsys
):
    output, table = unbroken_sweep
    assert sweep.main([*RUNS, "--output", str(tmp_path), "--parallel", "2"]) == 0
    assert capsys.readouterr().out == table
    for name in NAMES:
        assert_same_end(tmp_path / name, output / name)


def kill_until_done(output, log, draw, most):
    """Ends a sweep at random moments; returns its table once it ends by itself, and the earlier statuses."""
    ends = []
    signals = [draw.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]) for _ in range(most)]
    for number in [*signals, None]:
        process = start(output, log, "--parallel", "2")
        if number:
            time.sleep(draw.uniform(1, 5))
            process.send_signal(number)
        table, _ = process.communicate(timeout=300)
        if process.returncode == 0:
            return table, ends
        # Until the sweep has imported what it needs, a signal ends Python itself.
        assert process.returncode in (-9, 130, 143, -15, -2), log.read_text()
        ends.append(process.returncode)
    raise AssertionError(log.read_text())


def kill_and_compare(unbroken_sweep, tmp_path, seed, most):
    output, table = unbroken_sweep
    killed = tmp_path / f"killed{seed}"
    found, ends = kill_until_done(killed, tmp_path / "log", random.Random(seed), most)
    assert found == table
    for name in NAMES:
        assert_same_end(killed / name, output / name)
    return ends


@pytest.mark.slow
def test_a_sweep_killed_at_random_moments_ends_with_the_table_of_the_unbroken_one(unbroken_sweep, tmp_path):
    assert kill_and_compare(unbroken_sweep, tmp_path, 0, 2)


@pytest.mark.slow
def test_sweeps_killed_at_random_moments_end_with_the_table_of_the_unbroken_one(unbroken_sweep, tmp_path):
    assert (
        len([end for seed in range(1, 9) for end in kill_and_compare(unbroken_sweep, tmp_path, seed, 5)]) > 15
    )


def wait_for(condition, process):
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_has_the_runs_that_train_save_and_stop(tmp_path, number, status):
    log, output = tmp_path / "log", tmp_path / "runs"
    # So long that nothing is finished by the time, and a third run waits.
    long = ("--seeds", "0,1", "--config.epochs=100000", "--parallel", "2")
    process = start(output, log, *long)
    started = ("baseline-seed0", "dks-seed0")
    wait_for(lambda: all((output / name / "metrics.jsonl").exists() for name in started), process)
    process.send_signal(number)
    table, _ = process.communicate(timeout=60)
    assert process.returncode == status, log.read_text()
    assert table == ""
    assert log.read_text().splitlines()[-1].startswith("stopped: the same command")
    # No further run has started, and nobody trains any more.
    assert folders(output) == sorted(started)
    for name in started:
        assert "and saved: the same command goes on" in (output / f"{name}.log").read_text()
        assert not in_use(output / name)


@pytest.mark.slow
def test_a_run_that_fails_is_listed_and_the_others_finish(tiny_processes, tmp_path, capsys):
    one, rates = ["--methods", "dks", "--seeds", "0"], ["--set", "optimizer.learning_rate=1e30,0.1"]
    arguments = [*CONFIG, *one, *SMALL, *rates, "--output", str(tmp_path)]
    # The next start tries the failed one alone.
    for to_train in (2, 1):
        assert sweep.main(arguments) == 1
        table, shown = capsys.readouterr()
        assert "(1)" in table
        assert f"2 runs, of which {to_train} are to be trained" in shown
        (line,) = (line for line in shown.splitlines() if line.startswith("failed: "))
        assert line.startswith("failed: dks-seed0-learning_rate1e30: The training diverged at ")
        assert line.endswith(f"(status 2, {tmp_path / 'dks-seed0-learning_rate1e30.log'})")


def test_a_crash_names_the_signal(tmp_path, monkeypatch, capsys):
    crash = tmp_path / "crash.py"
    crash.write_text("import os; os.kill(os.getpid(), 11)")
    monkeypatch.setattr(processes, "PROGRAM", (str(crash),))
    assert sweep.main([*CONFIG, "--methods", "dks", "--seeds", "3", "--output", str(tmp_path / "runs")]) == 1
    table, shown = capsys.readouterr()
    assert table == ""
    assert "failed: dks-seed3: ended by signal 11" in shown


@pytest.mark.slow
def test_a_finished_run_is_not_started_again_and_more_epochs_are(
    unbroken_sweep, tiny_processes, tmp_path, capsys
):
    output, table = unbroken_sweep
    for name in NAMES:
        shutil.copytree(output / name, tmp_path / name)
    assert sweep.main([*RUNS, "--output", str(tmp_path)]) == 0
    again, shown = capsys.readouterr()
    assert again == table
    assert "2 runs, of which 0 are to be trained" in shown
    assert not list(tmp_path.glob("*.log"))
    more = [argument.replace("baseline,dks", "dks") for argument in RUNS]
    assert sweep.main([*more, "--output", str(tmp_path), "--config.epochs=4"]) == 0
    assert len(records(tmp_path / "dks-seed1")) == 8


def planned(*arguments):
    return [run.folder.name for run in sweep.parse([*CONFIG, *arguments]).runs]


def test_all_combinations_are_planned_seed_by_seed(tmp_path):
    own = [
        "--methods",
        "ds,dks",
        "--seeds",
        "0-2,7",
        "--set",
        "optimizer.momentum=0.9,0.8",
        "--set",
        "epochs=1,2",
    ]
    runs = sweep.parse([*CONFIG, *own, "--output", str(tmp_path), "--config.remat=True"]).runs
    assert len(runs) == 2 * 4 * 2 * 2
    assert [run.folder.name for run in runs[:3]] == [
        "ds-seed0-momentum0.9-epochs1",
        "dks-seed0-momentum0.9-epochs1",
        "ds-seed0-momentum0.9-epochs2",
    ]
    last = runs[-1].config
    assert (last.method, last.seed, last.epochs, last.optimizer.momentum, last.remat) == (
        "dks",
        7,
        2,
        0.8,
        True,
    )
    assert len({run.folder for run in runs}) == len(runs)


def test_values_that_hold_commas_are_separated_by_semicolons():
    names = planned("--methods", "ds", "--seeds", "0", "--set", "optimizer.drop_epochs=(1,2);(3,)")
    assert len(names) == 2
    assert all(name.startswith("ds-seed0-drop_epochs") for name in names)


def test_names_are_safe_and_differ():
    values = ["a/b", "a_b", "a b", "../x", "a" * 300, "a" * 301, "é", "", "-", ".."]
    names = [run_name("dks", 3, {"data.root": value}) for value in values]
    assert len(set(names)) == len(values)
    assert all(name.isascii() and len(name) < 100 and not set("/ ;") & set(name) for name in names)
    assert run_name("dks", 3, {"optimizer.momentum": "0.1"}) == "dks-seed3-momentum0.1"
    # Two fields whose names end alike.
    assert run_name("ds", 0, {"data.name": "x", "model.name": "y"}) == "ds-seed0-data.namex-model.namey"


ONE = ["--methods", "dks", "--seeds", "0"]


@pytest.mark.parametrize(
    "wrong",
    [
        (["--seeds", "0"], "--methods"),
        (["--methods", "dks"], "--seeds"),
        (["--methods", "dks,x", "--seeds", "0"], "got dks,x"),
        (["--methods", "", "--seeds", "0"], "--methods"),
        (["--methods", "dks", "--seeds", "3-1"], "got 3-1"),
        (["--methods", "dks", "--seeds", "0,,1"], "got 0,,1"),
        (["--methods", "dks", "--seeds", "99999999999"], "`seed`"),
        ([*ONE, "--parallel", "0"], "got 0"),
        ([*ONE, "--set", "epochs"], "got epochs"),
        ([*ONE, "--set", "epochs=1,x"], "epochs"),
        ([*ONE, "--set", "no_field=1"], "`no_field`"),
        ([*ONE, "--set", "seed=1,2"], "--seeds"),
        ([*ONE, "--config.method=ds"], "--methods"),
        ([*ONE, "--set", "epochs=1", "--config.epochs=2"], "`epochs`"),
        ([*ONE, "--config", f"{FILE}:ds"], "--methods"),
        ([*ONE, "--config", "absent.py"], "absent.py"),
        # Of the workdir of a run with another config.
        (["--methods", "dks", "--seeds", "1", "--config.epochs=1", "--output", "runs"], "runs/dks-seed1"),
    ],
)
def test_wrong_input_ends_before_anything_is_started(unbroken_sweep, tmp_path, monkeypatch, capsys, wrong):
    arguments, named = wrong
    monkeypatch.chdir(tmp_path)
    if "runs" in arguments:
        (tmp_path / "runs").symlink_to(unbroken_sweep[0])
    before = sorted(tmp_path.rglob("*"))
    assert sweep.main([*CONFIG, *arguments]) == 2
    assert named in user_error(capsys, alone=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_each_gpu_has_a_name_and_a_cpu_none():
    assert visible_gpus() == []
    assert gpu_names(2, None) == ["0", "1"]
    assert gpu_names(2, "4,GPU-7") == ["4", "GPU-7"]
