"""torchvision, also where its compiled part does not fit this torch: the transforms need none of it."""

import torch

try:
    import torchvision
except RuntimeError:
    # Importing it registers something for two operators that the compiled part would have defined.
    lib = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        lib.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

from torchvision import transforms

__all__ = ["torchvision", "transforms"]
