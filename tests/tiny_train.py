"""`python tests/tiny_train.py` is `python -m dks_jax.train` with a network that is quick to compile."""

import sys

from dks_jax import hosts, models, train
from tiny_network import build_tiny

if __name__ == "__main__":
    models.MODELS["wide_resnet"] = models.MODELS["wide_resnet"]._replace(build=build_tiny)
    status = train.main()
    hosts.leave(status)
    sys.exit(status)
