"""The structure of the package: imports only go down, and importing it is light."""

import ast
import subprocess
import sys
from pathlib import Path

import dks_jax

PACKAGE = Path(dks_jax.__file__).parent

# Packages that take long to import. flax itself imports some of them; they are allowed where it does.
LATE = (
    "torch",
    "tensorflow",
    "tensorflow_datasets",
    "sklearn",
    "scipy",
    "matplotlib",
    "pooch",
    "tensorboardX",
)

# From the command line down to the errors. A module may import what stands below it.
ORDER = [
    "train",
    "evaluate",
    "predict",
    "evaluation_report",
    "evaluation",
    "command_line",
    "loop",
    "experiment",
    "workdir",
    "steps",
    "checkpoint",
    "data",
    "data.resident",
    "data.streamed",
    "data.preparation",
    "data.augment",
    "data.feed",
    "data.cifar",
    "data.plain_pickle",
    "data.tfds_source",
    "data.folder",
    "data.decoding",
    "data.views",
    "data.digits",
    "data.images",
    "compilation",
    "hosts",
    "signals",
    "weights",
    "torch_weights",
    "torch_files",
    "torch_names",
    "weights_folder",
    "imagenet_classes",
    "models",
    "models.resnet",
    "models.wide_resnet",
    "layers",
    "batch_norm",
    "convolution",
    "macs",
    "winograd",
    "functional",
    "supervision",
    "synergy",
    "optim",
    "curves",
    "logs",
    "events",
    "metrics",
    "evaluation_metrics",
    "configuration",
    "tables",
    "files",
    "errors",
]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dks_jax":
            module = node.module.partition(".")[2]
            names = {f"{module}.{alias.name}".lstrip(".") for alias in node.names}
            found |= {name if name in ORDER else module for name in names}
    return found


def test_imports_only_go_down():
    files = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    assert sorted(name for name in files if name) == sorted(ORDER)
    for name, path in files.items():
        for imported in imports(path) if name else ():
            assert ORDER.index(name) < ORDER.index(imported), f"{name} imports {imported}"


def imported(code: str, packages: tuple[str, ...]) -> list[str]:
    """Which packages `code` imports beside those that jax, flax and optax import themselves."""
    program = (
        f"import sys, jax, optax; from flax import nnx; before = set(sys.modules); {code}; "
        f"print(sorted(set({packages}) & (set(sys.modules) - before)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return ast.literal_eval(result.stdout)


def test_importing_the_package_needs_jax_flax_and_optax_alone():
    assert imported("import dks_jax", (*LATE, "ml_collections", "PIL", "orbax.checkpoint", "tqdm")) == []


def test_command_lines_start_without_what_few_runs_need(tmp_path):
    code = (
        "from pathlib import Path; from dks_jax import evaluate, predict, train; "
        f"from dks_jax.logs import MetricsLog; MetricsLog(Path({str(tmp_path)!r}), 0, 1)"
    )
    assert imported(code, LATE) == []
