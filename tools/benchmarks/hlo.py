"""What a compiled program does in one pass through its loop, read from XLA's text of it."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import NamedTuple

LAYOUT = {"transpose", "copy", "reshape", "bitcast", "convert", "parameter"}
# They take no time of their own; what is done elsewhere is counted where it starts.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional"}
# From an operand of these no more is read than they give.
SLICES = {"slice", "dynamic-slice", "gather"}
COMMUNICATION = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")


class Instruction(NamedTuple):
    """A line of a computation; the shape of its result is as XLA writes it.

    calls, target: the computation that a fusion or a loop runs, and the function of a library; "" for others.
    cycles: how long it takes by the estimate of a TPU's compiler, which makes none for gathers, communication
      and copies; 0 without an estimate.
    """

    name: str
    shape: str
    opcode: str
    operands: list[str]
    calls: str
    target: str
    cycles: int


class Traffic(NamedTuple):
    """How many operations there are of a kind, the bytes they read and write, and their estimated cycles."""

    operations: int
    bytes: int
    cycles: int = 0


Program = Mapping[str, list[Instruction]]


def parse(text: str) -> Program:
    """The computations of a program by name."""
    program: dict[str, list[Instruction]] = {}
    for line in text.splitlines():
        header = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        found = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*?)\)(?:, |$)", line)
        if header:
            program[header[1]] = []
        elif found and program:
            name, shape, opcode, operands = found.groups()
            names = [word.split()[-1].lstrip("%") for word in operands.split(",") if word.strip()]
            inner = (re.search(r"(?:calls|body)=%?([\w.\-]+)", line), re.search(r'_target="([^"]*)"', line))
            calls, target = (match[1] if match else "" for match in inner)
            estimate = re.search(r'"estimated_cycles":"(\d+)"', line)
            cycles = int(estimate[1]) if estimate else 0
            own = Instruction(name, shape, opcode, names, calls, target, cycles)
            next(reversed(program.values())).append(own)
    return program


def step_of(program: Program) -> dict[str, Traffic]:
    """The traffic by kind in the computation that moves most: the body of a loop or the whole program."""
    by_kind: dict[str, Traffic] = {}
    for _, kind, own in operations_of(program):
        before = by_kind.get(kind, (0, 0, 0))
        by_kind[kind] = Traffic(*(a + b for a, b in zip(before, own, strict=True)))
    return by_kind


def operations_of(program: Program) -> list[tuple[str, str, Traffic]]:
    """Name, kind and traffic of each operation of this computation."""
    called = {i.calls for instructions in program.values() for i in instructions if i.opcode == "fusion"}
    bodies = [_operations(program, body) for name, body in program.items() if name not in called]
    return max(bodies, key=lambda body: sum(traffic.bytes for *_, traffic in body))


def _operations(program: Program, body: Iterable[Instruction]) -> list[tuple[str, str, Traffic]]:
    shapes = {instruction.name: instruction.shape for instruction in body}
    return [
        (i.name, _kind(i, program), Traffic(1, _moved(i, shapes, program), i.cycles))
        for i in body
        if i.opcode not in FREE and not i.opcode.endswith("-done")
    ]


def _kind(instruction: Instruction, program: Program) -> str:
    inner = {i.opcode for i in program.get(instruction.calls, [])} or {instruction.opcode}
    called = f"{instruction.target} {instruction.name}".lower()
    if instruction.opcode.startswith(COMMUNICATION):
        return "communication"
    if "conv" in instruction.target.lower() or "convolution" in inner:
        return "convolutions"
    if inner & {"gather", "scatter", "select-and-scatter"}:
        return "gathers and scatters"
    if inner & {"dot", "custom-call"} and ("gemm" in called or "matmul" in called or "dot" in inner):
        return "matrix products"
    if inner <= LAYOUT and inner & {"transpose", "copy"}:
        return "transpositions and copies"
    return "sums" if inner & {"reduce", "reduce-window"} else "other loops"


def _moved(instruction: Instruction, shapes: Mapping[str, str], program: Program) -> int:
    """Bytes of the result and of the operands, or of their parts that are needed."""
    inner = program.get(instruction.calls, [])
    # The operand of a parameter is its number, and XLA writes them in any order.
    parameters = {i.operands[0]: i.name for i in inner if i.opcode == "parameter"}
    total = size_of(instruction.shape)
    for number, operand in enumerate(instruction.operands):
        whole = size_of(shapes.get(operand, ""))
        users = list(_users(parameters[str(number)], inner)) if inner else [instruction]
        sliced = sum(size_of(user.shape) for user in users)
        total += min(whole, sliced) if {user.opcode for user in users} <= SLICES else whole
    return total


def _users(name: str, body: Sequence[Instruction]) -> Iterator[Instruction]:
    """The instructions that use a value, be it seen in another shape."""
    for instruction in body:
        if name in instruction.operands:
            yield from _users(instruction.name, body) if instruction.opcode == "bitcast" else [instruction]


def size_of(shape: str) -> int:
    """Bytes of an array, or of all arrays of a tuple, e.g. of "(f32[2,3]{1,0}, u8[4])": 28."""
    total = 0
    for kind, sizes in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape):
        # A number without bits in the name of its type, pred, takes one byte.
        width = max(1, int(re.sub(r"\D", "", kind) or 0) // 8)
        total += width * prod(int(n) for n in sizes.split(",") if n)
    return total
