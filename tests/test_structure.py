"""The structure of the package: imports only go down, and importing it is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dks_jax

PACKAGE = Path(dks_jax.__file__).parent
# From the commands down: a module imports what stands below its line, and its own folder.
ORDER = """
    train evaluate predict early_exit export
    command_line training inference
    weights
    models data
    supervision
    synergy nn reporting config
    runtime
""".strip().splitlines()
LEVELS = {room: level for level, rooms in enumerate(ORDER) for room in rooms.split()}
# What others take away knows nothing of config files and data.
TAKEN_AWAY = ("synergy", "supervision", "nn")
# Packages that take long to import. flax itself imports some of them; they are allowed where it does.
LATE = [
    "torch",
    "tensorflow",
    "tensorflow_datasets",
    "sklearn",
    "scipy",
    "matplotlib",
    "pooch",
    "tensorboardX",
]
EARLY_ENOUGH = ["ml_collections", "PIL", "orbax.checkpoint", "tqdm"]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def rooms_imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "dks_jax":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dks_jax."):
            found.add(node.module.split(".")[1])
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_go_down(path: Path):
    if room(path) == "__init__":
        return
    for imported in rooms_imported(path) - {room(path)}:
        assert LEVELS[imported] > LEVELS[room(path)], f"{room(path)} imports {imported}"
        assert not (room(path) in TAKEN_AWAY and imported in ("config", "data"))


def imported(code: str, packages: list[str]) -> list[str]:
    """Which packages `code` imports beside those that jax, flax and optax import themselves."""
    program = (
        f"import sys, jax, optax; from flax import nnx; before = set(sys.modules); {code}; "
        f"print(sorted(set({packages}) & (set(sys.modules) - before)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return ast.literal_eval(result.stdout)


def test_importing_the_package_needs_jax_flax_and_optax_alone():
    everything = f"from dks_jax import {', '.join(dks_jax.__all__)}"
    assert imported(everything, LATE + EARLY_ENOUGH) == []


def test_the_names_of_the_package_are_found_when_they_are_used():
    code = "import sys, dks_jax; assert not {'jax', 'flax', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (
        {name for name in dks_jax.__all__ if hasattr(dks_jax, name)}
        == set(dks_jax.__all__)
        <= set(dir(dks_jax))
    )
    assert not hasattr(dks_jax, "no_such_name")


def test_command_lines_start_without_what_few_runs_need(tmp_path):
    code = (
        "from pathlib import Path; from dks_jax import evaluate, predict, train; "
        f"from dks_jax.reporting.metrics_log import MetricsLog; MetricsLog(Path({str(tmp_path)!r}), 0, 1)"
    )
    assert imported(code, LATE) == []
