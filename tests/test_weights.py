"""Starting from weights: what fits is taken over, heads start anew, anything else is refused."""

import json
import shutil

import jax
import numpy as np
import pytest

from dks_jax.errors import InputError
from dks_jax.functional import get_arrays
from dks_jax.models import build
from dks_jax.supervision import backbone_only
from dks_jax.weights import adopt_weights, load_network, load_weights
from dks_jax.weights_folder import Weights, save_weights
from runs import records, run

MODEL = {"name": "wide_resnet", "depth": 16, "width": 1, "dropout": 0.0}


def network(num_classes=10, branches=True, seed=0, **model):
    return build(MODEL | model, num_classes=num_classes, channels=1, branches=branches, seed=seed)


def metadata(num_classes=10):
    return {
        "model": MODEL,
        "class_names": list(map(str, range(num_classes))),
        "preprocessing": {"height": 8, "width": 8, "channels": 1, "mean": [0.5], "std": [0.25]},
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Weights with branches, and of the backbone alone, of ten classes."""
    folder = tmp_path_factory.mktemp("weights")
    arrays = get_arrays(network(seed=1))
    save_weights(folder / "whole", Weights(arrays, {}, metadata()))
    save_weights(folder / "backbone", Weights(backbone_only(arrays), {}, metadata()))
    return folder, arrays


def adopt(network, path):
    return adopt_weights(network, load_weights(path), path)


def changed(before, after):
    return {name for name in after if not np.array_equal(before[name], after[name])}


def test_the_same_network_takes_everything(saved):
    folder, arrays = saved
    ours = network()
    lines = adopt(ours, folder / "whole")
    assert lines == [
        f"starting from the weights in {folder / 'whole'}: {len(arrays)} of {len(arrays)} arrays taken over"
    ]
    assert changed(get_arrays(ours), arrays) == set()


def test_heads_of_other_classes_start_anew_and_are_named(saved):
    folder, arrays = saved
    ours = network(num_classes=4)
    fresh = get_arrays(ours)
    lines = adopt(ours, folder / "whole")
    anew = {name for name in fresh if name.endswith(("fc.kernel", "fc.bias"))}
    assert len(anew) == 6
    after = get_arrays(ours)
    for name in fresh:
        np.testing.assert_array_equal(after[name], (fresh if name in anew else arrays)[name])
    assert "head.fc.kernel (64x4 in the network, 64x10 in the weights)" in lines[1]
    assert all(name in lines[1] for name in anew)


def test_branches_that_the_weights_lack_start_anew(saved):
    folder, arrays = saved
    ours = network()
    fresh = get_arrays(ours)
    lines = adopt(ours, folder / "backbone")
    assert lines[1:] == ["starting anew, since the weights have none: all branches"]
    after = get_arrays(ours)
    for name in fresh:
        np.testing.assert_array_equal(after[name], (fresh if name.startswith("branches.") else arrays)[name])


def test_branches_that_the_network_lacks_are_left_out(saved):
    folder, arrays = saved
    ours = network(branches=False)
    lines = adopt(ours, folder / "whole")
    assert lines[1].startswith("left out: ")
    assert changed(get_arrays(ours), backbone_only(arrays)) == set()


@pytest.mark.parametrize("model", [{"width": 2}, {"depth": 22}])
def test_another_network_is_refused_whole(saved, model):
    folder, _ = saved
    ours = network(**model)
    before = get_arrays(ours)
    with pytest.raises(
        InputError, match=r"`init_weights` must name weights of the same network .* differ in .*stages"
    ):
        adopt(ours, folder / "backbone")
    assert changed(before, get_arrays(ours)) == set()


def test_damaged_weights_are_refused(saved, tmp_path):
    folder, arrays = saved
    for damage in ("emptied", "deleted", "no metadata", "other metadata"):
        save_weights(tmp_path / damage, Weights(arrays, {}, metadata()))
        if damage == "emptied":
            next(path for path in (tmp_path / damage).rglob("*") if path.parent.name == "d").write_bytes(b"")
        elif damage == "deleted":
            (tmp_path / damage / "manifest.ocdbt").unlink()
        elif damage == "no metadata":
            (tmp_path / damage / "metadata.json").write_text("{")
        else:
            (tmp_path / damage / "metadata.json").write_text("[]")
        with pytest.raises(InputError, match=r"The weights in .* are damaged: .* put a copy back"):
            load_weights(tmp_path / damage)
    assert load_weights(folder / "whole").metadata["class_names"][3] == "3"


def test_loaded_networks_are_the_saved_ones(saved):
    folder, _ = saved
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    whole, description = load_network(folder / "whole")
    assert whole(images).shape == (3, 2, 10)
    backbone, _ = load_network(folder / "backbone")
    np.testing.assert_allclose(whole(images)[-1], backbone(images)[0], rtol=1e-5, atol=1e-5)
    assert json.dumps(description["model"]) == json.dumps(MODEL)


@pytest.mark.usefixtures("tiny_model")
def test_a_run_starts_from_the_weights_of_another(tmp_path, capsys):
    assert run(tmp_path / "first", "--config.epochs=1") == 0
    capsys.readouterr()
    fine = ["--config.optimizer.learning_rate=1e-12", f"--config.init_weights={tmp_path / 'first'}"]
    assert run(tmp_path / "second", "--config.epochs=1", "--config.method=baseline", *fine) == 0
    assert "arrays taken over" in capsys.readouterr().out
    # With a learning rate of nothing the parameters stay; the running statistics move on.
    before = load_weights(tmp_path / "first").params
    after = load_weights(tmp_path / "second").params
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, atol=1e-6)
    # Gone on from a checkpoint, the weights are not looked at again.
    (tmp_path / "first" / "weights" / "metadata.json").unlink()
    assert run(tmp_path / "second", "--config.epochs=1", "--config.method=baseline", *fine) == 0
    assert "arrays taken over" not in capsys.readouterr().out
    assert len(records(tmp_path / "second")) == 2


def test_weights_of_a_run_that_has_not_ended_are_those_of_its_best_epoch(saved, tmp_path):
    folder, _ = saved
    shutil.copytree(folder / "whole", tmp_path / "run" / "best_weights")
    with pytest.raises(InputError, match=r"its run has not ended; let it end, or give .*best_weights"):
        load_weights(tmp_path / "run")


def test_weights_of_before_there_was_a_choice_are_squashed(saved):
    folder, _ = saved
    assert load_weights(folder / "whole").metadata["preprocessing"]["name"] == "squash"
