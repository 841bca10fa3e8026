"""ResNet-18 on ImageNet by the recipe and the commands of configs/imagenet_resnet50.py.

Reported single-crop errors, top-1 / top-5, % (README of github.com/sundw2014/DKS): baseline 31.06 / 11.13,
DKS 28.68 / 9.55; deep supervision 30.46 top-1 (second-hand). README of github.com/d-li14/DHM: deep
supervision 29.73, DHM 28.71 top-1. This config has not been run to its end here.
"""

from ml_collections import ConfigDict


def get_config(method: str = "dks") -> ConfigDict:
    data = {"source": "tfds", "name": "imagenet2012", "streamed": True, "random_resized_crop": True}
    data |= {"preprocessing": "dks", "batch_size": 256, "drop_last": True}
    optimizer = {"schedule": "step", "weight_decay": 1e-4, "drop_epochs": (31, 61, 91), "drop_factor": 0.1}
    return ConfigDict({"method": method, "model": {"name": "resnet18"}, "data": data, "optimizer": optimizer})
