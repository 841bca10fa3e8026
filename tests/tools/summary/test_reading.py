"""What the summary leaves out and why, and wrong arguments."""

from pathlib import Path

import pytest
import summarize

from support.runs import file_times, user_error
from support.summaries import DATA, tables

# As if killed while it was written.
LAST_LINE = b'"split": "test", "loss": 0.5, "error": 20.0, "error/main": 20.0, "error/branch1": 25.0, '
LAST_LINE += b'"ece/main": 0.25, "cross_entropy/main": 1.5}\n'
# (file, a text in it, what takes its place, the reason and what it names); without a text: the whole file.
DAMAGED = [
    ("weights", None, None, "unfinished", "weights/"),
    ("metrics.jsonl", None, None, "unfinished", "0 of 2"),
    ("metrics.jsonl", LAST_LINE, LAST_LINE[:9], "unfinished", "1 of 2"),
    ("config.json", b'"epochs": 2', b'"epochs": 40', "unfinished", "2 of 40"),
    ("config.json", b'"epochs": 2', b'"epochs": 0', "damaged", "metrics.jsonl"),
    ("metrics.jsonl", b'"epoch": 1', b'"epoch": 2', "damaged", "metrics.jsonl"),
    ("metrics.jsonl", b'{"step": 44', b"[" * 9999, "damaged", "metrics.jsonl"),
    ("metrics.jsonl", None, b"\xff\n", "damaged", "metrics.jsonl"),
    ("metrics.jsonl", None, b"[]\n", "damaged", "`epoch`"),
    ("metrics.jsonl", b'"error/main": 30.0', b'"error/main": NaN', "damaged", "`error/main`"),
    ("metrics.jsonl", b'"error/main": 20.0', b'"error/main": 1e999', "damaged", "`error/main`"),
    ("metrics.jsonl", b'"error/branch1": 25.0', b'"error/branch1": "x"', "damaged", "`error/branch1`"),
    ("metrics.jsonl", b'"error/main"', b'"x"', "damaged", "`error/main`"),
    ("metrics.jsonl", b'"ece/main": 0.25', b'"ece/main": NaN', "damaged", "`ece/main`"),
    ("metrics.jsonl", b'py/main": 1.5', b'py/main": "x"', "damaged", "`cross_entropy/main`"),
    ("metrics.jsonl", b'"split": "test"', b'"split": 5', "damaged", "`split`"),
    ("config.json", None, None, "damaged", "config.json"),
    ("config.json", None, b"{", "damaged", "config.json"),
    ("config.json", None, b"[]", "damaged", "`config`"),
    ("config.json", b'"seed"', b'"sod"', "damaged", "`seed`"),
    ("config.json", b'"method": "dks"', b'"method": "x"', "damaged", "'x'"),
    ("config.json", b'"test_images": 20', b'"test_images": "x"', "damaged", "test_images"),
]


@pytest.mark.parametrize("damage", DAMAGED)
def test_unfinished_and_damaged_runs_are_listed_and_not_averaged(make_run, tmp_path, capsys, damage):
    file, old, new, reason, named = damage
    whole = make_run("whole", test=(40,), epochs=1)
    logged = {"ece/main": 0.25, "cross_entropy/main": 1.5}
    broken = make_run("broken", seed=1, branches={"branch1": 25.0}, logged=logged)
    if old:
        content = (broken / file).read_bytes()
        assert old in content
        (broken / file).write_bytes(content.replace(old, new))
    elif new:
        (broken / file).write_bytes(new)
    else:
        (broken / file).rename(tmp_path / "gone")
    (last, _), (line,) = tables(capsys, whole, broken)
    assert last[1:] == [["WRN-16-1", DATA, "", "", "40.00 (1)"]]
    assert line.startswith(f"{broken}: {reason}: ")
    assert named in line
    # Alone it is an error.
    assert summarize.main([str(broken), "--output", str(tmp_path / "summary")]) == 2
    assert line in user_error(capsys, alone=True)
    assert not (tmp_path / "summary").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ([], "RUN"),
        (["absent"], "absent"),
        (["run", "empty"], "empty"),
        (["run/config.json"], "run/config.json"),
        (["run", "--output", "run"], "`--output`"),
        (["run", "--output", "run/config.json"], "run/config.json"),
    ],
)
def test_wrong_arguments_are_named(make_run, tmp_path, monkeypatch, capsys, wrong):
    arguments, named = wrong
    monkeypatch.chdir(tmp_path)
    make_run("run")
    Path("empty").mkdir()
    before = file_times(tmp_path)
    assert summarize.main(arguments) == 2
    assert named in user_error(capsys, alone=True)
    assert file_times(tmp_path) == before
