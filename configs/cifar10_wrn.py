"""Wide ResNet 28-10 on CIFAR-10 by the released recipe of DKS (CVPR 2019, arXiv:1906.00675).

    python -m dks_jax.train --config configs/cifar10_wrn.py
    python -m dks_jax.train --config configs/cifar10_wrn.py:baseline
    python -m dks_jax.train --config configs/cifar10_wrn.py --config.model.dropout=0.3

Methods: dks, ds, baseline, top_down, bottom_up. The recipe is that of configs/cifar100_wrn.py; errors on
CIFAR-10 are not reported for it.
"""

import ml_collections


def get_config(method: str = "dks") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.method = method
    config.seed = 0
    config.epochs = 200
    config.precision = "float32"
    config.norm_groups = 1
    config.checkpoint_every_epochs = 1

    config.data = ml_collections.ConfigDict()
    config.data.source = "cifar"
    config.data.name = "cifar10"
    config.data.root = "data"
    config.data.image_size = 32
    config.data.train_per_class = 0
    config.data.test_per_class = 0
    config.data.batch_size = 128
    config.data.drop_last = False
    config.data.padding = 4
    config.data.pad_mode = "reflect"
    config.data.flip = True
    config.data.mean = (125.3 / 255, 123.0 / 255, 113.9 / 255)
    config.data.std = (63.0 / 255, 62.1 / 255, 66.7 / 255)

    config.model = ml_collections.ConfigDict()
    config.model.name = "wide_resnet"
    config.model.depth = 28
    config.model.width = 10
    config.model.dropout = 0.0

    config.synergy = ml_collections.ConfigDict()
    config.synergy.alpha = 1.0
    config.synergy.temperature = 1.0
    config.synergy.epsilon = 1e-8

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.schedule = "step"
    config.optimizer.learning_rate = 0.1
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.decay_norm_and_bias = True
    config.optimizer.drop_epochs = (60, 120, 160)
    config.optimizer.drop_factor = 0.2
    config.optimizer.reset_momentum_at_drops = True
    return config
