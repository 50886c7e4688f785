"""corenet's vision transformer and text tower, written down from its source, with its names for everything.

https://github.com/apple/corenet: ``vit.py`` (stem, positions without one for the class token, CLS pooling),
``multi_head_attention.py`` and ``flash_multi_head_attention.py`` (queries, keys and values fused, the projection of
another name; the released CatLIP models have the latter), ``text_encoders/transformer.py``, ``clip.py``.
Slow and plain: a reference for what an import must give.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


def _attention(module: nn.Module, x_BTD: Tensor, num_heads: int, mask_TT: Tensor | None) -> Tensor:
    size = x_BTD.shape[-1] // num_heads
    qkv = module.qkv_proj(x_BTD).reshape(*x_BTD.shape[:2], 3, num_heads, size)
    query, key, value = (qkv[:, :, part].transpose(1, 2) for part in range(3))
    scores = (query * size**-0.5) @ key.transpose(-1, -2)
    if mask_TT is not None:
        scores = scores + mask_TT
    mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    return module.out(mixed)


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv_proj, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def out(self, x_BTD: Tensor) -> Tensor:
        return self.out_proj(x_BTD)


class _FlashAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv_proj, self.out_proj_attn = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def out(self, x_BTD: Tensor) -> Tensor:
        return self.out_proj_attn(x_BTD)


class _Layer(nn.Module):
    def __init__(self, width: int, num_heads: int, eps: float, flash: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        attention = _FlashAttention(width) if flash else _Attention(width)
        self.pre_norm_mha = nn.Sequential(nn.LayerNorm(width, eps=eps), attention, nn.Dropout(0.0))
        up, down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.pre_norm_ffn = nn.Sequential(
            nn.LayerNorm(width, eps=eps), up, nn.GELU(), nn.Dropout(0.0), down, nn.Dropout(0.0)
        )

    def forward(self, x_BTD: Tensor, mask_TT: Tensor | None = None) -> Tensor:
        norm, attention, _ = self.pre_norm_mha
        x_BTD = x_BTD + _attention(attention, norm(x_BTD), self.num_heads, mask_TT)
        return x_BTD + self.pre_norm_ffn(x_BTD)


class _Conv(nn.Module):
    def __init__(self, given: int, made: int, kernel: int, has_norm: bool) -> None:
        super().__init__()
        padding = int((kernel - 1) / 2)
        conv = nn.Conv2d(given, made, kernel, stride=kernel, padding=padding, bias=not has_norm)
        self.block = nn.Sequential()
        self.block.add_module("conv", conv)
        if has_norm:
            self.block.add_module("norm", nn.BatchNorm2d(made))
            self.block.add_module("act", nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class _Positions(nn.Module):
    def __init__(self, number: int, width: int) -> None:
        super().__init__()
        self.pos_embed = nn.Module()
        self.pos_embed.pos_embed = nn.Parameter(torch.randn(1, 1, number, width))

    def forward(self) -> Tensor:
        return self.pos_embed.pos_embed[0]


class Vit(nn.Module):
    def __init__(
        self,
        image_size: int,
        patch: int,
        width: int,
        num_layers: int,
        num_heads: int,
        head: nn.Module,
        flash: bool = False,
    ):
        super().__init__()
        hidden = max(32, width // 4)
        self.patch_emb = nn.Sequential(
            _Conv(3, hidden, 4, True), _Conv(hidden, hidden, 2, True), _Conv(hidden, width, patch // 8, False)
        )
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = _Positions((image_size // patch) ** 2, width)
        self.transformer = nn.Sequential(*[_Layer(width, num_heads, 1e-6, flash) for _ in range(num_layers)])
        self.post_transformer_norm = nn.LayerNorm(width, eps=1e-6)
        self.classifier = head

    def features(self, pixels: Tensor) -> Tensor:
        patches = self.patch_emb(pixels).flatten(2).transpose(1, 2) + self.pos_embed()
        x_BTD = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], dim=1)
        return self.post_transformer_norm(self.transformer(x_BTD))[:, 0]

    def forward(self, pixels: Tensor) -> Tensor:
        return self.classifier(self.features(pixels))


class Projection(nn.Module):
    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.proj = nn.Parameter(torch.randn(width, embedding))

    def forward(self, x: Tensor) -> Tensor:
        return normalize(x @ self.proj, dim=-1)


class TextTower(nn.Module):
    def __init__(self, num_tokens: int, context: int, width: int, num_layers: int, num_heads: int, embedding: int):
        super().__init__()
        self.embedding_layer = nn.Embedding(num_tokens, width)
        self.positional_embedding = _Positions(context, width)
        self.transformer = nn.ModuleList([_Layer(width, num_heads, 1e-5) for _ in range(num_layers)])
        self.final_layer_norm = nn.LayerNorm(width)
        self.projection_layer = nn.Parameter(torch.randn(width, embedding))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """corenet pools at the greatest id, which is the end token of OpenAI's vocabulary."""
        x_BTD = self.embedding_layer(tokens_BT) + self.positional_embedding()
        mask_TT = torch.full((tokens_BT.shape[1],) * 2, -torch.inf).triu(1)
        for layer in self.transformer:
            x_BTD = layer(x_BTD, mask_TT)
        pooled = self.final_layer_norm(x_BTD)[torch.arange(len(tokens_BT)), tokens_BT.argmax(-1)]
        return normalize(pooled @ self.projection_layer, dim=-1)


class Clip(nn.Module):
    def __init__(self, image_encoder: Vit, text_encoder: TextTower) -> None:
        super().__init__()
        self.image_encoder, self.text_encoder = image_encoder, text_encoder
        self.logit_scale = nn.Parameter(torch.tensor(2.6593))


@torch.no_grad()
def shake(module: nn.Module) -> nn.Module:
    """Random weights and statistics that no start has."""
    torch.manual_seed(3)
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand_like(tensor))
    return module.eval()
