"""Which runs the summary averages over, and how it calls them."""

import json

import pytest

from support.summaries import DATA, tables


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({"data__mean": [0.5]}, ("data.mean [0.305]", "data.mean [0.5]")),
        ({"added": ""}, ('added ""', "added absent")),
        ({"data": {"test_checksum": 3}}, None),
        (
            {"optimizer__momentum": 0.5, "norm_groups": 2},
            ("norm_groups 1; optimizer.momentum 0.9", "norm_groups 2; optimizer.momentum 0.5"),
        ),
    ],
)
def test_runs_that_differ_in_more_than_the_seed_are_rows_of_their_own(
    make_run, tmp_path, capsys, changes, labels
):
    make_run("a", test=(20,))
    make_run("b", test=(10,), seed=1, **changes)
    (last, _), left_out = tables(capsys, tmp_path)
    assert last[0][2] == "setting"
    assert sorted(line[-1] for line in last[1:]) == ["10.00 (1)", "20.00 (1)"]
    if labels:
        assert tuple(line[2] for line in last[1:]) == labels
    assert left_out == []


@pytest.mark.parametrize(
    "changed",
    [
        ("step", {"step": 22, "optimizer.learning_rate": [0.1, 0.2]}, True),
        ("step", {"step": 22, "optimizer.drop_epochs": [[1], [2]]}, True),
        ("step", {"step": 22, "optimizer.drop_factor": [0.1, 0.2], "data.root": ["a", "b"]}, True),
        ("cosine", {"step": 22, "epochs": [1, 2]}, True),
        # As if they had been so from the beginning.
        ("step", {"step": 22, "epochs": [1, 2]}, False),
        ("cosine", {"step": 0, "epochs": [1, 2]}, False),
        ("cosine", {"step": 22, "checkpoint_keep": [1, 2]}, False),
    ],
)
def test_a_run_whose_learning_rate_was_another_one_is_a_row_of_its_own(make_run, tmp_path, capsys, changed):
    schedule, change, own_row = changed
    make_run("a", optimizer__schedule=schedule)
    description = make_run("b", seed=1, optimizer__schedule=schedule) / "config.json"
    text = json.loads(description.read_text())
    text["resumed"] += [{name: text[name] for name in ("versions", "devices", "processes", "commit")}, change]
    description.write_text(json.dumps(text))
    (last, _), left_out = tables(capsys, tmp_path)
    assert len(last) == (3 if own_row else 2)
    assert left_out == []


def test_labels_name_network_and_data(make_run, tmp_path, capsys):
    make_run("a", model__dropout=0.3)
    make_run("b", data__source="cifar", data__name="cifar100", data={"train_images": 50000})
    make_run("c", data__source="folder")
    make_run("d", model__name="resnet", data__source="tfds", data__name="mnist")
    (last, _), _ = tables(capsys, tmp_path)
    assert [line[:2] for line in last[1:]] == [
        ["WRN-16-1", "cifar100, 50,000 + 20 images"],
        ["WRN-16-1 dropout 0.3", DATA],
        ["WRN-16-1", "folder, 100 + 20 images"],
        ["resnet depth 16 width 1", "tfds mnist, 100 + 20 images"],
    ]


def test_the_same_experiment_and_seed_counts_once(make_run, tmp_path, capsys):
    a, b = make_run("a", test=(20,)), make_run("b", test=(10,))
    for given_ in ((a, b), (tmp_path, a, tmp_path / "b" / ".." / "a")):
        (last, _), (line,) = tables(capsys, *given_)
        assert last[1][-1] == "20.00 (1)"
        assert line.startswith(f"{b}: duplicate")
        assert str(a) in line
