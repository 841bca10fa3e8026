"""Files that are damaged as files, or that would run code where they were trusted; see `mutants`."""

import builtins
import io
import json
import os
import pickle
import struct
import warnings
from collections import OrderedDict
from itertools import count

import numpy as np
import safetensors.torch
import torch

from support import torch_reference as reference
from support.mutants import (
    ACCEPTED,
    BASE,
    EITHER,
    REFUSED,
    SENTINEL,
    Mutant,
    accepted,
    changed,
    plain_values,
    refused,
    released,
    saved,
)


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
    yield Mutant("a plain pickle", pickle.dumps({"conv0": 1}), REFUSED)
    script = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), script)
    yield Mutant("TorchScript", script.getvalue(), REFUSED)
    for value in ([torch.ones(2)], torch.ones(2), 5, None, "text", {}, {"params": {}}):
        yield refused(f"holds a {type(value).__name__}", value)


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
    for size in (0, 2**31, 2**64 - 1):
        yield built(f"header of {size}", header, size)
    yield built("not JSON", b"hello")
    first, second = (n for n in list(header)[1:3])
    spread = {**header, first: {**header[first], "data_offsets": header[second]["data_offsets"]}}
    yield built("overlapping", spread)
    for offsets in ([8, 0], [0, 2**62]):
        yield built("wrong offsets", {**header, first: {**header[first], "data_offsets": offsets}})
    for change in ({"dtype": "I64"}, {"shape": [2**40, 2**40]}):
        yield built(f"{change}", {**header, first: {**header[first], **change}})
    yield Mutant("a .pth inside", saved(BASE), REFUSED, None, ".safetensors")
    yield Mutant("inside a .pth", data, REFUSED)
    while True:
        yield Mutant("truncated", data[: random.integers(len(data))], REFUSED, None, ".safetensors")
