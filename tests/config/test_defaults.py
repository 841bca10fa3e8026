"""Config files set what makes their experiment what it is; what a version adds breaks no older run."""

import json
from pathlib import Path

import pytest
import summarize

from dks_jax import InputError, config, models, train
from dks_jax.config import FIELDS, Field, complete, flatten, recorded, resolve
from dks_jax.models import load_config
from support.runs import CONFIGS, DIGITS, records, run

ALL = sorted(CONFIGS.glob("*.py"))
# Fields that version 0.1 did not have.
NEW = (
    *("model.branches", "synergy.teaches", "synergy.branch_warmup", "checkpoint_keep"),
    *("data.train_split", "data.held_out", "data.channels"),
)
# The digits config as version 0.1 had it, every field set; `remat` and `deterministic` came during it.
DIGITS_BEFORE = {
    "method": "dks",
    "seed": 0,
    "epochs": 40,
    "precision": "float32",
    "deterministic": False,
    "remat": False,
    "norm_groups": 1,
    "checkpoint_every_epochs": 5,
    "checkpoint_every_minutes": 0.0,
    "init_weights": "",
    "init_optimizer": False,
    "data": {
        "source": "digits",
        "name": "",
        "root": "",
        "streamed": False,
        "image_size": 8,
        "preprocessing": "squash",
        "train_per_class": 0,
        "test_per_class": 0,
        "batch_size": 64,
        "drop_last": True,
        "padding": 1,
        "pad_mode": "zero",
        "flip": False,
        "random_resized_crop": False,
        "color_jitter": 0.0,
        "mean": (0.305,),
        "std": (0.376,),
    },
    "model": {"name": "wide_resnet", "depth": 16, "width": 1, "dropout": 0.0},
    "synergy": {"alpha": 1.0, "temperature": 1.0, "epsilon": 1e-8},
    "optimizer": {
        "schedule": "cosine",
        "learning_rate": 0.1,
        "warmup_epochs": 0.5,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "clip_norm": 0.0,
        "decay_norm_and_bias": True,
        "drop_epochs": (),
        "drop_factor": 1.0,
        "reset_momentum_at_drops": False,
    },
}


def write_config(path: Path, fields: dict) -> Path:
    path.write_text(
        "from ml_collections import ConfigDict\n"
        f"def get_config(method='dks'):\n    return ConfigDict({fields!r} | {{'method': method}})\n"
    )
    return path


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_every_config_is_complete(path: Path):
    loaded = flatten(load_config(str(path)))
    assert FIELDS.keys() <= loaded.keys()
    models.check(load_config(str(path)).model)


@pytest.mark.parametrize("lacking", [(), ("deterministic", "remat")], ids=["all fields", "before remat"])
def test_a_config_file_of_version_0_1_describes_the_same_experiment(lacking, tmp_path):
    fields = {name: value for name, value in DIGITS_BEFORE.items() if name not in lacking}
    before = load_config(str(write_config(tmp_path / "before.py", fields)))
    assert before == load_config(DIGITS.removeprefix("--config="))


def test_an_old_run_goes_on_under_a_version_with_more_fields(tmp_path, tiny_model, capsys):
    assert run(tmp_path / "old") == 0
    assert run(tmp_path / "new", "--config.seed=1") == 0
    description = json.loads((tmp_path / "old" / "config.json").read_text())
    for name in (*NEW, "deterministic", "remat"):
        *groups, last = name.split(".")
        inner = description["config"]
        for group in groups:
            inner = inner[group]
        del inner[last]
    (tmp_path / "old" / "config.json").write_text(json.dumps(description))
    capsys.readouterr()
    assert run(tmp_path / "old") == 0
    # Both are seeds of one experiment, hence in one row of the table.
    assert summarize.main([str(tmp_path)]) == 0
    table = capsys.readouterr().out
    rows = [line for line in table.splitlines() if line.startswith("| WRN")]
    assert rows
    assert all("(2)" in row for row in rows)
    assert run(tmp_path / "old", "--config.remat=True") == 2


@pytest.fixture
def added(monkeypatch):
    """A field that a next version might add: new runs default to 2, runs of before have 1."""
    monkeypatch.setitem(FIELDS, "data.repeats", Field(int, 2, "a field of the next version", 1, 9, before=1))


def test_a_new_field_with_another_default_leaves_old_runs_as_they_were(added, tmp_path, tiny_model, capsys):
    file = write_config(tmp_path / "mine.py", DIGITS_BEFORE)
    assert load_config(str(file)).data.repeats == 2
    assert load_config(str(file), {"data.repeats": "5"}).data.repeats == 5
    assert recorded(json.loads(json.dumps(DIGITS_BEFORE)), models.arguments)["data.repeats"] == 1
    assert run(tmp_path / "run", "--config.epochs=1") == 0
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["config"]["data"]["repeats"] == 2
    # The same run as a version without the field would have left it: to go on it needs the old value.
    del written["config"]["data"]["repeats"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(written))
    assert run(tmp_path / "run", "--config.epochs=1") == 2
    assert "data.repeats" in capsys.readouterr().err
    assert run(tmp_path / "run", "--config.epochs=1", "--config.data.repeats=1") == 0


def test_every_default_is_accepted_by_its_own_row():
    for name, row in FIELDS.items():
        config.check({name: row.default}, {name: row})
        assert row.meaning, name


def test_a_method_is_a_pair_and_an_explicit_value_wins():
    def pair(**overrides):
        return tuple(resolve(load_config(DIGITS.removeprefix("--config="), overrides)))

    assert pair() == ("published", "all_pairs")
    assert pair(method="baseline") == ((), "no_pairs")
    assert pair(method="top_down") == ("published", "top_down")
    assert pair(method="baseline", **{"model.branches": "published"}) == ("published", "no_pairs")
    assert pair(**{"synergy.teaches": "((0, 1), (1, 0))"}) == ("published", ((0, 1), (1, 0)))


def test_a_matrix_of_ones_own_is_trained_with(tmp_path, tiny_model):
    matrix = "((0, 0, 0), (2, 0, 0), (1, 0.5, 0))"
    assert run(tmp_path / "run", f"--config.synergy.teaches={matrix}", "--config.epochs=1") == 0
    (train_record, _) = records(tmp_path / "run")
    expected = sum(train_record[f"cross_entropy/{name}"] for name in ("branch1", "branch2", "main"))
    expected += 2 * train_record["kl/branch2->branch1"]
    expected += train_record["kl/main->branch1"] + 0.5 * train_record["kl/main->branch2"]
    assert train_record["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("matrix", ["((0, 1), (1, 0))", "((0,-1,0),(0,0,0),(0,0,0))", "everybody", "3"])
def test_a_matrix_that_does_not_fit_is_refused(matrix: str, tmp_path, capsys, tiny_model):
    assert run(tmp_path / "run", f"--config.synergy.teaches={matrix}") == 2
    assert "teaches" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_another_network_has_other_arguments():
    with pytest.raises(InputError, match=r"`model\.depth`.*resnet18"):
        load_config(DIGITS.removeprefix("--config="), {"model.name": "resnet18"})


def test_the_help_of_the_command_line_has_every_field(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    shown = capsys.readouterr().out
    names = [*FIELDS, *(f"model.{name}" for name in models.arguments("wide_resnet"))]
    assert all(f"--config.{name}" in shown for name in names)


def test_a_complete_config_needs_no_file():
    made = complete({"model.name": "resnet18"}, {"epochs": "3"}, models.arguments)
    assert (made.epochs, made.data.source, made.model.name) == (3, FIELDS["data.source"].default, "resnet18")
