"""The one transformer forward: a Llama decoder whose attention is whatever the cache makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from ..rounding import rounded_up

TABLE = 256  # positions, or a multiple of it


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a Llama decoder."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    norm_eps: float
    rope_theta: float


class Attend(Protocol):
    """What a cache does for the decoder: remember the new keys and values, and answer the queries."""

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        """Queries, keys and values side by side, [B, T, heads + 2 * kv_heads, D], the former two after RoPE
        -> [B, T, heads, D]."""
        ...


def split_heads(qkv: Tensor, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """What `Attend` gets, as views: q [B, T, heads, D], k and v [B, T, kv_heads, D]."""
    return qkv.split([qkv.shape[2] - 2 * kv_heads, kv_heads, kv_heads], 2)


class Rope(nn.Module):
    """Rotary position embedding (arXiv 2104.09864) in Llama's halved layout, read from a table.

    A vector x becomes x * cos + roll(x, D/2) * sin, with the sign of Llama's rotate_half folded into sin.
    """

    def __init__(self, dim: int, theta: float, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.dim, self.theta = dim, theta
        self.table: Tensor  # cos and sin of each position, [positions, 2, 1, D]
        self.register_buffer("table", torch.empty(0, 2, 1, dim, device=device), persistent=False)

    def reserve(self, positions: int, device: torch.device, dtype: torch.dtype) -> None:
        """Make the table cover positions 0..positions - 1, in `dtype` on `device`. It covers a few more, for a step is
        compiled for a table of its size."""
        positions = rounded_up(positions, TABLE)
        if len(self.table) >= positions and self.table.device == device and self.table.dtype == dtype:
            return
        inverse = 1 / self.theta ** (torch.arange(0, self.dim, 2, dtype=torch.float32) / self.dim)
        angle = torch.arange(positions, dtype=torch.float32)[:, None] * inverse
        self.table = torch.empty(positions, 2, 1, self.dim, dtype=dtype, device=device)
        halves = self.table.view(positions, 2, 2, self.dim // 2)
        halves[:, 0] = angle.cos()[:, None]
        halves[:, 1, 1] = angle.sin_()
        halves[:, 1, 0] = angle.neg_()

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [B, T] -> cos and sin, [B, T, 1, D] each."""
        cos, sin = self.table.index_select(0, positions.flatten()).unflatten(0, positions.shape).unbind(2)
        return cos, sin


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Turn queries or keys [B, T, heads, D] to their positions, in place."""
    rolled = x.roll(x.shape[-1] // 2, -1)
    x.mul_(cos).addcmul_(rolled, sin)


def add_linear(linear: nn.Module, x: Tensor, to: Tensor) -> Tensor:
    """`to` + linear(x). A namespace of layers may have a way of its own."""
    sum_: Tensor = to + linear(x)
    return sum_


class Layer(nn.Module):
    """One decoder layer, with the projections that read the same input fused into one."""

    def __init__(self, index: int, shape: DecoderShape, ops: Any, **where: Any) -> None:
        super().__init__()
        self.index, self.shape = index, shape
        self.add_linear = getattr(ops, "add_linear", add_linear)
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.attention_norm = ops.RMSNorm(shape.hidden, eps=shape.norm_eps, **where)
        self.qkv = ops.Linear(shape.hidden, queries + 2 * keys, bias=False, **where)
        self.out = ops.Linear(queries, shape.hidden, bias=False, **where)
        self.mlp_norm = ops.RMSNorm(shape.hidden, eps=shape.norm_eps, **where)
        self.gate_up = ops.Linear(shape.hidden, 2 * shape.inner, bias=False, **where)
        self.down = ops.Linear(shape.inner, shape.hidden, bias=False, **where)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Attend) -> Tensor:
        """x [B * T, hidden], cos and sin [B, T, 1, D] -> [B * T, hidden]."""
        heads, kv_heads, dim = self.shape.heads, self.shape.kv_heads, self.shape.head_dim
        qkv = self.qkv(self.attention_norm(x)).contiguous().view(*cos.shape[:2], heads + 2 * kv_heads, dim)
        rotate(qkv[:, :, : heads + kv_heads], cos, sin)
        attended = cache.attend(self.index, qkv).reshape(len(x), heads * dim)
        x = self.add_linear(self.out, attended, x)
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
        sum_: Tensor = self.add_linear(self.down, silu(gate) * up, x)
        return sum_


class Decoder(nn.Module):
    """The layers and the final norm. `ops` is a namespace of layer classes: torch.nn, or ComfyUI's."""

    def __init__(self, shape: DecoderShape, ops: Any = nn, **where: Any) -> None:
        super().__init__()
        self.shape = shape
        self.rope = Rope(shape.head_dim, shape.rope_theta, where.get("device"))
        self.layers = nn.ModuleList(Layer(index, shape, ops, **where) for index in range(shape.layers))
        self.norm = ops.RMSNorm(shape.hidden, eps=shape.norm_eps, **where)

    def forward(self, x: Tensor, positions: Tensor, cache: Attend) -> Tensor:
        """x [B, T, hidden] at `positions` int64 [B, T] -> [B, T, hidden]; the cache must cover what went before."""
        cos, sin = self.rope(positions)
        flat = x.flatten(0, 1)  # matrices take a shorter way through torch than stacks of them
        for layer in self.layers:
            flat = layer(flat, cos, sin, cache)
        return self.norm(flat).view_as(x)
