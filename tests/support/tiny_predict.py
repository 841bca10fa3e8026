"""`python tiny_predict.py LIMIT ...` is `python -m dks_jax.predict ...` with a tiny network.

It keeps every program, in files of at most LIMIT bytes (0: of any size), and prints how many it found kept.
"""

import resource
import sys

import jax

from dks_jax import models, predict
from dks_jax.runtime import compilation
from support import tiny_network

if __name__ == "__main__":
    limit = int(sys.argv[1])
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    compilation.MIN_SECONDS = 0
    models.NETWORKS["wide_resnet"] = tiny_network.FAMILY
    events = []
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
    status = predict.main(sys.argv[2:])
    print(events.count("/jax/compilation_cache/cache_hits"))
    sys.exit(status)
