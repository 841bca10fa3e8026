"""ResNet-101 on ImageNet by the recipe and the commands of configs/imagenet_resnet50.py.

The release of DKS reports no error for this network. README of github.com/d-li14/DHM, top-1, %: deep
supervision 22.26, DHM 21.35. This config has not been run to its end here.
"""

from ml_collections import ConfigDict


def get_config(method: str = "dks") -> ConfigDict:
    data = {"source": "tfds", "name": "imagenet2012", "streamed": True, "random_resized_crop": True}
    data |= {"preprocessing": "dks", "batch_size": 256, "drop_last": True}
    optimizer = {"schedule": "step", "weight_decay": 1e-4, "drop_epochs": (31, 61, 91), "drop_factor": 0.1}
    return ConfigDict(
        {"method": method, "model": {"name": "resnet101"}, "data": data, "optimizer": optimizer}
    )
