"""The public API: what a folder's `__init__.py` gives is described whole, and each folder has a page."""

import ast
import inspect
import re
import textwrap
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

import dks_jax
from support.runs import ROOT

PACKAGE = Path(dks_jax.__file__).parent
FACES = ["dks_jax", *sorted(f"dks_jax.{file.parent.name}" for file in PACKAGE.glob("*/__init__.py"))]
# Folders inside of others, which do not give their names for them.
FACES += ["dks_jax.inference.exits", "dks_jax.inference.exporting"]

# What `dks_jax` gives besides: its folders, and the commands.
COMMANDS = {path.stem for path in PACKAGE.glob("[a-z]*") if path.suffix == ".py" or path.is_dir()}


def public(face):
    """The functions and classes that a face gives, by name, and their public methods and properties."""
    module = import_module(face)
    for name in module.__all__:
        found = getattr(module, name)
        if inspect.isfunction(found) or inspect.isclass(found):
            yield f"{face}.{name}", found
        for own, member in vars(found).items() if inspect.isclass(found) else ():
            function = getattr(member, "__func__", getattr(member, "fget", member))
            if not own.startswith("_") and inspect.isfunction(function):
                yield f"{face}.{name}.{own}", function


CASES = {name: found for face in FACES for name, found in public(face)}


def parameters(found):
    """The names of the arguments of a function, or of the constructor of a class."""
    if not inspect.isclass(found):
        called = found
    elif "__init__" in vars(found):
        called = found.__init__
    else:
        # The fields of a named tuple or a data class; an exception has none.
        called = None if issubclass(found, Exception) else found
    return set(inspect.signature(called).parameters) - {"self", "cls", "args", "kwargs"} if called else set()


def described(found):
    """The docstring, unless it is the one that Python makes of the fields of a class."""
    text = found.__doc__ or ""
    return "" if text.startswith(f"{found.__name__}(") else text


def raises_input_error(found):
    tree = ast.parse(textwrap.dedent(inspect.getsource(found)))
    return any(isinstance(node, ast.Raise) and "InputError(" in ast.unparse(node) for node in ast.walk(tree))


@pytest.mark.parametrize("name", CASES)
def test_a_public_name_says_what_it_takes_and_when_it_fails(name):
    found = CASES[name]
    text = described(found)
    assert text
    assert {own for own in parameters(found) if not re.search(rf"\b{own}\b", text)} == set()
    if inspect.isfunction(found) and raises_input_error(found):
        assert "InputError" in text or "Error:" in text


@pytest.mark.parametrize("face", FACES)
def test_every_folder_has_a_page(face):
    page = ROOT / "docs" / "api" / f"{face.removeprefix('dks_jax.')}.md"
    assert re.findall(r"^::: (.*)$", page.read_text(), re.MULTILINE) == [face]
    assert page.name in (ROOT / "docs" / "api" / "index.md").read_text()


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *(ROOT / "docs").glob("*.md")], ids=lambda page: page.stem
)
def test_examples_import_public_names(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dks_jax"):
                given = import_module(node.module).__all__ if node.module in FACES else []
                names = {alias.name for alias in node.names}
                assert names <= {*given, *(COMMANDS if node.module == "dks_jax" else ())}


def test_no_module_takes_what_is_private_to_another():
    taken = [
        (str(path), alias.name)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dks_jax")
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert taken == []


def test_a_function_that_only_its_module_uses_is_private():
    texts = [path for folder in ("dks_jax", "tools", "tests", "docs") for path in (ROOT / folder).rglob("*")]
    words = {
        path: set(re.findall(r"\w+", path.read_text())) for path in texts if path.suffix in (".py", ".md")
    }
    used = Counter(word for own in words.values() for word in own)
    for path in PACKAGE.glob("*/**/*.py"):
        functions = [
            node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)
        ]
        assert [name for name in functions if used[name] == 1 and not name.startswith("_")] == [], path
