"""Wide ResNet 28-10 on CIFAR-100 by the released recipe of DKS (CVPR 2019, arXiv:1906.00675).

    python -m dks_jax.train --config configs/cifar100_wrn.py
    python -m dks_jax.train --config configs/cifar100_wrn.py:baseline
    python -m dks_jax.train --config configs/cifar100_wrn.py --config.model.dropout=0.3

Reported top-1 error, %, mean and standard deviation of 5 runs (README of github.com/sundw2014/DKS):
baseline 18.72 +/- 0.24, DKS 17.24 +/- 0.22; with dropout 18.64 +/- 0.19 and 16.71 +/- 0.17. These are the
published figures; this config has not been run to its end here.

Methods: dks, ds, baseline, top_down, bottom_up. The recipe, quirks included: weight decay on every
trainable tensor, no Nesterov momentum, the last partial batch kept, the momentum set to zero where the
learning rate drops, and drops that take effect as epochs 60, 120 and 160 start, counted from 1.
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
    config.data.name = "cifar100"
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
