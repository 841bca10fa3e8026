"""Trains as `python -m dks_jax.train` does, with a network that is quick to compile."""

import sys

from dks_jax import models, train
from dks_jax.runtime import hosts
from support import tiny_network

if __name__ == "__main__":
    models.NETWORKS["wide_resnet"] = tiny_network.FAMILY
    status = train.main()
    hosts.leave(status)
    sys.exit(status)
