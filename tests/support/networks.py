"""The published networks in short, as tests build them."""

from dks_jax import DeeplySupervised, models


def wide_resnet(
    depth: int, width: int, num_classes: int, *, dropout: float = 0.0, **build
) -> DeeplySupervised:
    """WRN-depth-width; keywords as of `models.build`."""
    model = {"name": "wide_resnet", "depth": depth, "width": width, "dropout": dropout}
    return models.build(model, num_classes=num_classes, **{"channels": 3, "seed": 0} | build)


def resnet(depth: int, num_classes: int, **build) -> DeeplySupervised:
    """ResNet-depth; keywords as of `models.build`."""
    return models.build(
        {"name": f"resnet{depth}"}, num_classes=num_classes, **{"channels": 3, "seed": 0} | build
    )
