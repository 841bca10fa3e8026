"""DenseNet-40-12 on CIFAR-100 with the branches of DKS (CVPR 2019, arXiv:1906.00675), by a sibling's recipe.

    python -m dks_jax.train --config configs/cifar100_densenet40.py
    python -m dks_jax.train --config configs/cifar100_densenet40.py:baseline

Reported top-1 error, %: baseline 24.42 by its authors, with the same augmentation (README of
github.com/liuzhuang13/DenseNet); of deep supervision and of DKS no figure was found. This config has not been
run to its end here.

Methods: dks, ds, baseline, top_down, bottom_up. No source at hand states a recipe for this network with
branches. This is the one of its sibling, configs/cifar100_densenet_bc100.py, by the code released with DHM
(CVPR 2020, arXiv:2003.10739, github.com/d-li14/DHM), whose branches and initialisation it has too.
"""

from ml_collections import ConfigDict


def get_config(method: str = "dks") -> ConfigDict:
    data = {"source": "cifar", "name": "cifar100", "root": "data", "image_size": 32, "batch_size": 64}
    data |= {"padding": 4, "pad_mode": "zero"}
    data |= {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
    # A drop takes effect at the start of its epoch, counted from 1.
    optimizer = {"schedule": "step", "drop_epochs": (151, 226), "drop_factor": 0.1, "weight_decay": 1e-4}
    model = {"name": "densenet", "depth": 40, "growth_rate": 12}
    return ConfigDict({"method": method, "epochs": 300, "model": model, "data": data, "optimizer": optimizer})
