"""More epochs and other learning rates in the same workdir, and workdirs from which something was deleted."""

import json
import shutil
import signal

import pytest

from dks_jax.models import NETWORKS, wide_resnet
from dks_jax.training import loop
from dks_jax.weights import load_weights
from support.comparison import assert_same_bits
from support.runs import (
    assert_same_end,
    file_times,
    records,
    run,
    signal_after,
    user_error,
    whole_checkpoints,
    without_speed,
)

pytestmark = pytest.mark.usefixtures("tiny_model", "usual_fusions")

# Two steps an epoch.
STEP = ["--config.optimizer.schedule=step", "--config.optimizer.warmup_epochs=0"]
STEP += ["--config.optimizer.drop_factor=0.5"]


def epochs(number):
    return f"--config.epochs={number}"


def drops(*numbers):
    return f"--config.optimizer.drop_epochs={numbers}"


def rate(value):
    return f"--config.optimizer.learning_rate={value}"


def description(folder):
    return json.loads((folder / "config.json").read_text())


def changes(folder):
    """The changes of the config that config.json lists."""
    return [start for start in description(folder)["resumed"] if "step" in start]


def rates(folder):
    return [line["learning_rate"] for line in records(folder) if line["split"] == "train"]


def assert_same_result(folder, expected):
    one, other = (load_weights(path / "weights") for path in (folder, expected))
    assert_same_bits((dict(one.params), dict(one.batch_stats)), (dict(other.params), dict(other.batch_stats)))
    assert [without_speed(line) for line in records(folder)] == [
        without_speed(line) for line in records(expected)
    ]


@pytest.mark.parametrize("network", ["tiny", pytest.param("real", marks=pytest.mark.slow)])
def test_four_epochs_and_then_eight_end_as_eight_at_once(network, tmp_path, monkeypatch):
    if network == "real":
        monkeypatch.setitem(NETWORKS, "wide_resnet", wide_resnet.NETWORKS["wide_resnet"])
    assert run(tmp_path / "twice", *STEP, epochs(4), drops(3)) == 0
    assert whole_checkpoints(tmp_path / "twice") == [8]
    # A drop at the fifth epoch is one at its start, which is still to come.
    assert run(tmp_path / "twice", *STEP, epochs(8), drops(3, 5, 7)) == 0
    assert run(tmp_path / "once", *STEP, epochs(8), drops(3, 5, 7)) == 0
    assert_same_result(tmp_path / "twice", tmp_path / "once")
    assert rates(tmp_path / "once") == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025, 0.0125, 0.0125])
    assert changes(tmp_path / "twice") == [
        {"step": 8, "epochs": [4, 8], "optimizer.drop_epochs": [[3], [3, 5, 7]]}
    ]
    written, expected = (description(tmp_path / name)["config"] for name in ("twice", "once"))
    assert written == expected


def test_what_has_been_trained_stays_as_the_config_says(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        # Within the third epoch.
        signal_after(patch, "train", 5, signal.SIGTERM)
        assert run(folder, *STEP, epochs(4), drops(2, 4)) == 143
    capsys.readouterr()
    before = file_times(folder)
    for refused in ([epochs(3), drops(2, 4)], [epochs(4), drops(2, 3)], [epochs(4), drops(4)]):
        assert run(folder, *STEP, *refused) == 2
        assert str(folder) in user_error(capsys)
        assert file_times(folder) == before
    assert run(folder, *STEP, epochs(4), drops(2)) == 0
    assert changes(folder) == [{"step": 5, "optimizer.drop_epochs": [[2, 4], [2]]}]


def test_more_epochs_of_a_cosine_tell_the_learning_rates(unbroken, tmp_path, capsys):
    folder = shutil.copytree(unbroken, tmp_path / "copy")
    assert run(folder, epochs(4)) == 0
    # The end of three epochs, where the rate is 0; after half an epoch of warm-up, at 5/7 of the rest.
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "learning rate" in line]
    assert line == "the learning rate at step 6 was 0 and is 0.01883"
    assert changes(folder) == [{"step": 6, "epochs": [3, 4]}]
    assert len(rates(folder)) == 4
    # The next start finds the new value.
    assert run(folder, epochs(3)) == 2
    assert run(folder, epochs(4)) == 0
    assert len(changes(folder)) == 1


def test_another_learning_rate_is_asked_for(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        signal_after(patch, "train", 4, signal.SIGTERM)
        assert run(folder, *STEP) == 143
    capsys.readouterr()
    assert run(folder, *STEP, rate(0.01)) == 2
    assert "--change" in user_error(capsys)
    # Other fields are refused as ever, and then nothing is said of the flag.
    assert run(folder, *STEP, rate(0.01), "--config.optimizer.momentum=0.5", "--change") == 2
    assert "--change" not in user_error(capsys)
    assert run(folder, *STEP, rate(0.01), "--change") == 0
    assert rates(folder) == pytest.approx([0.1, 0.1, 0.01])
    assert changes(folder) == [{"step": 4, "optimizer.learning_rate": [0.1, 0.01]}]
    assert description(folder)["config"]["optimizer"]["learning_rate"] == 0.01
    # The flag is needed once for each change, and the old value is another one now.
    assert run(folder, *STEP, rate(0.01)) == 0
    assert run(folder, *STEP) == 2


def test_a_change_is_recorded_once_the_run_can_go_on(unbroken, tmp_path, capsys):
    folder = shutil.copytree(unbroken, tmp_path / "copy")
    (seal,) = (folder / "checkpoints").glob("*/complete.json")
    seal.write_text("{}")
    assert run(folder, epochs(4)) == 2
    assert "checkpoints" in user_error(capsys)
    assert description(folder)["config"]["epochs"] == 3
    assert changes(folder) == []


@pytest.fixture
def without_checkpoints(unbroken, tmp_path):
    folder = shutil.copytree(unbroken, tmp_path / "copy")
    shutil.rmtree(folder / "checkpoints")
    return folder


@pytest.fixture
def nothing_expensive(monkeypatch):
    monkeypatch.setattr(loop, "prepare", lambda *_, **__: pytest.fail("the experiment was prepared"))


@pytest.mark.usefixtures("nothing_expensive")
@pytest.mark.parametrize("lost", [[], ["metrics.jsonl"], ["best_weights", "curves.png"]])
def test_a_finished_run_without_checkpoints_says_its_result_and_is_left_alone(
    without_checkpoints, capsys, lost
):
    for name in lost:
        path = without_checkpoints / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = file_times(without_checkpoints)
    assert run(without_checkpoints) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("result: ")
    assert file_times(without_checkpoints) == before
    assert not (without_checkpoints / "checkpoints").exists()


@pytest.mark.usefixtures("nothing_expensive")
def test_without_checkpoints_there_is_no_going_on(without_checkpoints, capsys):
    before = file_times(without_checkpoints)
    # The folder may be there, empty.
    (without_checkpoints / "checkpoints").mkdir()
    assert run(without_checkpoints, epochs(4)) == 2
    assert "init_weights" in user_error(capsys, alone=True)
    assert run(without_checkpoints, "--config.seed=1") == 2
    assert "seed" in user_error(capsys, alone=True)
    assert file_times(without_checkpoints) == before


@pytest.mark.usefixtures("nothing_expensive")
def test_weights_of_an_earlier_end_do_not_pass_for_those_of_the_last(without_checkpoints, capsys):
    """Three epochs, then stopped within the fifth of six, then the checkpoints deleted."""
    written = description(without_checkpoints)
    written["config"]["epochs"] = 6
    (without_checkpoints / "config.json").write_text(json.dumps(written))
    assert run(without_checkpoints, epochs(6)) == 2
    assert "init_weights" in user_error(capsys)


@pytest.mark.usefixtures("nothing_expensive")
def test_a_log_without_weights_and_checkpoints_is_not_written_over(without_checkpoints, capsys):
    shutil.rmtree(without_checkpoints / "weights")
    before = file_times(without_checkpoints)
    assert run(without_checkpoints) == 2
    assert "delete the folder" in user_error(capsys, alone=True)
    assert file_times(without_checkpoints) == before


def test_a_run_killed_before_its_first_checkpoint_starts_over(unbroken, without_checkpoints):
    shutil.rmtree(without_checkpoints / "weights")
    (without_checkpoints / "checkpoints").mkdir()
    assert run(without_checkpoints) == 0
    assert_same_end(without_checkpoints, unbroken)


def test_best_weights_and_pictures_may_be_deleted_while_a_run_is_stopped(unbroken, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        signal_after(patch, "train", 5, signal.SIGTERM)
        assert run(folder) == 143
    shutil.rmtree(folder / "best_weights")
    for events in folder.glob("events.*"):
        events.unlink()
    assert run(folder) == 0
    assert_same_end(folder, unbroken)


def test_as_many_checkpoints_are_kept_as_the_config_says_until_the_end(tmp_path, monkeypatch):
    folder, keep = tmp_path / "run", "--config.checkpoint_keep="
    for calls, number, kept in ((5, 3, [2, 4, 5]), (1, 1, [6])):
        with monkeypatch.context() as patch:
            signal_after(patch, "train", calls, signal.SIGTERM)
            assert run(folder, f"{keep}{number}", epochs(4)) == 143
        assert whole_checkpoints(folder) == kept
    assert run(folder, f"{keep}3", epochs(4)) == 0
    assert whole_checkpoints(folder) == [8]
    assert run(folder, f"{keep}0", epochs(4)) == 2
