"""ResNet-50 on ImageNet (ILSVRC 2012) with the branches of DKS (CVPR 2019, arXiv:1906.00675).

    python -m dks_jax.train --config configs/imagenet_resnet50.py[:ds or :baseline] --config.data.root=DIR
    python -m dks_jax.evaluate --config configs/imagenet_resnet50.py --weights PATH --config.data.root=DIR

DIR is the data_dir of tfds, where tools/prepare_dataset.py has put imagenet2012; empty for its default. With
--config.data.source=folder it is a folder of DIR/train/<class>/ and DIR/val/<class>/.

Reported single-crop errors, top-1 / top-5, % (README of github.com/sundw2014/DKS): baseline 25.47 / 7.58,
DKS 23.53 / 6.40. Deep supervision 25.09 top-1 (second-hand). README of DHM, deep supervision -> DHM:
23.87 -> 23.43 top-1. These are the published figures; this config has not been run to its end here.

Recipe: the release of DKS cannot train on ImageNet, and states no learning rate, batch size, weight decay or
crop. These are of DHM, by the same branches (CVPR 2020, arXiv:2003.10739, github.com/d-li14/DHM): batch 256,
learning rate 0.1, momentum 0.9, weight decay 1e-4 on every trainable tensor, random-resized crop and flip,
Kaiming fan-out initialisation. Length and drops are read off the training curves of DKS, 500,000 iterations
with drops at 150,000, 300,000 and 450,000: 100 epochs, x 0.1 after 30, 60 and 90. Its synergy loss is the one
of CIFAR. `dks` is the preprocessing of the released evaluation; torchvision's is `standard`.

The last, partial batch of an epoch is left out, so that any number of devices that divides 256 can train.
Methods: dks, ds, baseline, top_down, bottom_up.
"""

from ml_collections import ConfigDict


def get_config(method: str = "dks") -> ConfigDict:
    data = {"source": "tfds", "name": "imagenet2012", "streamed": True, "random_resized_crop": True}
    data |= {"preprocessing": "dks", "batch_size": 256, "drop_last": True}
    optimizer = {"schedule": "step", "weight_decay": 1e-4, "drop_epochs": (31, 61, 91), "drop_factor": 0.1}
    return ConfigDict({"method": method, "model": {"name": "resnet50"}, "data": data, "optimizer": optimizer})
