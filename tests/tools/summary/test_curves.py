"""The figure of the summary."""

import numpy as np
import summarize
from PIL import Image
from summary.curves import draw
from summary.reading import find_runs, read_runs
from summary.rows import make_rows


def test_the_figure_is_written_as_png_and_the_same_svg_every_time(make_run, tmp_path):
    for seed in range(2):
        make_run(f"runs/{seed}", seed=seed, test=(30.0 + seed, 20.0))
    # Characters with a meaning in the titles of figures and in Markdown.
    make_run("runs/b", "baseline", init_weights="$a|^$^$" * 20)
    for output in ("x", "y/z"):
        assert summarize.main([str(tmp_path / "runs"), "--output", str(tmp_path / output)]) == 0
        found = {path.name for path in (tmp_path / output).iterdir()}
        assert found == {"table.md", "table.csv", "curves.png", "curves.svg"}
        with Image.open(tmp_path / output / "curves.png") as image:
            assert min(image.size) > 500
    assert r"init_weights $a\|^$^$" in (tmp_path / "x/table.md").read_text()
    svg = (tmp_path / "x/curves.svg").read_bytes()
    assert svg == (tmp_path / "y/z/curves.svg").read_bytes()
    assert b"<dc:date>" not in svg


def test_curves_are_means_and_bands_are_ranges(make_run, tmp_path):
    make_run("a", seed=0, test=(30, 20), train=(28, 10))
    make_run("b", seed=1, test=(40, 22), train=(30, 12))
    make_run("c", "baseline", test=(50, 24))
    make_run("d", test=(90,))
    runs, _ = read_runs(find_runs([tmp_path]))
    one_epoch, two_epochs = draw(make_rows(runs)).axes
    assert "epochs 1" in one_epoch.get_title(loc="left")
    # A line through a single point is invisible.
    assert [line.get_marker() for line in one_epoch.get_lines()] == [".", "."]
    _, _, train_line, test_line = two_epochs.get_lines()
    assert train_line.get_linestyle() != test_line.get_linestyle()
    np.testing.assert_array_equal(train_line.get_xydata(), [(1, 29), (2, 11)])
    np.testing.assert_array_equal(test_line.get_xydata(), [(1, 35), (2, 21)])
    band = two_epochs.collections[-1].get_paths()[0].get_extents()
    np.testing.assert_array_equal(band.get_points(), [(1, 20), (2, 40)])
    labels = [text.get_text() for text in two_epochs.get_legend().get_texts()]
    assert labels == ["baseline (1 run)", "DKS (2 runs)"]
