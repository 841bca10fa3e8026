"""Weights on disk: what is written is read, and a network starts from whatever fits."""

import json
import shutil

import numpy as np
import pytest

from dks_jax import BranchSpec, InputError
from dks_jax.models import Preprocessing, build, resolve_branches
from dks_jax.nn import get_arrays, get_params
from dks_jax.supervision import backbone_only
from dks_jax.weights import (
    METADATA,
    Metadata,
    Weights,
    adopt_progress,
    adopt_weights,
    load_network,
    load_weights,
    save_weights,
)
from support.runs import records, run
from support.tiny_network import save_tiny

MODEL = {"name": "wide_resnet", "depth": 16, "width": 1, "dropout": 0.0}
PUBLISHED = resolve_branches(MODEL, "published")
OTHERS = {
    "fewer": (BranchSpec(1, (2,), (128,)),),
    "slimmer": (PUBLISHED[0], BranchSpec(1, (2,), (64,))),
    "shallower": (PUBLISHED[0], BranchSpec(1, (1,), (128,))),
    "heads_alone": (BranchSpec(0, (), ()), BranchSpec(1, (), ())),
}


def network(num_classes=10, branches="published", seed=0, **model):
    return build(MODEL | model, num_classes=num_classes, channels=1, branches=branches, seed=seed)


def metadata(branches=PUBLISHED, **more):
    preprocessing = Preprocessing("standard", 8, 8, 1, (0.5,), (0.25,))
    return Metadata(MODEL, branches, tuple("abcdefghij"), preprocessing, **more)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Weights with branches, and of the backbone alone, of ten classes."""
    folder = tmp_path_factory.mktemp("weights")
    arrays = get_arrays(network(seed=1))
    weights = Weights(arrays, {}, metadata())
    save_weights(folder / "whole", weights)
    save_weights(folder / "backbone", weights.without_branches())
    return folder, arrays


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved[0] / "whole", tmp_path / "copy")


def adopt(network, path, class_names="abcdefghij"):
    return adopt_weights(network, load_weights(path), path, class_names)


def changed(before, after):
    return {name for name in after if not np.array_equal(before[name], after[name])}


def test_weights_and_metadata_come_back_as_they_were_written(tmp_path):
    arrays = {"head.fc.kernel": np.float32([[1, np.pi]]), "branches.0.head.fc.kernel": np.float32([[3]])}
    described = metadata(
        epoch=3,
        test_error=12.5,
        imported=True,
        num_batches_tracked={"bn1.num_batches_tracked": 5},
        optimizer={"lr": 0.1, "nesterov": False, "foreach": None},
    )
    save_weights(tmp_path / "w", Weights(arrays, {"stem.bn.mean": np.zeros(2)}, described, {"a": np.ones(1)}))
    params, batch_stats, again, momentum, _ = load_weights(tmp_path / "w")
    assert again == described
    assert changed(arrays, params) == set()
    assert (set(params), set(batch_stats), set(momentum)) == (set(arrays), {"stem.bn.mean"}, {"a"})


def test_metadata_are_read_like_a_dictionary_too(saved):
    _, described = load_network(saved[0] / "backbone")
    assert described["preprocessing"]["mean"] == described.preprocessing.mean == (0.5,)
    assert described["class_names"] == described.class_names


def older(folder, *, preprocessing=(), **more):
    """Gives metadata.json the form in which version 0.1 wrote it: nothing of branches, nor of the origin."""
    fields = json.loads((folder / METADATA).read_text())
    kept = {name: fields[name] for name in ("model", "class_names", "preprocessing", "files")}
    kept["preprocessing"] |= dict(preprocessing)
    (folder / METADATA).write_text(json.dumps(kept | more))


def test_imported_weights_of_version_0_1_have_the_published_branches(copy, saved):
    older(
        copy, preprocessing={"assumed": True}, epoch=59, optimizer={"lr": 0.1}, num_batches_tracked={"a": 5}
    )
    again = load_weights(copy)
    expected = {"imported": True, "epoch": 59, "optimizer": {"lr": 0.1}, "num_batches_tracked": {"a": 5}}
    described = metadata(**expected)
    assert again.metadata == described.replace(preprocessing=described.preprocessing.replace(assumed=True))
    assert changed(saved[1], get_arrays(load_network(copy)[0])) == set()


def test_weights_of_a_run_of_version_0_1_are_the_backbone(saved, tmp_path):
    folder = shutil.copytree(saved[0] / "backbone", tmp_path / "weights")
    older(folder, epoch=3, test_error=12.5)
    assert load_weights(folder).metadata == metadata((), epoch=3, test_error=12.5)
    assert len(load_network(folder)[0].branches) == 0


def test_weights_of_before_there_was_a_choice_are_squashed(copy):
    fields = json.loads((copy / METADATA).read_text())
    del fields["preprocessing"]["name"]
    (copy / METADATA).write_text(json.dumps(fields))
    assert load_weights(copy).metadata.preprocessing.name == "squash"


@pytest.mark.parametrize("damage", ["emptied", "deleted", "no JSON", "no object"])
def test_damaged_weights_are_refused(damage, copy):
    if damage == "emptied":
        next(path for path in copy.rglob("*") if path.parent.name == "d").write_bytes(b"")
    elif damage == "deleted":
        (copy / "manifest.ocdbt").unlink()
    else:
        (copy / METADATA).write_text({"no JSON": "{", "no object": "[]"}[damage])
    with pytest.raises(InputError, match=str(copy)):
        load_weights(copy)


def test_metadata_of_another_network_are_refused(copy):
    fields = json.loads((copy / METADATA).read_text())
    for wrong in ({"branches": []}, {"branches": [[1, [], []]]}, {"model": MODEL | {"width": 2}}):
        (copy / METADATA).write_text(json.dumps(fields | wrong))
        with pytest.raises(InputError):
            load_network(copy)


def test_a_network_is_loaded_with_its_branches_or_without(saved):
    folder, arrays = saved
    whole, described = load_network(folder / "whole")
    plain, of_plain = load_network(folder / "whole", branches=False)
    assert (whole.names, plain.names) == (("branch1", "branch2", "main"), ("main",))
    assert (described.branches, of_plain.branches) == (PUBLISHED, ())
    assert changed(get_arrays(whole), arrays) == set()
    assert changed(get_arrays(plain), backbone_only(arrays)) == set()


def test_the_same_network_takes_everything(saved):
    folder, arrays = saved
    ours = network()
    (line,) = adopt(ours, folder / "whole")
    assert f"{len(arrays)} of {len(arrays)}" in line
    assert changed(get_arrays(ours), arrays) == set()


def test_heads_of_other_classes_keep_initial_values_and_are_named(saved):
    folder, arrays = saved
    ours = network(num_classes=4)
    initial = get_arrays(ours)
    _, line, classes = adopt(ours, folder / "whole", "abcd")
    heads = {name for name in initial if name.endswith(("fc.kernel", "fc.bias"))}
    assert len(heads) == 6
    after = get_arrays(ours)
    assert changed(initial | {n: a for n, a in arrays.items() if n not in heads}, after) == set()
    assert all(name in line for name in [*heads, "64x4", "64x10"])
    assert "classes" in classes


@pytest.mark.parametrize("branches", OTHERS.values(), ids=OTHERS)
def test_other_branches_keep_initial_values_and_a_line_says_so(branches, saved):
    folder, arrays = saved
    ours = network(branches=branches)
    initial = get_arrays(ours)
    lines = adopt(ours, folder / "whole")
    assert changed(initial | backbone_only(arrays), get_arrays(ours)) == set()
    assert any("branches" in line for line in lines)


def test_branches_that_the_weights_lack_keep_initial_values(saved):
    folder, arrays = saved
    ours = network()
    initial = get_arrays(ours)
    lines = adopt(ours, folder / "backbone")
    assert changed(initial | backbone_only(arrays), get_arrays(ours)) == set()
    assert any("branches" in line for line in lines)


def test_branches_that_the_network_lacks_are_left_out(saved):
    folder, arrays = saved
    ours = network(branches=())
    lines = adopt(ours, folder / "whole")
    assert any("branches" in line for line in lines)
    assert changed(get_arrays(ours), backbone_only(arrays)) == set()


@pytest.mark.parametrize("model", [{"width": 2}, {"depth": 22}])
def test_another_network_is_refused_and_nothing_is_taken(saved, model):
    ours = network(branches=(), **model)
    before = get_arrays(ours)
    with pytest.raises(InputError, match=r"`init_weights`.*stages"):
        adopt(ours, saved[0] / "backbone")
    assert changed(before, get_arrays(ours)) == set()


def heads(arrays):
    return {name: value for name, value in arrays.items() if name.endswith(("fc.kernel", "fc.bias"))}


def told_apart(arrays):
    """Arrays of which every row of a head differs."""
    return arrays | {n: a + np.arange(10, dtype=np.float32) for n, a in heads(arrays).items()}


def test_rows_of_all_heads_go_by_the_names_of_their_classes(saved):
    ours, arrays = network(), told_apart(saved[1])
    lines = adopt_weights(ours, Weights(arrays, {}, metadata()), saved[0], "jihgfedcba")
    assert any("names" in line for line in lines)
    after = get_arrays(ours)
    assert changed(arrays, after) == set(heads(arrays))
    assert len(heads(arrays)) == 6
    for name, value in heads(after).items():
        np.testing.assert_array_equal(value, arrays[name][..., ::-1])


def test_heads_of_as_many_other_classes_keep_initial_values(saved):
    folder, arrays = saved
    ours = network()
    initial = get_arrays(ours)
    lines = adopt(ours, folder / "whole", "klmnopqrst")
    assert any("classes" in line for line in lines)
    assert changed(arrays | heads(initial), get_arrays(ours)) == set()


def test_as_many_unknown_classes_are_taken_by_place_and_a_line_says_so(saved):
    folder, arrays = saved
    ours = network()
    lines = adopt(ours, folder / "whole", [str(label) for label in range(10)])
    assert any("place" in line for line in lines)
    assert changed(arrays, get_arrays(ours)) == set()


def test_the_momentum_of_the_heads_goes_with_their_rows(saved):
    folder, arrays = saved
    weights = load_weights(folder / "whole")
    momentum = told_apart({name: arrays[name] for name in get_params(network())})
    weights = weights._replace(momentum=momentum, metadata=weights.metadata.replace(epoch=3))
    taken, epoch = adopt_progress(network(), weights, folder, "jihgfedcba")
    assert (changed(momentum, taken), epoch) == (set(heads(arrays)), 3)
    for name, value in heads(taken).items():
        np.testing.assert_array_equal(value, momentum[name][..., ::-1])
    with pytest.raises(InputError, match="`init_optimizer`"):
        adopt_progress(network(), weights, folder, "klmnopqrst")


@pytest.mark.usefixtures("tiny_model")
def test_a_run_starts_from_the_weights_of_another(tmp_path, capsys):
    (tmp_path / "first").mkdir()
    save_tiny(tmp_path / "first" / "weights")
    flags = ["--config.epochs=1", "--config.method=baseline", "--config.optimizer.learning_rate=1e-12"]
    flags += [f"--config.init_weights={tmp_path / 'first'}"]
    assert run(tmp_path / "second", *flags) == 0
    assert str(tmp_path / "first" / "weights") in capsys.readouterr().out
    # With a learning rate of nothing the parameters stay; the running statistics move on.
    before = load_weights(tmp_path / "first").params
    after = load_weights(tmp_path / "second").params
    for name, value in after.items():
        np.testing.assert_allclose(value, before[name], atol=1e-6)
    # Gone on from a checkpoint, the weights are not looked at again.
    (tmp_path / "first" / "weights" / METADATA).unlink()
    assert run(tmp_path / "second", *flags) == 0
    assert len(records(tmp_path / "second")) == 2


def test_a_run_that_has_not_ended_is_refused_and_its_best_weights_are_named(copy, tmp_path):
    shutil.move(copy, tmp_path / "run" / "best_weights")
    with pytest.raises(InputError, match=str(tmp_path / "run" / "best_weights")):
        load_weights(tmp_path / "run")
