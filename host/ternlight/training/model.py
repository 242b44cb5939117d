"""hgrn_bit in PyTorch, for training: the published equations and tensor names, quantised in the forward pass.

Gradients pass straight through the rounding of weights and activations. All arrays are time-major (times, batch, ...):
the recurrence then walks over contiguous memory, and nothing else minds.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from ..config import BIT_EPS, SCALE_MIN, ModelConfig
from .scan import scan

INITIAL_DEVIATION = 0.02
"""Standard deviation of the first weights, as published. Only ratios count, for a ternary product is scale-free."""


class TernaryProduct(torch.autograd.Function):
    """v (tokens, inputs) of a norm, and master weights (rows, inputs), to their quantised product.

    Forward it is exact, in integers. Backward the gradient is rounded to bfloat16, in which the other factors, trits
    and 8-bit activations, are exact; the products add up in single precision.
    """

    @staticmethod
    def forward(context: Any, v: Tensor, weight: Tensor) -> Tensor:
        """The product of quantised activations and trits, scaled to real numbers."""
        scale = 127 / v.abs().amax(dim=-1, keepdim=True).clamp_min(SCALE_MIN)
        q = (v * scale).round().to(torch.int8)
        beta = weight.abs().mean().clamp_min(SCALE_MIN)
        trits = (weight / beta).round().clamp(-1, 1).to(torch.int8)
        context.save_for_backward(q, trits, scale, beta)
        return torch._int_mm(q, trits.T) * (beta / scale)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Straight through: the product's gradient at the quantised values."""
        q, trits, scale, beta = context.saved_tensors
        scaled = (gradient / scale).to(torch.bfloat16)
        by_v = (scaled @ trits.to(torch.bfloat16)) * (beta * scale)
        by_weight = scaled.T @ q.to(torch.bfloat16)
        return by_v, by_weight.to(torch.float32)


class Norm(nn.Module):
    """Root mean square norm with gains."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """x / sqrt(mean(x**2) + eps) * weight."""
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.eps) * self.weight


class TernaryLinear(nn.Module):
    """A norm, the quantisation of its result, and a ternary product."""

    def __init__(self, inputs: int, rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, inputs).normal_(std=INITIAL_DEVIATION))
        self.norm = Norm(inputs, BIT_EPS)

    def forward(self, v: Tensor) -> Tensor:
        """(times, batch, inputs) to (times, batch, rows)."""
        flat = self.norm(v).flatten(0, -2)
        product: Tensor = TernaryProduct.apply(flat, self.weight)
        return product.unflatten(0, v.shape[:-1])


class Attention(nn.Module):
    """The gated recurrence."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.hidden
        self.i_proj, self.f_proj, self.g_proj, self.o_proj = (TernaryLinear(d, d) for _ in range(4))
        self.g_norm = Norm(d, config.eps)

    def forward(self, n: Tensor, lower_bound: Tensor) -> Tensor:
        """n: the normalised residual; lower_bound (hidden,) of the forget gates."""
        forget = lower_bound + (1 - lower_bound) * torch.sigmoid(self.f_proj(n))
        h = scan(forget, F.silu(self.i_proj(n)) * (1 - forget))
        out: Tensor = self.o_proj(self.g_norm(self.g_proj(n)) * F.silu(h))
        return out


class GatedMlp(nn.Module):
    """The gated linear unit."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = TernaryLinear(config.hidden, 2 * config.intermediate)
        self.down_proj = TernaryLinear(config.intermediate, config.hidden)

    def forward(self, n: Tensor) -> Tensor:
        """n: the normalised residual."""
        gate, value = self.gate_proj(n).chunk(2, dim=-1)
        out: Tensor = self.down_proj(F.silu(gate) * value)
        return out


class Layer(nn.Module):
    """One layer, on the residual."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attn_norm = Norm(config.hidden, config.eps)
        self.attn = Attention(config)
        self.mlp_norm = Norm(config.hidden, config.eps)
        self.mlp = GatedMlp(config)

    def forward(self, x: Tensor, lower_bound: Tensor) -> Tensor:
        """The residual after the layer."""
        x = x + self.attn(self.attn_norm(x), lower_bound)
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class Body(nn.Module):
    """Embedding, layers, and the last norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.vocabulary, config.hidden)
        nn.init.normal_(self.embeddings.weight, std=INITIAL_DEVIATION)
        self.lower_bounds = nn.Parameter(torch.zeros(config.layers, config.hidden)) if config.lower_bound else None
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = Norm(config.hidden, config.eps)

    def forward(self, tokens: Tensor) -> Tensor:
        """The residual (times, batch, hidden) after all layers."""
        x: Tensor = self.embeddings(tokens)
        for layer, lower_bound in zip(self.layers, self.bounds(x), strict=True):
            x = layer(x, lower_bound)
        return x

    def bounds(self, like: Tensor) -> Tensor:
        """The lower bounds of the forget gates (layers, hidden)."""
        if self.lower_bounds is None:
            return like.new_zeros(len(self.layers), like.shape[-1])
        shares = self.lower_bounds.softmax(dim=0)
        return shares.cumsum(dim=0) - shares[0]


class Head(nn.Module):
    """What follows the layers: norm, the ternary head, and the loss."""

    def forward(self, x: Tensor, norm: Norm, lm_head: TernaryLinear, targets: Tensor) -> Tensor:
        """The mean cross-entropy in nats per token."""
        return F.cross_entropy(lm_head(norm(x)).flatten(0, -2), targets.flatten())


class TrainedModel(nn.Module):
    """An hgrn_bit model whose parameters have the names of a checkpoint's tensors."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config)
        self.lm_head = TernaryLinear(config.hidden, config.vocabulary)
        self.head = Head()

    def forward(self, tokens: Tensor) -> Tensor:
        """The mean cross-entropy (nats per token) of tokens (times + 1, batch), each predicted from those before."""
        x = self.model(tokens[:-1])
        loss: Tensor = self.head(x, self.model.norm, self.lm_head, tokens[1:])
        return loss

    def logits(self, tokens: Tensor) -> Tensor:
        """Logits (times, batch, vocabulary) for tokens (times, batch)."""
        out: Tensor = self.lm_head(self.model.norm(self.model(tokens)))
        return out

    def compile_parts(self, backend: str = "inductor") -> None:
        """Have layers and head compiled when they first run: all layers share one compilation."""
        for part in (*self.model.layers, self.head):
            part.compile(backend=backend, fullgraph=True)
