"""The benchmark: both sides compute the same, and every figure is there; how fast they are is no claim."""

import json
from pathlib import Path

import agreement
import benchmark
import numpy as np
import pytest
from PIL import Image

from dks_jax.errors import InputError


def write_images(root):
    """Three images of two classes."""
    random = np.random.default_rng(0)
    for name in ("a/1", "a/2", "b/1"):
        path = root / "val" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    return root


def test_evaluation_is_measured_on_both_sides_with_the_same_logits(tmp_path, capsys):
    root, output = write_images(tmp_path / "images"), tmp_path / "result.json"
    options = {"model": "resnet18", "batch_size": 2, "workers": 1, "rounds": 2, "images": 4}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    assert benchmark.main(["evaluate", f"--root={root}", *arguments, f"--json={output}"]) == 0
    printed = capsys.readouterr().out
    table = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in printed.splitlines()
        if line.startswith("|")
    ]
    assert table[0] == ["images/s", "dks_jax", "PyTorch NCHW", "PyTorch channels_last", "ratio"]
    assert [row[0] for row in table[2:]] == ["decoding", "network", "end to end"]
    assert table[2][3] == "-"

    result = json.loads(output.read_text())
    assert result["options"] == options
    assert result["num_files"] == 3
    for found in result["logits"].values():
        assert found["largest_logit"] > 0
        assert found["largest_difference"] < 1e-4 * found["largest_logit"]
    for row, *cells, ratio in table[2:]:
        rates = result["images_per_second"][row]
        medians = {name: np.median(own) for name, own in rates.items()}
        assert all(len(own) == 2 and min(own) > 0 for own in rates.values())
        for name, cell in zip(table[0][1:], cells, strict=False):
            if name in rates:
                own = rates[name]
                assert cell == f"{medians[name]:.1f} ({min(own):.1f}-{max(own):.1f})"
        ours = medians.pop("dks_jax")
        assert ratio == f"{ours / max(medians.values()):.2f}"
    for name in ("jax", "flax", "torch", "Pillow"):
        assert f"{name} {result['versions'][name]}" in printed
    assert result["cpu"] in printed
    assert f"\n{result['command']}\n" in printed
    assert ("warning: others" in printed) == (result["load_average_before"] > 0.5)
    assert f"evaluate --root={root}" in result["command"]


@pytest.mark.parametrize("difference", [1e-3, np.nan])
def test_logits_that_differ_are_refused(difference):
    ours, theirs = np.array([[3.0, 0.0]]), np.array([[3.0, difference]])
    with pytest.raises(InputError, match=r"PyTorch NCHW must differ by less than 0\.0001 of the largest"):
        agreement.require(agreement.compare(ours, theirs), "PyTorch NCHW", "consequence")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "The following arguments are required: COMMAND; see python tools/benchmark.py --help."),
        (["evaluate"], "are required: --root; see python tools/benchmark.py evaluate --help."),
        (
            ["evaluate", "--root=absent"],
            "`--root` must name a folder that holds val/<class>/<image>; there is no absent/val.",
        ),
        (["evaluate", "--root=images", "--rounds=0"], "`--rounds` must be 1 or more; got 0."),
        (
            ["evaluate", "--root=images", "--images=100"],
            "`--images` must be a multiple of `--batch_size`, 32; got 100.",
        ),
        (
            ["evaluate", "--root=images", "--images=32", "--workers=2"],
            "`--images` must fill a batch for each of the 2 workers, 64 images or more; got 32.",
        ),
        (
            ["evaluate", "--root=images", "--json=absent/result.json"],
            "`--json` must name a file in a folder that exists; there is no absent.",
        ),
    ],
)
def test_wrong_arguments_end_with_one_sentence(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_images(Path("images"))
    assert benchmark.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.endswith(f"{message}\n")
    assert captured.err.count("\n") == 1


def test_an_unknown_model_is_refused_with_the_known_ones(tmp_path, capsys):
    root = write_images(tmp_path)
    assert benchmark.main(["evaluate", f"--root={root}", "--model=wide_resnet"]) == 2
    captured = capsys.readouterr().err
    assert "argument --model: invalid choice: 'wide_resnet'" in captured.lower()
    assert "resnet152" in captured
    assert captured.count("\n") == 1
