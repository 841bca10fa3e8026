"""ResNet-34 on ImageNet by the recipe and the commands of configs/imagenet_resnet50.py.

Neither the release of DKS nor that of DHM reports an error for this network. This config has not been run to
its end here.
"""

from ml_collections import ConfigDict


def get_config(method: str = "dks") -> ConfigDict:
    data = {"source": "tfds", "name": "imagenet2012", "streamed": True, "random_resized_crop": True}
    data |= {"preprocessing": "dks", "batch_size": 256, "drop_last": True}
    optimizer = {"schedule": "step", "weight_decay": 1e-4, "drop_epochs": (31, 61, 91), "drop_factor": 0.1}
    return ConfigDict({"method": method, "model": {"name": "resnet34"}, "data": data, "optimizer": optimizer})
