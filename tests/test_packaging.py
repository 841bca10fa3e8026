"""What is installed: the configs by their names, and a wheel that works away from the repository."""

import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

import dks_jax
from dks_jax.models import load_config
from dks_jax.runtime.errors import InputError
from support.runs import CONFIGS, ROOT, records


@pytest.mark.parametrize("name", sorted(file.stem for file in CONFIGS.glob("*.py")))
def test_a_config_is_found_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A folder of that name, such as one of runs, is no config.
    Path(name).mkdir()
    assert load_config(name) == load_config(str(CONFIGS / f"{name}.py"))


def test_a_name_takes_a_method_and_a_file_comes_first(tmp_path, monkeypatch):
    assert load_config("digits_wrn:baseline").method == "baseline"
    monkeypatch.chdir(tmp_path)
    text = (CONFIGS / "digits_wrn.py").read_text()
    Path("digits_wrn").write_text(text + "\n_get = get_config\n\ndef get_config():\n    return _get('ds')\n")
    assert load_config("digits_wrn").method == "ds"


@pytest.mark.parametrize("name", ["digits_wnr", "configs_of_mine/digits_wrn", "nothing_like_it"])
def test_an_unknown_name_is_refused_with_what_there_is(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="digits_wrn"):
        load_config(name)


def test_the_citation_has_the_version():
    (cited,) = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited == dks_jax.__version__


@pytest.mark.slow
def test_the_wheel_trains_by_name_away_from_the_repository(tmp_path):
    # Not `import setuptools`, which warns where distutils has been imported.
    own = version("setuptools") if find_spec("setuptools") else "0"
    if int(own.split(".")[0]) < 77 or find_spec("pip") is None:
        pytest.skip("building a wheel needs pip and setuptools 77 or newer: pip install -e '.[dev]'")
    # A build leaves files in its tree.
    source = tmp_path / "source"
    for folder in ("dks_jax", "configs"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    build = ["pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)]
    subprocess.run([sys.executable, "-m", *build], check=True, capture_output=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    package = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(package)
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"dks_jax"}
    assert {f"dks_jax/configs/{file.name}" for file in CONFIGS.glob("*.py")} < set(names)
    run = ["-m", "dks_jax.train", "--config=digits_wrn", "--config.epochs=1", "--workdir=run"]
    environment = {"PATH": "/usr/bin", "PYTHONPATH": str(package), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, *run], check=True, capture_output=True, cwd=tmp_path, env=environment)
    assert records(tmp_path / "run")[0]["epoch"] == 1
