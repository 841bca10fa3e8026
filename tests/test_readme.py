"""The README: its examples run."""

import re
from pathlib import Path

import pytest

from dks_jax import train

ROOT = Path(__file__).parent.parent
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.splitlines()[0])
def test_examples_run(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if "weights" in example:
        arguments = [f"--config={ROOT / 'configs/digits_wrn.py'}", "--config.epochs=1"]
        assert train.main([*arguments, "--config.data.train_per_class=10"]) == 0
        capsys.readouterr()
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out
