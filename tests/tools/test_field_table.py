"""The table of config fields in the documentation is the one that the schema gives."""

import describe_fields
import pytest

from support.runs import ROOT

PAGE = ROOT / "docs" / "configuration.md"


def test_the_page_shows_the_fields_as_they_are(tmp_path):
    copy = tmp_path / "page.md"
    copy.write_text(PAGE.read_text())
    assert describe_fields.main(["--write", str(copy)]) == 0
    remedy = "python tools/describe_fields.py --write docs/configuration.md"
    assert copy.read_text() == PAGE.read_text(), f"out of date; refresh it by {remedy}"


def test_writing_replaces_an_outdated_table_and_nothing_else(tmp_path, capsys):
    text = PAGE.read_text()
    outdated = text.replace("| `0.1` ", "| `0.2` ").replace("| `seed` ", "| `seeds` ")
    assert outdated != text
    copy = tmp_path / "page.md"
    copy.write_text(outdated)
    assert describe_fields.main(["--write", str(copy)]) == 0
    assert copy.read_text() == text
    assert describe_fields.main([]) == 0
    assert capsys.readouterr().out in text


@pytest.mark.parametrize(
    "spoil", [lambda lines: lines[:-1], lambda lines: lines[::-1], lambda lines: lines * 2]
)
def test_a_page_without_a_place_for_the_table_is_refused(spoil, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("".join(spoil(list(describe_fields.MARKERS))))
    before = page.read_text()
    assert describe_fields.main(["--write", str(page)]) == 2
    error = capsys.readouterr().err
    assert "`--write`" in error
    assert str(page) in error
    assert error.count("\n") == 1
    assert page.read_text() == before
    assert list(tmp_path.iterdir()) == [page]
