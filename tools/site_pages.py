"""The hook of mkdocs.yml: pages from outside of docs/, and links that lead to the same place as on GitHub."""

import ast
import html
import json
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# They stand at the top of the repository, and of the site.
TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
CONFIGS = """# Configs

Each is found by its name, `python -m dks_jax.train --config NAME[:METHOD]`, from a checkout and from an
installed wheel. The texts are those of the files in `configs/`. Errors that are called reported are published
ones, and their source stands with them; what a run costs is said where it has been measured.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of the top of the repository, one that lists the configs, and the notebook."""
    pages = {name: (ROOT / name).read_text() for name in TOP}
    pages |= {"configs.md": configs_page(), "tour.md": notebook_page(ROOT / "docs" / "tour.ipynb")}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites the links of a page, which are those of the repository."""
    del config, files
    uri = page.file.src_uri
    folder = posixpath.dirname(uri if uri in TOP else f"docs/{uri}")

    def on_the_site(link: re.Match[str]) -> str:
        target = in_site(posixpath.normpath(posixpath.join(folder, link[1])))
        return f"]({posixpath.relpath(target, posixpath.dirname(uri) or '.')}{link[2] or ''})"

    return re.sub(r"\]\(([^():#]+)(#[^()]*)?\)", on_the_site, markdown)


def in_site(path: str) -> str:
    """The page of the site, maybe with an anchor, for a file of the repository."""
    path = re.sub(r"^configs/(\w+)\.py$", r"configs.md#\1", path)
    return path.removeprefix("docs/").replace(".ipynb", ".md")


def configs_page() -> str:
    """A section for each config: its name, and what its file says about it."""
    docs = {file.stem: ast.get_docstring(ast.parse(file.read_text())) for file in ROOT.glob("configs/*.py")}
    return CONFIGS + "".join(
        f"\n## {name}\n\n{html.escape(text or '', quote=False)}\n" for name, text in sorted(docs.items())
    )


def notebook_page(file: Path) -> str:
    """The cells of a notebook and their outputs, as Markdown."""
    parts = []
    for cell in json.loads(file.read_text())["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", ()):
            if "text" in output:
                parts.append(f"```text\n{''.join(output['text'])}\n```")
            else:
                parts.append(f"![What the cell draws](data:image/png;base64,{output['data']['image/png']})")
    return "\n\n".join(parts)
