"""The attentive probe of V-JEPA 2, which classifies a clip by attention over all its tokens. Several copies are trained
together, with different learning rates and weight decays.

Source: Assran et al. 2025 (arXiv 2506.09985), and the evaluation configs of facebookresearch/vjepa2: 3 self-attention
blocks, one cross-attention block with one learned query, 16 heads, 20 pairs of learning rate and weight decay.

Shapes: B clips, N tokens of a clip, C channels, A attention heads, T frames, H rows and W columns of a map, R regions
of a frame, K classes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kinegraph.stages.heads.candidates import (
    DECAYS,
    RATES,
    CandidateHead,
    CandidateOptions,
    Decay,
    Rate,
)
from kinegraph.stages.heads.head import MASK, HeadError, Spec
from kinegraph.stages.heads.inputs import RegionReader

USUAL_HEADS, INIT_STD = 16, 0.02
LEARNING_RATES, WEIGHT_DECAYS = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4), (0.01, 0.1, 0.4, 0.8)  # V-JEPA 2's


class AttentiveProbeOptions(CandidateOptions):
    read: Literal["maps", "pooled", "regions"] = Field(
        "maps",
        description="the tokens of a clip. maps: all T x H x W cells; pooled: the vectors of all frames; "
        "regions: all regions of all frames",
    )
    num_blocks: int = Field(3, ge=0, le=64, description="self-attention blocks before the cross-attention")
    num_heads: int | None = Field(
        None, gt=0, description="attention heads; null: 16, or the largest smaller number that divides the channels"
    )
    mlp_ratio: float = Field(4.0, gt=0, le=64, description="width of the MLP of a block, in channels of a token")
    recompute: bool = Field(
        False,
        description="true: activations are computed again for the gradient, which takes the memory of one candidate "
        "and a third more time",
    )
    learning_rates: tuple[Rate, ...] = Field(LEARNING_RATES, min_length=1, description=RATES)
    weight_decays: tuple[Decay, ...] = Field(WEIGHT_DECAYS, min_length=1, description=DECAYS)


class AttentiveProbe(CandidateHead):
    """A head with self-attention blocks over all tokens of a clip, then cross-attention with one learned query, and
    then a linear layer. A token is one vector of the features: a cell of a map, a frame, or a region.

    Several copies of these layers are trained together. As in V-JEPA 2, tokens get no position code. With `read:
    regions`, a clip without boxes has one token of zeros.
    """

    option_model = AttentiveProbeOptions
    reads_sequences: ClassVar[bool] = True

    def __init__(self, spec: Spec, num_classes: int, options: AttentiveProbeOptions) -> None:
        super().__init__()
        channels = self.choose_array(spec, options.read, options)
        self.regions = RegionReader(spec, self.source, boxes=False) if options.read == "regions" else None
        self.reads = (self.array,) if self.regions is None else self.regions.reads
        self.recompute = options.recompute
        num_heads = _num_heads(channels, options.num_heads)
        self.add_candidates(
            AttentiveClassifier(channels, num_classes, options.num_blocks, num_heads, options.mlp_ratio), options
        )

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Returns (tokens [B, N, C], mask [B, N]) for B clips and C channels. The mask is true for tokens and false for
        padding. If there is no padding, None stands in place of the mask. `batch` maps the name of each array in
        `reads` to its values.
        """
        dtype = next(self.parameters()).dtype
        if self.regions is not None:
            regions = self.regions(batch, dtype)  # [B, T, R, C]
            mask = regions.valid.flatten(1)
            first = torch.arange(mask.shape[1], device=mask.device) == 0
            return regions.features.flatten(1, 2), mask | (first & ~mask.any(1, keepdim=True))
        x = batch[self.array].to(dtype)
        if x.ndim == 5:
            return x.movedim(2, -1).flatten(1, 3), None
        return (x, batch.get(MASK)) if x.ndim == 3 else (x[:, None], None)  # an output of the whole clip is [B, C]

    def logits_of(self, probe: nn.Module, inputs: Sequence[Tensor | None]) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            logits: Tensor = checkpoint(probe, *inputs, use_reentrant=False)
            return logits
        return super().logits_of(probe, inputs)


def _num_heads(channels: int, asked: int | None) -> int:
    if asked is None:
        return max(number for number in range(1, USUAL_HEADS + 1) if channels % number == 0)
    if channels % asked:
        raise HeadError(f"num_heads: given {asked}, allowed: a divisor of the {channels} channels of a token")
    return asked


class AttentiveClassifier(nn.Module):
    """The network of the attentive probe. `forward(tokens, mask)` maps tokens [B, N, C] to logits [B, K], for N tokens
    of a clip and K classes. `mask` [B, N] is false for padding. `mask` None means that there is no padding.

    The first weights follow the code of V-JEPA (facebookresearch/jepa): a truncated normal distribution with standard
    deviation 0.02, and biases of 0. The output layers of the attention and the MLP start smaller, divided by sqrt(2 n).
    n is 1 for the cross-attention block and 2, 3, ... for the self-attention blocks.
    """

    def __init__(self, channels: int, num_classes: int, num_blocks: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(channels * mlp_ratio)
        blocks = [SelfAttentionBlock(channels, num_heads, hidden) for _ in range(num_blocks)]
        self.blocks = nn.ModuleList(blocks)
        self.cross = CrossAttentionBlock(channels, num_heads, hidden)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.cross.token, std=INIT_STD)
        with torch.no_grad():
            self.cross.mlp.fc2.weight.div_(math.sqrt(2))
            for number, block in enumerate(blocks, 2):
                block.out.weight.div_(math.sqrt(2 * number))
                block.mlp.fc2.weight.div_(math.sqrt(2 * number))

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        keys = None if mask is None else mask[:, None, None]  # [B, 1, 1, N]
        for block in self.blocks:
            tokens = block(tokens, keys)
        logits: Tensor = self.fc(self.cross(tokens, keys))
        return logits


class SelfAttentionBlock(nn.Module):
    """A transformer block with a LayerNorm before the self-attention and before the MLP. `forward` maps tokens [B, N,
    C] to the same shape, for B clips, N tokens and C channels. `hidden` is the width of the MLP.
    """

    def __init__(self, channels: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.mlp = TokenMlp(channels, hidden)

    def forward(self, x: Tensor, keys: Tensor | None) -> Tensor:
        query, key, value = self.query_key_value(self.norm1(x)).chunk(3, -1)
        x = x + self.out(_attention(query, key, value, self.num_heads, keys))
        output: Tensor = x + self.mlp(self.norm2(x))
        return output


class CrossAttentionBlock(nn.Module):
    """A transformer block in which one learnt query attends to all tokens. `forward` maps tokens [B, N, C] to one
    vector per clip, [B, C], for B clips, N tokens and C channels. `hidden` is the width of the MLP after the attention.

    As in V-JEPA 2, the query has no norm, and the attention has no output layer.
    """

    def __init__(self, channels: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.token = nn.Parameter(torch.zeros(1, 1, channels))  # the learnt query
        self.query, self.key_value = nn.Linear(channels, channels), nn.Linear(channels, 2 * channels)
        self.mlp = TokenMlp(channels, hidden)

    def forward(self, tokens: Tensor, keys: Tensor | None) -> Tensor:
        key, value = self.key_value(self.norm1(tokens)).chunk(2, -1)
        query = self.query(self.token).expand(len(tokens), -1, -1)
        pooled = (self.token + _attention(query, key, value, self.num_heads, keys))[:, 0]  # [B, C]
        output: Tensor = pooled + self.mlp(self.norm2(pooled))
        return output


def _attention(query: Tensor, key: Tensor, value: Tensor, num_heads: int, keys: Tensor | None) -> Tensor:
    """Returns the result of attention with `num_heads` heads, [B, M, C], for B clips, M queries and C channels. `key`
    and `value` are [B, N, C] for N tokens. `keys` [B, 1, 1, N] is false for padding, or None without padding.
    """
    query, key, value = (
        x.view(*x.shape[:2], num_heads, -1).transpose(1, 2) for x in (query, key, value)
    )  # [B, A, N, ...]
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=keys)
    return attended.transpose(1, 2).flatten(2)


class TokenMlp(nn.Module):
    """Two linear layers with a GELU in between. `forward` maps x [..., C] to the same shape, for C = `channels`.
    `hidden` is the number of channels between the layers.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return output
