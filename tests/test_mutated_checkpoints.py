"""Checkpoint files damaged in hundreds of ways: each is refused in one line, or rightly taken over.

A mutant says by its making whether it must be refused, what arrays it must give, or neither: a random byte
may or may not matter. Nothing that a file refers to is ever run, and no folder is left half-written.
"""

import builtins
import io
import json
import os
import pickle
import resource
import shutil
import struct
import time
import warnings
from collections import Counter, OrderedDict
from contextlib import contextmanager, nullcontext, suppress
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import convert_pytorch
import numpy as np
import pytest
import safetensors.torch
import torch

import torch_reference as reference
from dks_jax.errors import InputError
from dks_jax.tables import markdown_table
from dks_jax.weights import load_network, load_weights
from real_torchvision import torchvision

REFUSED, ACCEPTED, EITHER = "refused", "accepted", "either"
SENTINEL = "sentinel"
NUM_CLASSES = 10


class Mutant(NamedTuple):
    """expected: REFUSED, ACCEPTED or EITHER; values: what an accepted one holds, by released name."""

    what: str
    data: bytes | None
    expected: str
    values: dict | None = None
    suffix: str = ".pth"


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def network_tensors(num_classes=NUM_CLASSES, channels=3, branches=False):
    """A WRN-16-1 of random values in the released order."""
    torch.manual_seed(0)
    network = reference.WideResNet(16, 1, num_classes)
    network.conv0 = torch.nn.Parameter(torch.empty(16, channels, 3, 3))
    state = network.state_dict()
    names = [n for n in reference.released_order(state) if branches or not n.startswith("ep")]
    return {n: torch.rand(state[n].shape) for n in names}


BASE = network_tensors()
TRAINABLE = [name for name in BASE if "running" not in name]


def sgd_state():
    state = {i: {"momentum_buffer": torch.rand(BASE[name].shape)} for i, name in enumerate(TRAINABLE)}
    settings = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "weight_decay": 5e-4, "nesterov": False}
    return {"state": state, "param_groups": [{**settings, "params": list(range(len(TRAINABLE)))}]}


def released(tensors=BASE, **more):
    return {"params": tensors, "epoch": 59, "optimizer": sgd_state(), **more}


def plain_values(tensors):
    return {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}


def refused(what, content, **options):
    return Mutant(what, saved(content, **options), REFUSED)


def accepted(what, content, tensors=BASE, **options):
    return Mutant(what, saved(content, **options), ACCEPTED, plain_values(tensors))


def changed(name, tensor):
    return {**BASE, name: tensor}


def some(random, names=None):
    return str(random.choice(list(names or BASE)))


# The kinds of mutants: each goes on for ever, or ends.


def truncated(random):
    for legacy in count():
        data = saved(released(), _use_new_zipfile_serialization=legacy % 2 == 0)
        # A whole line of zeros more or less at the end of a zip may be padding.
        yield Mutant("truncated", data[: random.integers(0, len(data) - 64)], REFUSED)


def random_bytes_changed(random):
    data = saved(released())
    # Where the names and not the numbers are, half of the time.
    start = data.index(b"data.pkl")
    for i in count():
        damaged = bytearray(data)
        for _ in range(random.integers(1, 4)):
            place = start + random.integers(9000) if i % 2 else random.integers(len(data))
            damaged[place] ^= random.integers(1, 256)
        yield Mutant("bytes changed", bytes(damaged), EITHER)


def no_checkpoints(_):
    yield Mutant("empty", b"", REFUSED)
    yield Mutant("a folder", None, REFUSED)
    for suffix in (".pth", ".safetensors"):
        yield Mutant("zero bytes", bytes(5000), REFUSED, None, suffix)
        yield Mutant("noise", np.random.default_rng(0).bytes(5000), REFUSED, None, suffix)
        yield Mutant("text", b"Not Found: no such release\n" * 9, REFUSED, None, suffix)
    yield Mutant("JSON", json.dumps({"conv0": [1.0]}).encode(), REFUSED)
    yield Mutant("a plain pickle", pickle.dumps({"conv0": 1}), REFUSED)
    arrays = io.BytesIO()
    np.savez(arrays, conv0=np.zeros(3))
    yield Mutant("NumPy's npz", arrays.getvalue(), REFUSED)
    script = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), script)
    yield Mutant("TorchScript", script.getvalue(), REFUSED)
    for value in ([torch.ones(2)], torch.ones(2), 5, None, "text", {}, {"params": {}}):
        yield refused(f"holds a {type(value).__name__}", value)


def names_wrong(random):
    yield refused(
        "half with module.", {(f"module.{n}" if i % 2 else n): t for i, (n, t) in enumerate(BASE.items())}
    )
    yield refused("module. twice", {f"module.module.{n}": t for n, t in BASE.items()})
    odd = [0, -(10**500), None, (1, 2), b"conv0", 1.5, True, torch.ones(1)]
    odd += ["x" * 10**6, "a\nb", "\x1b[31mred\x1b[0m", "\x00", "é¤漢", "\u202egnirts", "\ud800", "", "."]
    odd += [f"group{i}.block0.conv0" for i in (3, 99)] + ["group0.block٣.conv0", "group0.block-1.conv0"]
    yield from (refused(f"the name {str(type(n))[:20]} more", {**BASE, n: torch.ones(2)}) for n in odd)
    yield refused("300 odd names", {**BASE, **{"\n" * 100 + str(i): torch.ones(2) for i in range(300)}})
    for _ in count():
        name, other = some(random), some(random)
        left = {n: t for n, t in BASE.items() if n != name}
        yield refused(f"{name} absent", left)
        yield refused(f"{name} renamed", {**left, f"{name}_": BASE[name]})
        if BASE[name].shape != BASE[other].shape:
            yield refused(f"{name} and {other} swapped", {**BASE, name: BASE[other], other: BASE[name]})


def names_right(_):
    yield accepted("module.", {f"module.{n}": t for n, t in BASE.items()})
    yield accepted("another order", dict(reversed(BASE.items())))
    both = network_tensors(branches=True)
    yield accepted("branches", both, both)
    twins = ("group0.block0.conv0", "group0.block1.conv0")
    tensors = {**BASE, twins[0]: BASE[twins[1]], twins[1]: BASE[twins[0]]}
    yield accepted("alike tensors swapped", tensors, tensors)
    for container in ("state_dict", "model", "params"):
        yield accepted(f"under {container}", {container: BASE, "arch": "wrn", "best": np.float64(1)})
    yield accepted("two containers", {"state_dict": BASE, "params": {"x": torch.ones(1)}})
    yield accepted("an OrderedDict", OrderedDict(BASE))
    yield accepted("legacy format", released(), _use_new_zipfile_serialization=False)
    for number in (1, 2, 1000):
        other = network_tensors(number)
        yield accepted(f"{number} classes", other, other)
    for number in (1, 5):
        other = network_tensors(channels=number)
        yield accepted(f"{number} channels", other, other)


def misshapen(random):
    for _ in count():
        name = some(random)
        tensor = BASE[name]
        yield refused(f"{name} is longer", changed(name, torch.cat([tensor, tensor])))
        yield refused(f"{name} is empty", changed(name, tensor[:0]))
        yield refused(f"{name} is a number", changed(name, torch.tensor(1.0)))
        yield refused(f"{name} is flat", changed(name, tensor[None]))
        yield refused(f"{name} has 60 axes", changed(name, tensor.reshape(-1)[:1].reshape([1] * 60)))
        yield refused(f"{name} is repeated", changed(name, torch.zeros(()).expand(tensor.shape)))
        yield refused(f"{name} is enormous", changed(name, torch.zeros(1).expand(2**40)))
        kernel = some(random, [n for n in BASE if BASE[n].ndim > 1 and BASE[n].shape[0] != BASE[n].shape[1]])
        yield refused(f"{kernel} is transposed", changed(kernel, BASE[kernel].transpose(0, 1).contiguous()))


def types_right(random):
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        tensors = {n: t.to(dtype) for n, t in BASE.items()}
        yield accepted(f"{dtype}", tensors, tensors)
    yield accepted("parameters", {n: torch.nn.Parameter(t) for n, t in BASE.items()})
    yield accepted("with gradients", {n: t.clone().requires_grad_() for n, t in BASE.items()})
    padded = {n: torch.cat([t, t], dim=-1)[..., : t.shape[-1]] for n, t in BASE.items()}
    yield accepted("parts of others", padded)
    yield accepted("not contiguous", {n: t.T.contiguous().T if t.ndim == 2 else t for n, t in BASE.items()})
    shared = torch.rand(200_000)
    tensors = {n: shared[: t.numel()].view(t.shape) for n, t in BASE.items()}
    yield accepted("one storage", tensors, tensors)
    negative = {n: torch._neg_view(-t) for n, t in BASE.items()}
    yield accepted("negated lazily", negative)


def types_wrong(random):
    dtypes = [torch.int64, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn]
    for i in count():
        name = some(random)
        tensor = BASE[name]
        yield refused(f"{name} of {dtypes[i % 6]}", changed(name, tensor.to(dtypes[i % 6])))
        yield refused(f"{name} sparse", changed(name, tensor.to_sparse()))
        yield refused(f"{name} on meta", changed(name, tensor.to("meta")))
        # torch warns of it once in a process.
        with warnings.catch_warnings(action="ignore"):
            quantized = torch.quantize_per_tensor(tensor, 0.1, 0, torch.quint8)
        yield refused(f"{name} quantized", changed(name, quantized))
        for other in (3.0, "text", None, [1.0], {"a": tensor}, np.float64(1)):
            yield refused(f"{name} is a {type(other).__name__}", changed(name, other))


def values_wrong(random):
    for i in count():
        name = some(random)
        tensor = BASE[name].clone()
        tensor.view(-1)[random.integers(tensor.numel())] = (torch.nan, torch.inf, -torch.inf)[i % 3]
        yield refused(f"{name} is not finite", changed(name, tensor))
        variance = some(random, [n for n in BASE if n.endswith("running_var")])
        yield refused(f"{variance} is negative", changed(variance, -BASE[variance]))
        huge = BASE[name].double() * 1e300
        yield refused(f"{name} overflows", changed(name, huge))


def epochs(_):
    for epoch in (
        "59",
        59.0,
        -1,
        True,
        10**12,
        10**500,
        -(10**500),
        torch.tensor(59),
        [59],
        None,
        float("nan"),
    ):
        yield refused(f"epoch of type {type(epoch).__name__}", released(epoch=epoch))
    for epoch in (0, 59, np.int64(59)):
        yield accepted(f"epoch {epoch}", released(epoch=epoch))


def optimizers_wrong(random):
    def damaged(what, change):
        optimizer = sgd_state()
        change(optimizer)
        return refused(what, released(optimizer=optimizer))

    for odd in (
        None,
        5,
        "text",
        [],
        {},
        {"state": {}},
        {"param_groups": []},
        torch.ones(3),
        {"state": 1, "param_groups": [3]},
    ):
        yield refused(f"the optimizer is {type(odd).__name__}", released(optimizer=odd))
    parameters = [torch.nn.Parameter(BASE[name].clone()) for name in TRAINABLE]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    adam = torch.optim.Adam(parameters)
    adam.step()
    yield refused("Adam", released(optimizer=adam.state_dict()))
    without = torch.optim.SGD(parameters, 0.1, momentum=0.0)
    without.step()
    yield refused(
        "SGD without momentum that has state", released(optimizer={**without.state_dict(), "state": {0: {}}})
    )
    yield damaged("two groups", lambda o: o["param_groups"].append(o["param_groups"][0]))
    yield damaged("no ids", lambda o: o["param_groups"][0].pop("params"))
    yield damaged("fewer ids", lambda o: o["param_groups"][0]["params"].pop())
    yield damaged("ids of no type", lambda o: o["param_groups"][0].update(params=[[]] * len(TRAINABLE)))
    yield damaged("ids as one number", lambda o: o["param_groups"][0].update(params=3))
    for _ in count():
        place = int(random.integers(len(TRAINABLE)))
        entry = lambda o, place=place: o["state"][place]  # noqa: E731
        buffer = sgd_state()["state"][place]["momentum_buffer"]
        yield damaged("no state of one", lambda o, place=place: o["state"].pop(place))
        for what, value in {
            "absent": None,
            "flat": buffer[None],
            "not finite": buffer * torch.nan,
            "whole": buffer.long(),
            "sparse": buffer.to_sparse(),
            "repeated": torch.zeros(()).expand(buffer.shape),
            "a number": 3.0,
        }.items():
            yield damaged(
                f"momentum {place} {what}", lambda o, e=entry, v=value: e(o).update(momentum_buffer=v)
            )


def optimizers_right(random):
    yield accepted("no optimizer", {"params": BASE, "epoch": 3})
    yield accepted("before the first step", released(optimizer={**sgd_state(), "state": {}}))
    optimizer = sgd_state()
    # What PyTorch 0.4 wrote: addresses.
    ids = [int(i) for i in random.integers(10**14, 2 * 10**14, len(TRAINABLE))]
    optimizer["state"] = {new: optimizer["state"][i] for i, new in enumerate(ids)}
    optimizer["param_groups"][0]["params"] = ids
    yield accepted("ids as of PyTorch 0.4", released(optimizer=optimizer))
    optimizer = sgd_state()
    odd = {
        "lr": torch.tensor(0.1),
        5: 3,
        "huge": 10**500,
        "nan": float("nan"),
        "\ud800": 1,
        b"x": 2,
        (1,): 1,
    }
    optimizer["param_groups"][0].update(odd)
    yield accepted("odd settings", released(optimizer=optimizer))


def resnet(depth=18, **shapes):
    """Its names and shapes without values: what is wrong with them is told first."""
    with torch.device("meta"):
        network = torchvision.models.get_model(
            f"resnet{depth}" if isinstance(depth, int) else depth, num_classes=10
        )
    return {n: torch.zeros(()).expand(t.shape) for n, t in network.state_dict().items()} | shapes


def other_architectures(random):
    for name in ("wide_resnet50_2", "resnext50_32x4d", "vgg11", "densenet121", "mobilenet_v2", "alexnet"):
        yield refused(name, resnet(name))
    yield refused(
        "ResNet of one block less", {n: t for n, t in resnet().items() if not n.startswith("layer3.1")}
    )
    yield refused("ResNet without fc", {n: t for n, t in resnet().items() if not n.startswith("fc")})
    yield refused("depth 10", {n: t for n, t in BASE.items() if ".block1." not in n})
    more = {f"group0.block{i}.conv0": torch.ones(1) for i in range(2000)}
    yield refused("2000 blocks", {**BASE, **more})
    yield refused("width 0", changed("group0.block0.conv0", torch.ones(3, 16, 3, 3)))
    yield refused("no class", {**BASE, "fc.weight": torch.ones(0, 64), "fc.bias": torch.ones(0)})
    yield refused("no channel", changed("conv0", torch.ones(16, 0, 3, 3)))
    for size in (2**31, 2**40, 2**62):
        yield refused(f"{size} classes", {**BASE, "fc.weight": torch.ones(size, 0), "fc.bias": torch.ones(0)})
        yield refused(f"width {size}", changed("group0.block0.conv0", torch.ones(size, 0, 3, 3)))
        yield refused(f"{size} channels", changed("conv0", torch.ones(0, size, 1, 1)))
    yield refused("nested", {"net": BASE})
    yield refused("nested twice", {"params": {"params": BASE}})
    yield refused("a container that is no dictionary", {"state_dict": [1], "conv0": 3})


def counters_wrong(random):
    # Otherwise whole, in few bytes.
    shared = torch.ones(2_400_000, dtype=torch.float16)
    whole = {n: shared[: t.numel()].view(t.shape) for n, t in resnet().items()}
    counters = [name for name in whole if name.endswith("num_batches_tracked")]
    whole |= {name: torch.tensor(5) for name in counters}
    for _ in count():
        name = some(random, counters)
        for what, value in {
            "float": torch.tensor(5.0),
            "negative": torch.tensor(-1),
            "list": torch.tensor([5]),
            "bool": torch.tensor(True),
        }.items():
            yield refused(f"{name} {what}", whole | {name: value})


class Reduced:
    """Pickled, a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Shadowed:
    """Pickled, a dictionary with attributes in the place of its methods."""

    def __reduce__(self):
        return OrderedDict, (), {"items": 5, "get": 5, "keys": 5}, None, iter(BASE.items())


def payloads():
    code = f"__import__('os').mkdir({SENTINEL!r})"
    yield Reduced(os.system, f"mkdir {SENTINEL}")
    yield Reduced(os.mkdir, SENTINEL)
    yield Reduced(builtins.eval, code)
    yield Reduced(builtins.exec, code)


def malicious(_):
    for legacy in (False, True):
        for payload in payloads():
            options = {"_use_new_zipfile_serialization": not legacy}
            name = payload.call[0].__name__
            yield refused(f"{name} alone", payload, **options)
            yield refused(f"{name} among tensors", changed("conv0", payload), **options)
            yield refused(f"{name} deep", released(optimizer={"state": {0: [(payload,)]}}), **options)
            yield refused(f"{name} beside", released(more=payload), **options)
    yield refused("torch.load", {"a": Reduced(torch.load, "other.pth")})
    yield refused("getattr", {"a": Reduced(getattr, "text", "upper")})
    yield refused("a module", reference.WideResNet(16, 1, 10))
    yield refused("a module in a dictionary", {"model": torch.nn.Linear(2, 2)})
    yield accepted("methods shadowed", Shadowed())
    cyclic = {"x": torch.ones(1)}
    cyclic["params"] = cyclic
    yield refused("within itself", cyclic)
    deep = {}
    for _ in range(300):
        deep = {"x": deep}
    yield refused("300 levels", deep)
    wide = {}
    for _ in range(40):
        wide = dict.fromkeys(range(40), wide)
    yield accepted("the same dictionary 40 ** 40 times", {"params": BASE, "more": wide})


def safetensors_files(random):
    data = safetensors.torch.save(BASE)
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]

    def built(what, header, length=None, expected=REFUSED, values=None):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        size = len(text) if length is None else length
        return Mutant(what, struct.pack("<Q", size) + text + body, expected, values, ".safetensors")

    values = plain_values(BASE)
    yield Mutant("whole", data, ACCEPTED, values, ".safetensors")
    halves = {n: t.bfloat16() for n, t in BASE.items()}
    yield Mutant("bfloat16", safetensors.torch.save(halves), ACCEPTED, plain_values(halves), ".safetensors")
    with_metadata = {"__metadata__": {"format": "pt", "note": "\n" * 99}, **header}
    yield built("metadata", with_metadata, None, ACCEPTED, values)
    for size in (0, 1, 2**20, 2**31, 2**63, 2**64 - 1):
        yield built(f"header of {size}", header, size)
    yield built("not JSON", b"hello")
    yield built("a list", [])
    yield built("nothing", {})
    first, second = (n for n in list(header)[1:3])
    spread = {**header, first: {**header[first], "data_offsets": header[second]["data_offsets"]}}
    yield built("overlapping", spread)
    for offsets in ([-8, 0], [8, 0], [0, 2**62], [0], "x"):
        yield built("wrong offsets", {**header, first: {**header[first], "data_offsets": offsets}})
    for change in ({"dtype": "F4"}, {"dtype": "I64"}, {"shape": [2**40, 2**40]}, {"shape": [-1]}):
        yield built(f"{change}", {**header, first: {**header[first], **change}})
    yield Mutant("a .pth inside", saved(BASE), REFUSED, None, ".safetensors")
    yield Mutant("inside a .pth", data, REFUSED)
    while True:
        yield Mutant("truncated", data[: random.integers(len(data))], REFUSED, None, ".safetensors")


KINDS = [
    *(truncated, random_bytes_changed, no_checkpoints, names_wrong, names_right, misshapen, types_right),
    *(types_wrong, values_wrong, epochs, optimizers_wrong, optimizers_right, other_architectures),
    *(counters_wrong, malicious, safetensors_files),
]


def assert_one_readable_line(message):
    assert message.startswith("error: ")
    assert message.endswith(".\n")
    assert message[:-1].isprintable(), message
    assert len(message) < 1500, message


def meets_expectation(mutant, capfd, told=None):
    """Puts a mutant through the converter in the current folder; returns whether it was accepted."""
    file, out = Path(f"mutant{mutant.suffix}"), Path("out")
    file.unlink(missing_ok=True)
    out.mkdir(exist_ok=True)
    if mutant.data is None:
        file = out.parent.resolve()
    else:
        file.write_bytes(mutant.data)
    capfd.readouterr()
    start = time.monotonic()
    status = convert_pytorch.main(["import", f"--torch={file}", f"--weights={out / 'weights'}"])
    error = capfd.readouterr().err
    assert time.monotonic() - start < 20
    assert not Path(SENTINEL).exists()
    if status:
        assert status == 2
        assert mutant.expected != ACCEPTED, error
        assert_one_readable_line(error)
        assert list(out.iterdir()) == []
        if told is not None:
            told.append(error.replace(str(file), "FILE").strip())
        return False
    assert mutant.expected != REFUSED
    assert error == ""
    values = mutant.values
    if values is None:
        content = torch.load(file, weights_only=True)
        values = plain_values(content.get("params", content))
    weights = load_weights(out / "weights")
    ours = reference.to_released(
        {n: np.asarray(a) for n, a in (weights.params | weights.batch_stats).items()}
    )
    assert set(ours) == set(values)
    for name, value in values.items():
        np.testing.assert_array_equal(ours[name], value)
    shutil.rmtree(out / "weights")
    return True


def draw(kind, number):
    return islice(kind(np.random.default_rng(KINDS.index(kind))), number)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder of a test: where a mutant's code would leave its sentinel."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_few_mutants_of_every_kind(kind, folder, capfd):
    for mutant in draw(kind, 40 if kind is malicious else 5):
        with telling(mutant):
            meets_expectation(mutant, capfd)


@pytest.mark.slow
def test_five_hundred_mutants(folder, capfd):
    table, told = [], []
    with address_space(24 << 30):
        for kind in KINDS:
            outcomes = Counter()
            for mutant in draw(kind, 45):
                with telling(mutant):
                    outcomes[meets_expectation(mutant, capfd, told)] += 1
            table.append(
                [kind.__name__, *(str(n) for n in (outcomes.total(), outcomes[False], outcomes[True]))]
            )
    assert sum(int(row[1]) for row in table) >= 500
    with capfd.disabled():
        print(
            "",
            *sorted(set(told)),
            markdown_table([["kind", "mutants", "refused", "accepted"], *table]),
            sep="\n",
        )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_loading_straight_from_a_mutant_is_refused_alike(kind, folder):
    mutant = next(m for m in draw(kind, 40) if m.data is not None)
    file = folder / f"mutant{mutant.suffix}"
    file.write_bytes(mutant.data)
    if mutant.expected == REFUSED:
        with pytest.raises(InputError, match="mutant"):
            load_network(file)
    else:
        with suppress(InputError) if mutant.expected == EITHER else nullcontext():
            load_network(file)
    assert not Path(SENTINEL).exists()


def test_the_malicious_payloads_do_run_where_pytorch_trusts_them(folder):
    for payload in payloads():
        torch.load(io.BytesIO(saved(payload)), weights_only=False)
        assert Path(SENTINEL).exists()
        Path(SENTINEL).rmdir()


@contextmanager
def telling(mutant):
    """Says which mutant it was."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"the mutant: {mutant.what}, {mutant.expected}")
        raise


@contextmanager
def address_space(limit):
    """So that a mutant that asks for all memory fails here and not the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
