"""Sweeps as tools/sweep.py does, with a network that is quick to compile."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import sweep  # noqa: E402
from sweeps import processes  # noqa: E402

from dks_jax import models  # noqa: E402
from support import tiny_network  # noqa: E402

PROGRAM = (str(ROOT / "tests" / "support" / "tiny_train.py"),)

if __name__ == "__main__":
    models.NETWORKS["wide_resnet"] = tiny_network.FAMILY
    processes.PROGRAM = PROGRAM
    sys.exit(sweep.main())
