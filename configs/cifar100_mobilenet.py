"""MobileNet on CIFAR-100 with the branches of DCM (ECCV 2020, arXiv:2008.07816), by the recipe of its code.

    python -m dks_jax.train --config configs/cifar100_mobilenet.py
    python -m dks_jax.train --config configs/cifar100_mobilenet.py:baseline

Reported top-1 error, %, mean and deviation: baseline 26.30 +/- 0.35 (README of github.com/sundw2014/DCM); of
deep supervision and of DKS no figure was found. Trained beside a WRN-28-10 it has 23.91 with deep mutual
learning and 21.43 with DCM there; that code never puts it into evaluation mode, so that batches of test
images are normalised by their own statistics, and these two compare with nothing else. This config has not
been run to its end here.

Methods: dks, ds, baseline, top_down, bottom_up. The recipe is that of the code released with DCM, which is
that of the wide ResNet released with DKS, configs/cifar100_wrn.py, with its quirks.
"""

from ml_collections import ConfigDict


def get_config(method: str = "dks") -> ConfigDict:
    data = {"source": "cifar", "name": "cifar100", "root": "data", "image_size": 32, "padding": 4}
    data |= {"mean": (125.3 / 255, 123.0 / 255, 113.9 / 255), "std": (63.0 / 255, 62.1 / 255, 66.7 / 255)}
    optimizer = {"schedule": "step", "drop_epochs": (60, 120, 160), "drop_factor": 0.2}
    optimizer |= {"reset_momentum_at_drops": True}
    model = {"name": "mobilenet"}
    return ConfigDict({"method": method, "epochs": 200, "model": model, "data": data, "optimizer": optimizer})
