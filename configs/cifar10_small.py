"""Wide ResNet 16-1 on part of CIFAR-10 as an image folder: a run on real photographs for two CPU cores.

    python -m dks_jax.train --config configs/cifar10_small.py --config.data.root=DIR
    python -m dks_jax.train --config configs/cifar10_small.py:baseline --config.data.root=DIR

DIR holds train/<class>/<image> and test/<class>/<image> of 32x32 pixels. The first 1,000 training and 200
held-out images of every class are used. A network this narrow underfits, and the method regularises: no
gain over the baseline is to be expected here. Methods: dks, ds, baseline, top_down, bottom_up.
"""

import ml_collections


def get_config(method: str = "dks") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.method = method
    config.seed = 0
    config.epochs = 10
    config.precision = "float32"
    config.norm_groups = 1
    config.checkpoint_every_epochs = 1

    config.data = ml_collections.ConfigDict()
    config.data.source = "folder"
    config.data.name = ""
    config.data.root = "data/cifar10"
    config.data.image_size = 32
    config.data.train_per_class = 1000
    config.data.test_per_class = 200
    config.data.batch_size = 128
    config.data.drop_last = False
    config.data.padding = 4
    config.data.pad_mode = "reflect"
    config.data.flip = True
    config.data.mean = (125.3 / 255, 123.0 / 255, 113.9 / 255)
    config.data.std = (63.0 / 255, 62.1 / 255, 66.7 / 255)

    config.model = ml_collections.ConfigDict()
    config.model.name = "wide_resnet"
    config.model.depth = 16
    config.model.width = 1
    config.model.dropout = 0.0

    config.synergy = ml_collections.ConfigDict()
    config.synergy.alpha = 1.0
    config.synergy.temperature = 1.0
    config.synergy.epsilon = 1e-8

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.schedule = "cosine"
    config.optimizer.learning_rate = 0.1
    config.optimizer.warmup_epochs = 0.5
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.decay_norm_and_bias = True
    config.optimizer.drop_epochs = ()
    config.optimizer.drop_factor = 1.0
    config.optimizer.reset_momentum_at_drops = False
    return config
