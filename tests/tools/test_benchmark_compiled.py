"""What is read from compiled programs is what they do."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import benchmark
import jax
import jax.numpy as jnp
import pytest
from benchmarks import compiled, ours
from benchmarks.hlo import Traffic, operations_of, parse, size_of, step_of

from dks_jax.runtime.forms import FORMS

CONFIG = Path(__file__).parents[2] / "configs" / "cifar100_wrn.py"
# As XLA writes it: a loop with a fused sum, a fused slice, a change of layout, a library's convolution, a
# product, and messages that are begun and waited for.
PROGRAM = """\
HloModule jit_step, entry_computation_layout={(f32[4,8]{1,0})->f32[8]{0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%fused_sum (p: f32[4,8]) -> f32[8] {
  %p = f32[4,8]{1,0} parameter(0)
  %zero = f32[] constant(0)
  ROOT %r = f32[8]{0} reduce(%p, %zero), dimensions={0}, to_apply=%add
}

%fused_slice (q: s32[], p.1: u8[100,8]) -> bf16[1,8] {
  %p.1 = u8[100,8]{1,0} parameter(1)
  %q = s32[] parameter(0)
  %seen = u8[100,8]{1,0} bitcast(%p.1)
  %s = u8[1,8]{1,0} dynamic-slice(%seen, %q, %q), dynamic_slice_sizes={1,8}
  ROOT %v = bf16[1,8]{1,0} convert(%s)
}

%fused_layout (p.2: f32[4,8]) -> f32[8,4] {
  %p.2 = f32[4,8]{1,0} parameter(0)
  ROOT %t = f32[8,4]{1,0} transpose(%p.2), dimensions={1,0}
}

%body (state: (f32[4,8], u8[100,8], s32[])) -> (f32[4,8], u8[100,8], s32[]) {
  %state = (f32[4,8]{1,0}, u8[100,8]{1,0}, s32[]) parameter(0)
  %x = f32[4,8]{1,0} get-tuple-element(%state), index=0
  %data = u8[100,8]{1,0} get-tuple-element(%state), index=1
  %i = s32[] get-tuple-element(%state), index=2
  %sum = f32[8]{0} fusion(%x), kind=kInput, calls=%fused_sum
  %image = bf16[1,8]{1,0} fusion(%i, %data), kind=kLoop, calls=%fused_slice
  %turned = f32[8,4]{1,0} fusion(%x), kind=kLoop, calls=%fused_layout
  %conv = (f32[4,8]{1,0}, u8[16]{0}) custom-call(%x, %x), custom_call_target="__cudnn$convForward"
  %product = f32[8,8]{1,0} dot(%turned, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %start = f32[8]{0} all-reduce-start(%sum), replica_groups={{0,1}}, to_apply=%add
  %done = f32[8]{0} all-reduce-done(%start)
  ROOT %out = (f32[4,8]{1,0}, u8[100,8]{1,0}, s32[]) tuple(%x, %data, %i)
}

ENTRY %main (x.1: f32[4,8]) -> f32[4,8] {
  %x.1 = f32[4,8]{1,0} parameter(0)
  %loop = (f32[4,8]{1,0}, u8[100,8]{1,0}, s32[]) while(%x.1), condition=%add, body=%body
  ROOT %end = f32[4,8]{1,0} get-tuple-element(%loop), index=0
}
"""


def test_bytes_of_arrays_and_tuples():
    assert size_of("f32[]") == 4
    assert size_of("bf16[2,3]{1,0}") == 12
    assert size_of("(pred[5]{0}, s64[2]{0}, /*index=2*/u8[0]{0})") == 21


def test_operations_and_bytes_by_kind_are_those_of_the_loop():
    assert step_of(parse(PROGRAM)) == {
        "sums": Traffic(1, 4 * 32 + 4 * 8),
        # Of the 100 rows one is read.
        "other loops": Traffic(1, 4 + 8 + 2 * 8),
        "transpositions and copies": Traffic(1, 2 * 4 * 32),
        "convolutions": Traffic(1, 3 * 4 * 32 + 16),
        "matrix products": Traffic(1, 4 * (32 + 32 + 64)),
        "communication": Traffic(1, 2 * 4 * 8),
    }


def test_estimates_of_cycles_and_gathers_are_read():
    program = parse("""\
ENTRY %main (x: f32[100,8], i: s32[2]) -> f32[2,8] {
  %x = f32[100,8]{1,0:T(8,128)} parameter(0)
  %i = s32[2]{0} parameter(1)
  %y = f32[100,8]{1,0} add(%x, %x), backend_config={"window_config":{},"estimated_cycles":"1234"}
  ROOT %g = f32[2,8]{1,0} gather(%y, %i), offset_dims={1}
}
""")
    assert step_of(program) == {
        "other loops": Traffic(1, 3 * 4 * 800, 1234),
        "gathers and scatters": Traffic(1, 2 * 4 * 16 + 2 * 4, 0),
    }
    assert [name for name, *_ in operations_of(program)] == ["y", "g"]


def test_a_program_of_this_jax_is_read():
    def run(x, y):
        return jax.lax.fori_loop(0, 5, lambda _, x: jnp.tanh(x @ y), x)

    square = jnp.zeros((256, 256))
    text = jax.jit(run).lower(square, square).compile().as_text()
    step = step_of(parse(text))
    assert step["matrix products"] == Traffic(1, 3 * 4 * 256 * 256)


def test_the_step_of_a_config_is_compiled_and_not_run(capsys, tiny_model):
    sizes = ["--batch_size=8", "--image_size=8", "--classes=10"]
    assert benchmark.main(["compiled", f"--config={CONFIG}", *sizes]) == 0
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if "|" in line]
    convolutions = []
    for program in ("train", "evaluate", "predict"):
        start = rows.index([f"a step of {program}", "operations", "GB read and written", "million cycles"])
        end = next(i for i in range(start, len(rows)) if rows[i][0] == "all")
        counts = {kind: int(count) for kind, count, *_ in rows[start + 2 : end + 1]}
        assert counts.pop("all") == sum(counts.values())
        convolutions.append(counts["convolutions"])
    # Prediction needs no branches.
    assert convolutions[0] > convolutions[1] > convolutions[2] > 0
    assert "for 1 cpu" in printed
    assert printed.count("memory of a device: ") == 3


def test_a_form_takes_the_place_of_the_one_for_the_devices(tiny_model):
    setting = ours.load(str(CONFIG), {"batch_size": 8, "image_size": 8}, {})
    programs = {form: ours.lower(setting, jax.devices(), "predict", form) for form in (None, *FORMS)}
    # A CPU looks pixels up, and an accelerator computes them.
    gathers = {form: program.as_text().count("stablehlo.gather") for form, program in programs.items()}
    assert gathers[None] == gathers["cpu"] > gathers["accelerator"] == gathers["tpu"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([f"--config={CONFIG}", "--gpus=2"], ["`--gpus`", "jax[cuda12]", "(not for cuda)"]),
        ([f"--config={CONFIG}", "--tpus=v5e:2x2"], ["`--tpus`", "libtpu", "v5e:2x4", "(not for cuda)"]),
        ([f"--config={CONFIG}", "--tpus=v5e:2x2", "--gpus=1"], ["`--tpus`", "`--gpus`", "v5e:2x2"]),
        ([f"--config={CONFIG}", "--gpus=0"], ["--gpus", "1 or more", "0"]),
        ([f"--config={CONFIG}:typo"], ["`method`", "dks, ds, baseline", "'typo'"]),
    ],
)
def test_wrong_arguments_end_with_one_sentence(capsys, monkeypatch, arguments, named):
    def refuse(**_):
        raise NotImplementedError("not for cuda\nand more")

    monkeypatch.setattr(compiled.topologies, "get_topology_desc", refuse)
    assert benchmark.main(["compiled", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(text in error for text in named)


# In a process of its own, since JAX looks for TPUs when it starts.
COMPILE = """
import json, sys
from benchmarks import compiled, ours
from benchmarks.hlo import parse, step_of

setting = ours.load(sys.argv[1], {"depth": 16, "width": 1, "batch_size": 64}, {"precision": "bfloat16"})
devices = compiled.find_devices(gpus=None, tpus="v5e:1x1")
found = {}
for name in ("train", "predict"):
    text = ours.lower(setting, devices, name).compile().as_text()
    program = parse(text)
    operands = set()
    for instructions in program.values():
        shapes = {i.name: i.shape for i in instructions}
        convolved = [shapes[o] for i in instructions if i.opcode == "convolution" for o in i.operands]
        # Products of matrices are convolutions too.
        operands |= {shape.split("[")[0] for shape in convolved if shape.split("]")[0].count(",") == 3}
    step = {kind: own._asdict() for kind, own in step_of(program).items()}
    found[name] = {"step": step, "loops": text.count(" while("), "convolved": sorted(operands)}
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs libtpu: pip install libtpu")
def test_programs_for_a_tpu_gather_no_pixels_and_convolve_in_bfloat16():
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(map(str, [CONFIG.parents[1], Path(benchmark.__file__).parent])),
    }
    command = [sys.executable, "-c", COMPILE, str(CONFIG)]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    for name, program in json.loads(printed.splitlines()[-1]).items():
        assert sum(own["cycles"] for own in program["step"].values()) > 1e5, name
        # Entire images and their labels, and not one pixel after the other, whose indices take 4 bytes each.
        assert program["step"]["gathers and scatters"]["bytes"] < 3 * 64 * 32 * 32 * 3, name
        # The crop multiplies zeros and ones with bytes.
        assert "f32" not in program["convolved"], name
        assert "bf16" in program["convolved"], name
        # The loop over the steps of a call is the only one.
        assert program["loops"] == (name == "train"), name
