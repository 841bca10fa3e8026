"""The picture of the architecture shows the package as it is."""

import draw_architecture
import pytest


@pytest.fixture
def package(tmp_path):
    """Three folders, the first of which imports both others, and the second the third."""
    files = {
        "first/one.py": "from dks_jax.second import two\n\ndef late():\n    from dks_jax import third",
        "second/two.py": "from dks_jax.third.three import name\nimport ast",
        "third/three.py": "name = 'three'",
        "train.py": "from dks_jax.first.one import late",
    }
    for name, text in files.items():
        path = tmp_path / "dks_jax" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "dks_jax"


def test_arrows_are_the_imports_that_do_not_follow_from_others(package):
    found = draw_architecture.imports(package)
    assert found == {"commands": {"first"}, "first": {"second", "third"}, "second": {"third"}, "third": set()}
    assert draw_architecture.direct(found) == {**found, "first": {"second"}}


def test_every_folder_and_every_import_of_the_package_has_a_place(tmp_path):
    draw_architecture.main([str(tmp_path / "picture.png")])
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_package_that_the_picture_cannot_show_is_refused(package, tmp_path, monkeypatch):
    monkeypatch.setattr(draw_architecture, "PACKAGE", package)
    with pytest.raises(SystemExit, match=r"first.*second.*third"):
        draw_architecture.main([str(tmp_path / "picture.png")])
    assert not (tmp_path / "picture.png").exists()
