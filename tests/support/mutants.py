"""Checkpoints of a wide ResNet whose contents are damaged, by kind of damage.

Each kind is a generator of mutants, endless or not, from a NumPy generator. A mutant says whether it must be
refused, which arrays it must give, or neither: a random byte may or may not matter.
"""

import io
import warnings
from collections import OrderedDict
from itertools import count
from typing import NamedTuple

import numpy as np
import torch

from support import torch_reference as reference
from support.real_torchvision import torchvision

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


def names_wrong(random):
    yield refused(
        "half with module.", {(f"module.{n}" if i % 2 else n): t for i, (n, t) in enumerate(BASE.items())}
    )
    odd = [0, -(10**500), None, (1, 2), b"conv0", 1.5, True, torch.ones(1)]
    odd += ["x" * 10**6, "a\nb", "\x1b[31mred\x1b[0m", "\u202egnirts", "\ud800", ""]
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
    for prefix in ("module.", "module.module.", "_orig_mod.", "model.net."):
        yield accepted(prefix, {f"{prefix}{n}": t for n, t in BASE.items()})
    yield accepted("another order", dict(reversed(BASE.items())))
    both = network_tensors(branches=True)
    yield accepted("branches", both, both)
    twins = ("group0.block0.conv0", "group0.block1.conv0")
    tensors = {**BASE, twins[0]: BASE[twins[1]], twins[1]: BASE[twins[0]]}
    yield accepted("alike tensors swapped", tensors, tensors)
    for container in ("state_dict", "model", "params", "net", "anything"):
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
    for name in ("resnext101_64x4d", "vgg11"):
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
            "a fraction": torch.tensor(5.5),
            "infinite": torch.tensor(torch.inf),
            "negative": torch.tensor(-1),
            "a list": torch.tensor([5, 5]),
            "bool": torch.tensor(True),
        }.items():
            yield refused(f"{name} {what}", whole | {name: value})
