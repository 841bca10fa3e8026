"""Checkpoints as the tools write them that people train with: read, or refused naming what differs."""

import argparse
import collections
import datetime
import pathlib

import convert_pytorch
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dks_jax import InputError, models
from dks_jax.weights import adopt_weights, load_network, load_weights, read_checkpoint
from support.mutants import network_tensors
from support.real_torchvision import torchvision

CLASSES = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=len(CLASSES))


@pytest.fixture(scope="module")
def tensors(network):
    return network.state_dict()


@pytest.fixture
def written(tmp_path):
    """Writes a checkpoint; returns its path."""

    def write(content, **options):
        file = tmp_path / "checkpoint.pth"
        torch.save(content, file, **options)
        return file

    return write


def prefixed(prefix, tensors):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def first_kernel(weights):
    return np.asarray(weights.params["stem.conv1.kernel"]).transpose(3, 2, 0, 1)


def assert_taken(file, tensors, *said):
    """The file is read with the numbers of a network, and its remarks contain what must be said."""
    weights = read_checkpoint(file)
    np.testing.assert_array_equal(first_kernel(weights), tensors["conv1.weight"].numpy())
    assert weights.metadata.model == {"name": "resnet18"}
    assert len(weights.metadata.class_names) == len(CLASSES)
    assert all(any(part in remark for remark in weights.remarks) for part in said), weights.remarks
    return weights


def halved(tensors):
    """Other weights of the same network."""
    return {name: tensor / 2 if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def averaged(network, tensors):
    """As torch's AveragedModel keeps it, but of other weights than the network's own."""
    kept = torch.optim.swa_utils.AveragedModel(network, use_buffers=True).state_dict()
    return {"n_averaged": kept["n_averaged"], **prefixed("module.", halved(tensors))}


def adam(network):
    return torch.optim.Adam(network.parameters()).state_dict()


def lightning(network, tensors):
    return {
        "epoch": 3,
        "global_step": 400,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": prefixed("model.", tensors),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [adam(network)],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1, "root": pathlib.PosixPath("data")},
    }


def timm(network, tensors):
    return {
        "epoch": 3,
        "arch": "resnet18",
        "state_dict": tensors,
        "optimizer": adam(network),
        "version": 2,
        "args": argparse.Namespace(lr=0.1, data_dir=pathlib.PureWindowsPath("C:\\data")),
        "amp_scaler": {"scale": 65536.0, "growth_factor": 2.0},
        "state_dict_ema": halved(tensors),
        "metric": np.float64(71.5),
    }


def references(network, tensors):
    return {
        "model": tensors,
        "optimizer": adam(network),
        "lr_scheduler": {"last_epoch": 3, "_last_lr": [0.1]},
        "epoch": 3,
        "args": argparse.Namespace(model="resnet18", mean=(0.5,)),
        "scaler": None,
        "model_ema": averaged(network, tensors),
    }


def tutorial(network, tensors):
    return {
        "epoch": 3,
        "model_state_dict": tensors,
        "optimizer_state_dict": adam(network),
        "loss": torch.tensor(0.5),
        "class_names": list(CLASSES),
    }


LAYOUTS = {
    "the PyTorch tutorial": (tutorial, ["`model_state_dict`", "`class_names`"]),
    "Lightning": (lightning, ["`state_dict`", "`model.`"]),
    "timm": (timm, ["`state_dict_ema` are left out"]),
    "torchvision's references": (references, ["`model`", "`model_ema` are left out"]),
    "pytorch-cifar": (
        lambda _, tensors: {"net": prefixed("module.", tensors), "acc": 90.5, "epoch": 3},
        ["`net`", "`module.`"],
    ),
    "DDP": (lambda _, tensors: prefixed("module.", tensors), ["`module.`"]),
    "twice wrapped": (lambda _, tensors: prefixed("module._orig_mod.", tensors), ["`module._orig_mod.`"]),
    "an encoder": (lambda _, tensors: {"state_dict": prefixed("encoder.", tensors)}, ["`encoder.`"]),
}


@pytest.mark.parametrize(("layout", "said"), LAYOUTS.values(), ids=LAYOUTS)
def test_the_network_of_a_training_checkpoint_is_found(layout, said, network, tensors, written):
    assert_taken(written(layout(network, tensors)), tensors, *said)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_network_is_found(network, tensors, written):
    state = torch.compile(network).state_dict()
    assert all(name.startswith("_orig_mod.") for name in state)
    assert_taken(written(state), tensors, "`_orig_mod.`")


def test_an_averaged_network_is_found(network, tensors, written):
    file = written(torch.optim.swa_utils.AveragedModel(network).state_dict())
    assert_taken(file, tensors, "`module.`")


@pytest.mark.parametrize("entry", ["state_dict_ema", "model_ema"])
def test_averages_alone_are_taken_and_called_so(entry, network, tensors, written):
    file = written({entry: averaged(network, tensors)})
    assert_taken(file, halved(tensors), "averages")


def test_the_safetensors_of_a_trainer_have_a_prefix(tensors, tmp_path):
    save_file(prefixed("resnet.", tensors), tmp_path / "model.safetensors")
    assert_taken(tmp_path / "model.safetensors", tensors, "`resnet.`")


def test_things_beside_the_network_are_passed_over(tensors, written):
    class_of_the_script = collections.UserDict(lr=0.1)
    beside = {
        "config": class_of_the_script,
        "history": collections.defaultdict(list, {"loss": [0.5]}),
        "last": collections.deque([1, 2], maxlen=5),
        "started": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        "day": datetime.date(2026, 1, 1),
        "root": pathlib.PosixPath("data"),
        "rng": np.random.default_rng(0).bytes(4),
        "best": np.float32(0.5),
        "curve": np.arange(3),
        "dtype": torch.float16,
    }
    assert_taken(written({"state_dict": tensors, **beside}), tensors)
    old = {name: beside[name] for name in ("history", "last", "started", "day", "root", "best", "curve")}
    assert_taken(written({"model": tensors, **old}, _use_new_zipfile_serialization=False), tensors)


@pytest.mark.parametrize("module", [b"pathlib", b"pathlib._local"])
def test_a_path_is_passed_over_in_the_names_of_every_python(tensors, written, module: bytes):
    file = written(
        {"model": tensors, "root": pathlib.PosixPath("data")}, _use_new_zipfile_serialization=False
    )
    own = b"c" + pathlib.PosixPath.__module__.encode() + b"\n"
    data = file.read_bytes()
    assert data.count(own) == 1
    file.write_bytes(data.replace(own, b"c" + module + b"\n"))
    assert_taken(file, tensors)


def test_several_networks_are_refused_by_name_and_one_is_chosen(tensors, written, tmp_path, capsys):
    file = written({"student": tensors, "teacher": halved(tensors), "epoch": 3})
    with pytest.raises(InputError, match=r"`student` and `teacher`.*--entry"):
        read_checkpoint(file)
    with pytest.raises(InputError, match=r"student, teacher"):
        read_checkpoint(file, entry="epoch")
    weights = read_checkpoint(file, entry="teacher")
    np.testing.assert_array_equal(first_kernel(weights), tensors["conv1.weight"].numpy() / 2)
    command = ["import", f"--torch={file}", f"--weights={tmp_path / 'weights'}", "--entry=student"]
    assert convert_pytorch.main(command) == 0
    assert "`student`" in capsys.readouterr().out
    loaded = load_weights(tmp_path / "weights")
    np.testing.assert_array_equal(first_kernel(loaded), tensors["conv1.weight"].numpy())


def test_the_averages_can_be_chosen(network, tensors, written):
    weights = read_checkpoint(written(timm(network, tensors)), entry="state_dict_ema")
    np.testing.assert_array_equal(first_kernel(weights), tensors["conv1.weight"].numpy() / 2)


@pytest.mark.parametrize("change", [torch.Tensor.float, lambda count: count[None], lambda c: c.float()[None]])
def test_batch_counters_may_be_floats_or_lists_of_one(change, tensors, written):
    content = {name: change(t + 7) if "batches" in name else t for name, t in tensors.items()}
    weights = assert_taken(written(content), tensors)
    assert set(weights.metadata.num_batches_tracked.values()) == {7}


def test_what_a_similar_network_has_instead_is_named(tensors, written):
    body = {name: tensor for name, tensor in tensors.items() if not name.startswith("fc")}
    head = {"fc.1.weight": tensors["fc.weight"], "fc.1.bias": tensors["fc.bias"]}
    with pytest.raises(InputError, match=r"with 3 classes.*fc\.weight.*missing.*fc\.1\.weight.*unexpected"):
        read_checkpoint(written(body | head))
    with pytest.raises(InputError, match=r"fc\.weight.*missing.*linear\.weight.*unexpected"):
        read_checkpoint(written(body | {"linear.weight": tensors["fc.weight"]}))
    deep = {"conv1.0.weight": torch.ones(32, 3, 3, 3), "conv1.1.weight": torch.ones(32)}
    deep |= {name: tensor for name, tensor in tensors.items() if name != "conv1.weight"}
    with pytest.raises(InputError, match=r"resnet18.*conv1\.weight is missing.*conv1\.0\.weight.*unexpected"):
        read_checkpoint(written(prefixed("model.", deep)))


def test_a_whole_pickled_model_is_refused_and_its_state_dict_asked_for(network, written):
    for content in (network, {"model": network, "epoch": 3}):
        with pytest.raises(InputError, match=r"model\.state_dict\(\)"):
            read_checkpoint(written(content))


def headless(name, tensors):
    if name == "resnet18":
        return {n: tensor for n, tensor in tensors.items() if not n.startswith("fc")}
    return {n: tensor for n, tensor in network_tensors().items() if not n.startswith("fc")}


@pytest.mark.parametrize("name", ["resnet18", "wide_resnet"])
def test_a_backbone_without_head_is_fine_tuned_and_nothing_else(name, tensors, written, tmp_path, capsys):
    file = written(headless(name, tensors))
    weights = load_weights(file)
    assert weights.metadata.class_names == ()
    ours = models.build(weights.metadata.model, num_classes=2, channels=3, seed=0)
    lines = adopt_weights(ours, weights, file, ("x", "y"))
    assert any("head" in line and "none" in line for line in lines)
    for own, array in weights.params.items():
        np.testing.assert_array_equal(array, models.get_arrays(ours)[own])
    with pytest.raises(InputError, match="init_weights"):
        load_network(file)
    command = ["import", f"--torch={file}", f"--weights={tmp_path / 'weights'}"]
    assert convert_pytorch.main(command) == 2
    assert "init_weights" in capsys.readouterr().err
    assert not (tmp_path / "weights").exists()


@pytest.fixture(scope="module")
def small():
    """A wide ResNet of three classes, of which a file is small."""
    return network_tensors(num_classes=3)


NAMED = {
    "a list": {"class_names": list(CLASSES)},
    "classes": {"classes": CLASSES},
    "an array": {"classes": np.array(CLASSES)},
    "ImageFolder": {"class_to_idx": {"cat": 2, "ant": 0, "bee": 1}},
    "the way back": {"idx_to_class": {2: "cat", 0: "ant", 1: "bee"}},
    "through JSON": {"idx_to_class": {"2": "cat", "0": "ant", "1": "bee"}},
    "a dictionary": {"class_names": {0: "ant", 1: "bee", 2: "cat"}},
    "the second": {"classes": 3, "class_to_idx": {"ant": 0, "bee": 1, "cat": 2}},
}


@pytest.mark.parametrize("beside", NAMED.values(), ids=NAMED)
def test_class_names_beside_the_network_are_used(beside, small, written):
    assert read_checkpoint(written({"state_dict": small, **beside})).metadata.class_names == CLASSES


def test_numbered_folders_keep_their_labels(small, written):
    content = {"state_dict": small, "class_to_idx": {"0": 0, "1": 1, "10": 2}}
    assert read_checkpoint(written(content)).metadata.class_names == ("0", "1", "10")


PASSED_OVER = {
    "too few": {"class_names": ["ant", "bee"]},
    "twins": {"class_names": ["ant", "ant", "bee"]},
    "a number": {"classes": 3},
    "labels with a gap": {"class_to_idx": {"ant": 0, "bee": 1, "cat": 3}},
    "lists": {"idx_to_class": {0: ["ant"], 1: ["bee"], 2: ["cat"]}},
    "a control character": {"classes": ["ant", "bee", "c\x1bt"]},
    "huge labels": {"idx_to_class": {"9" * 5000: "ant", "1": "bee", "2": "cat"}},
    "tensors": {"classes": torch.arange(3)},
}


@pytest.mark.parametrize("beside", PASSED_OVER.values(), ids=PASSED_OVER)
def test_other_class_names_are_passed_over_and_a_remark_says_so(beside, small, written):
    weights = read_checkpoint(written({"state_dict": small, **beside}))
    assert weights.metadata.class_names == ("0", "1", "2")
    assert any(f"`{name}`" in remark for name in beside for remark in weights.remarks)


@pytest.mark.parametrize("kind", [list, tuple, np.float32, torch.tensor])
def test_mean_and_deviation_beside_the_network_are_used(kind, small, written):
    content = {"state_dict": small, "mean": kind([0.4, 0.5, 0.6]), "std": kind([0.1, 0.2, 0.3])}
    metadata = read_checkpoint(written(content)).metadata
    assert (metadata.preprocessing.mean, metadata.preprocessing.std) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([123.7, 116.3, 103.5], [58.4, 57.1, 57.4]),
        ([0.5] * 3, [0.5, 0.5, 0.0]),
        ([0.5], [0.5]),
        ([0.5] * 3, None),
        ([float("nan")] * 3, [0.5] * 3),
        ([10**400] * 3, [0.5] * 3),
    ],
)
def test_other_statistics_are_passed_over_and_a_remark_says_so(mean, std, small, written):
    weights = read_checkpoint(written({"state_dict": small, "mean": mean, "std": std}))
    assert weights.metadata.preprocessing == models.get_family("wide_resnet").torch[0].preprocessing
    assert any("`mean`" in remark for remark in weights.remarks)
