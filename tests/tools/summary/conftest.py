"""Finished runs for the summary."""

import json

import pytest


@pytest.fixture
def make_run(unbroken, tmp_path):
    """Makes finished runs, described as the real one but for some fields, with errors of our own."""

    def make(
        name, method="dks", seed=0, test=(30.0, 20.0), *, train=None, branches=None, logged=(), **changes
    ):
        """`changes` are of config fields, with __ for the dot, or of "data".

        logged: what held-out records have beside the errors.
        """
        folder = tmp_path / name
        (folder / "weights").mkdir(parents=True)
        description = json.loads((unbroken / "config.json").read_text())
        description["data"] |= changes.pop("data", {})
        for field, value in ({"method": method, "seed": seed, "epochs": len(test)} | changes).items():
            *parents, last = field.split("__")
            group = description["config"]
            for parent in parents:
                group = group[parent]
            group[last] = value
        (folder / "config.json").write_text(json.dumps(description))
        with (folder / "metrics.jsonl").open("w") as file:
            for epoch, errors in enumerate(zip(train or test, test, strict=True), 1):
                for split, error in zip(("train", "test"), errors, strict=True):
                    named = {f"error/{n}": value for n, value in {"main": error, **(branches or {})}.items()}
                    step = {"step": 22 * epoch, "epoch": epoch, "split": split, "loss": 0.5, "error": error}
                    named |= dict(logged) if split == "test" else {}
                    file.write(json.dumps(step | named) + "\n")
        return folder

    return make
