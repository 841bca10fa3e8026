"""Vision transformers by the names of torchvision or of timm, without branches."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_forward.layers import Norm, Tensors, blocks

# Of every published width.
HEAD_CHANNELS = 64


class Names(NamedTuple):
    """What the arrays of each part begin with; of a block, after its own name."""

    patches: str
    class_token: str
    positions: str
    norm: str
    head: str
    blocks: str
    norms: tuple[str, str]
    qkv: str
    proj: str
    mlp: tuple[str, str]


TORCHVISION = Names(
    *("conv_proj.", "class_token", "encoder.pos_embedding", "encoder.ln.", "heads.head."),
    *("encoder.layers.encoder_layer_", ("ln_1.", "ln_2.")),
    *("self_attention.in_proj_", "self_attention.out_proj.", ("mlp.0.", "mlp.3.")),
)
TIMM = Names(
    *("patch_embed.proj.", "cls_token", "pos_embed", "norm.", "head."),
    *("blocks.", ("norm1.", "norm2.")),
    *("attn.qkv.", "attn.proj.", ("mlp.fc1.", "mlp.fc2.")),
)


def matches(tensors: Tensors) -> bool:
    """Whether a state dict is of this family."""
    return any(names.class_token in tensors for names in (TORCHVISION, TIMM))


def outputs(tensors: Tensors, images: Tensor, norm: Norm) -> list[Tensor]:
    """The logits of the one classifier; see `torch_forward.outputs`."""
    del norm
    names = TIMM if TIMM.class_token in tensors else TORCHVISION

    def arrays(name: str) -> tuple[Tensor, Tensor]:
        return tensors[f"{name}weight"], tensors[f"{name}bias"]

    def layer_norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *arrays(name), eps=1e-6)

    def attend(x: Tensor, block: str) -> Tensor:
        batch, tokens, width = x.shape
        qkv = F.linear(x, *arrays(block + names.qkv)).view(batch, tokens, 3, -1, HEAD_CHANNELS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return F.linear(mixed.transpose(1, 2).reshape(batch, tokens, width), *arrays(block + names.proj))

    def mlp(x: Tensor, block: str) -> Tensor:
        first, second = (arrays(block + name) for name in names.mlp)
        return F.linear(F.gelu(F.linear(x, *first)), *second)

    kernel, bias = arrays(names.patches)
    x = F.conv2d(images, kernel, bias, stride=kernel.shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat([tensors[names.class_token].expand(len(x), -1, -1), x], dim=1) + tensors[names.positions]
    for name in blocks(tensors, names.blocks):
        block = f"{name}."
        x = x + attend(layer_norm(x, block + names.norms[0]), block)
        x = x + mlp(layer_norm(x, block + names.norms[1]), block)
    return [F.linear(layer_norm(x[:, 0], names.norm), *arrays(names.head))]
