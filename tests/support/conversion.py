"""The conversion of PyTorch checkpoints by the command line, and the comparison of what came back."""

import convert_pytorch
import torch


def convert(direction, file, folder, *more):
    return convert_pytorch.main([direction, f"--torch={file}", f"--weights={folder}", *more])


def assert_same_file(before, after):
    """Two state dicts have the same names in the same order, and the same bits."""
    one, other = (torch.load(file, weights_only=True) for file in (before, after))
    assert list(one) == list(other)
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert tensor.numpy().tobytes() == other[name].contiguous().numpy().tobytes(), name
