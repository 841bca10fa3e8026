"""A family of networks is one file and one entry: every command line works with it."""

import json
from pathlib import Path

import pytest

from dks_jax import evaluate, models, predict, train
from dks_jax.weights import load_network
from support import toy_family
from support.runs import records


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(models.NETWORKS, "toy", toy_family.NETWORKS["toy"])


def test_the_file_of_a_family_is_short():
    assert len(Path(toy_family.__file__).read_text().splitlines()) < 60


def test_a_new_family_is_trained_evaluated_saved_and_used_by_the_command_lines(
    toy, image_folder, tmp_path, capsys
):
    config = tmp_path / "toy.py"
    config.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(method='dks'):\n"
        "    data = {'source': 'folder', 'image_size': 8, 'batch_size': 4}\n"
        "    return ConfigDict({'method': method, 'epochs': 1, 'model': {'name': 'toy'}, 'data': data})\n"
    )
    run = tmp_path / "run"
    data = f"--config.data.root={image_folder}"
    assert train.main([f"--config={config}", f"--workdir={run}", data, "--config.model.width=4"]) == 0
    assert {"error/branch1", "error/main"} <= records(run)[-1].keys()
    network, metadata = load_network(run)
    assert metadata.model == {"name": "toy", "width": 4}
    assert network.names == ("branch1", "main")
    output = tmp_path / "result.json"
    arguments = [f"--config={config}", data, f"--weights={run}"]
    assert evaluate.main([*arguments, f"--output={output}"]) == 0
    assert json.loads(output.read_text())["classifiers"].keys() == {"branch1", "main"}
    capsys.readouterr()
    assert predict.main([f"--weights={run}", "--json", str(image_folder / "test")]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_an_argument_of_the_family_is_checked_by_its_row(toy):
    with pytest.raises(ValueError, match=r"`model\.width`.*at least 1.*0"):
        models.build({"name": "toy", "width": 0}, num_classes=2, channels=3, seed=0)
