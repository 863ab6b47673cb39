"""Small transformers: a decoder for bytes (Radford et al. 2019) and one for images (Dosovitskiy et al., 2010.11929)."""

import math

import torch
from torch import nn

NORMS = ("pre", "post")


class Block(nn.Module):
    """Attention and a perceptron, each with a shortcut around it and a LayerNorm.

    "pre" is x + f(norm(x)), of GPT-2 and everything since; "post" is norm(x + f(x)), of Vaswani et al. 2017
    (1706.03762), whose gradients near the output are large at the start: it needs warm-up (Xiong et al., 2002.04745).
    """

    def __init__(self, width: int, heads: int, norm: str, causal: bool) -> None:
        super().__init__()
        self.heads, self.norm, self.causal = heads, norm, causal
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output; `x` is (n, length, width)."""
        if self.norm == "post":
            x = self.attention_norm(x + self._attend(x))
            return self.mlp_norm(x + self.mlp(x))  # type: ignore[no-any-return]
        x = x + self._attend(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))  # type: ignore[no-any-return]

    def _attend(self, x: torch.Tensor) -> torch.Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        found = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.project(found.transpose(1, 2).reshape(n, length, width))  # type: ignore[no-any-return]


class ByteTransformer(nn.Module):
    """A causal transformer over bytes.

    Args:
        context: bytes that it sees at most.
        width: of the residual stream.
        depth: blocks.
        heads: of attention; divides `width`.
        norm: "pre" or "post".
    """

    def __init__(self, context: int, width: int, depth: int, heads: int, norm: str) -> None:
        super().__init__()
        self.token = nn.Embedding(256, width)
        self.position = nn.Parameter(torch.zeros(context, width))
        self.blocks = nn.Sequential(*(Block(width, heads, norm, causal=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width) if norm == "pre" else nn.Identity()  # "post" ends in one already
        self.head = nn.Linear(width, 256)
        _initialise(self, depth)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """Return logits (n, length, 256) of the byte after each; `text` is (n, length) of dtype int64."""
        x = self.token(text) + self.position[: text.shape[1]]
        return self.head(self.norm(self.blocks(x)))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """A transformer over the patches of an image, which averages them for its answer.

    Args:
        patch: side of a square patch, in pixels; divides `side`.
        side: of a square image with three channels.
        classes: that it tells apart.
    """

    def __init__(self, patch: int, width: int, depth: int, heads: int, side: int = 32, classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.position = nn.Parameter(torch.zeros((side // patch) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads, "pre", causal=False) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        _initialise(self, depth)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (n, classes); `images` is (n, 3, side, side)."""
        x = self.patches(images).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(x)).mean(1))  # type: ignore[no-any-return]


def _initialise(model: nn.Module, depth: int) -> None:
    """Draw weights as GPT-2 does: SD 0.02, less by sqrt(2 depth) for what adds to the residual stream."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            continue
        into_stream = name.endswith(("project.weight", "mlp.2.weight"))
        nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * depth) if into_stream else 1))
