"""Cell B1 of docs/evidence.md: collects the finished runs of configs/cifar10_noise.py in a file of records.

    python tools/evidence_cifar10.py RUN... --output docs/evidence/cifar10_noise.csv

RUN is a workdir that was trained, and then evaluated on all test images into its evaluation.json:

    python -m dks_jax.evaluate --weights RUN --config.data.test_per_class=0 --output RUN/evaluation.json

Each line of the file is a finished run: arm, seed, epochs, and of the main classifier after the last epoch
the error in %, NLL and ECE on all test images. Workdirs without an evaluation.json are unfinished and left
out. `python tools/evidence_table.py` prints the table.
"""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from dks_jax import command_line
from dks_jax.runtime.errors import InputError
from dks_jax.runtime.files import atomic_write, require_writable

HEADER = ("arm", "seed", "last", "nll", "ece", "epochs")
TEST_IMAGES = 10_000
# The epochs of every arm but the one that has the compute of a run of DKS.
EPOCHS = 60


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, 2 where the input is wrong, 130 after Ctrl-C."""
    parser = command_line.Parser("python tools/evidence_cifar10.py", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="workdirs")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.csv", help="the file of records")

    def action() -> None:
        arguments = parser.parse_args(argv)
        require_writable(arguments.output, "--output")
        finished = [run for run in arguments.runs if (run / "evaluation.json").is_file()]
        rows = sorted(map(record, finished), key=lambda row: row[1::-1])
        with atomic_write(arguments.output) as partial, partial.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([HEADER, *rows])

    return command_line.run(action)


def record(run: Path) -> tuple[str | int | float, ...]:
    """The line of a finished run.

    Raises:
      InputError: the evaluation is not on all test images.
    """
    config = json.loads((run / "config.json").read_text())["config"]
    result = json.loads((run / "evaluation.json").read_text())
    if result["num_examples"] != TEST_IMAGES:
        raise InputError(
            f"`RUN` must be evaluated on all {TEST_IMAGES:,} test images; {run} is on "
            f"{result['num_examples']:,}: give --config.data.test_per_class=0."
        )
    arm, epochs = config["method"], config["epochs"]
    if epochs != EPOCHS:
        arm = f"{arm}, {epochs} epochs"
    if config["loss"]["label_smoothing"]:
        arm = "label smoothing"
    own = result["classifiers"]["main"]
    measured = (round(own["top1_error"], 4), round(own["nll"], 4), round(own["ece"], 4))
    return arm, config["seed"], *measured, epochs


if __name__ == "__main__":
    sys.exit(main())
