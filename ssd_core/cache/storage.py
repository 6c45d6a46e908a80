"""How slots hold keys and values: as the model computes them, or in a byte a number with a scale a vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UserError
from .attention import attend_scaled, attend_slots

# What keys and values may be kept in. "auto" is what the model computes in.
KV_DTYPES = {"auto": None, "int8": torch.int8, "fp8": torch.float8_e4m3fn}
LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}  # number of which there is the negative, too
LEAST = 2.0**-100  # a scale, so that nothing is divided by 0


def check_kv_dtype(kv_dtype: str, device: torch.device | str = "cpu") -> None:
    """Refuse a word that is none of KV_DTYPES, and a precision that torch cannot convert to and from on the device."""
    if kv_dtype not in KV_DTYPES:
        raise UserError(f"kv_dtype is {', '.join(KV_DTYPES)}, not {kv_dtype!r}; choose one of them.")
    kind = KV_DTYPES[kv_dtype]
    if kind is None:
        return
    try:
        torch.zeros(1, device=device).to(kind).float()
    except (RuntimeError, TypeError):  # which of them depends on the device
        raise UserError(f"torch cannot keep {kv_dtype} on {device}; choose another kv_dtype, int8 say.") from None


def quantize(x: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Vectors [..., D] -> numbers of `kind` [..., D], and scales bfloat16 [..., 1].

    A scale is its vector's largest magnitude, and what the largest number of `kind` stands for. In int8 a number is
    off by half a 127th of it at most, in fp8 (e4m3) by a 16th of the number itself, where that is not very small.
    """
    scale = torch.linalg.vector_norm(x, torch.inf, -1, keepdim=True).bfloat16().clamp_(min=LEAST)
    numbers = x.float() * (LARGEST[kind] / scale.float())
    return (numbers.round_() if kind is torch.int8 else numbers).to(kind), scale


class Storage:
    """Keys and values of n pairs' S slots, as the model computes them: kv [2, n, S, D].

    parts: the tensors of which the storage is made, [2, n, S, ...] each, for whoever counts or moves slots.
    """

    def __init__(self, count: int, slots: int, head_dim: int, dtype: torch.dtype, device: torch.device | str) -> None:
        self.slots = slots
        self.kv = torch.empty(2, count, slots, head_dim, dtype=dtype, device=device)
        self.keys, self.values = self.kv
        self.parts = [self.kv]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def pack(self, kv: Tensor) -> list[Tensor]:
        """Keys and values [..., D] as they are stored, a tensor [..., width] for each of the parts."""
        return [kv]

    def unpack(self, parts: Sequence[Tensor]) -> Tensor:
        """What `pack` made of keys and values, as the model computes them."""
        return parts[0]

    def fill(self, slots: Tensor, kv: Tensor) -> None:
        """Store tokens, kv [2, n, T, D], in the slots int64 [T]."""
        for part, packed in zip(self.parts, self.pack(kv), strict=True):
            part.index_copy_(2, slots, packed)

    def take(self, slots: Tensor, other: Storage, pairs: Tensor, places: Tensor) -> None:
        """Store in the slots int64 [T] what another storage of this kind holds of the pairs int64 [n] in the places
        int64 [T], or [n, T] where each pair has its own."""
        for own, theirs in zip(self.parts, other.parts, strict=True):
            own[:, :, slots] = theirs[:, pairs[:, None], places]

    def put(self, slot: int, kv: Tensor) -> None:
        """Store a token, kv [2, n, D]."""
        self.kv.select(2, slot).copy_(kv)

    def attend(self, q: Tensor, held: int, output: Tensor, bias: Tensor | None = None) -> Tensor:
        """Answer queries q [n, G, D] in `output` [n, G, D] from the first `held` slots -> the attention row, float32
        [n, G, held]. bias: as `attend_slots` takes it."""
        keys, values = self.keys, self.values
        if held < self.slots:
            keys, values = keys[:, :held], values[:, :held]
        return attend_slots(q, keys, values, output, bias)[0]

    def read(self) -> Tensor:
        """Keys and values as the model computes them, [2, n, S, D]."""
        return self.unpack(self.parts)


class QuantizedStorage(Storage):
    """Keys and values in numbers of one byte, each vector with a scale of its own: scale bfloat16 [2, n, S, 1].

    They are read, keys first and then values, into room in the model's precision that the slots of all layers share;
    the scales go into the attention row, so that no number is multiplied with one.
    """

    def __init__(
        self,
        kind: torch.dtype,
        room: Tensor,
        count: int,
        slots: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        """kind: int8 or float8_e4m3fn. room: [at least n * S, D] of `dtype`."""
        super().__init__(count, slots, head_dim, torch.int8, device)
        self.scale = torch.empty(2, count, slots, 1, dtype=torch.bfloat16, device=device)
        self.parts = [self.kv, self.scale]  # bytes, which any device can move
        self.kind = kind
        self.numbers = self.kv.view(kind)
        self.room = room[: count * slots].view(count, slots, head_dim)

    def pack(self, kv: Tensor) -> list[Tensor]:
        numbers, scale = quantize(kv, self.kind)
        return [numbers.view(torch.int8), scale]

    def unpack(self, parts: Sequence[Tensor]) -> Tensor:
        numbers, scale = parts
        return (numbers.view(self.kind).float() * (scale.float() / LARGEST[self.kind])).to(self.room.dtype)

    def put(self, slot: int, kv: Tensor) -> None:
        numbers, scale = quantize(kv, self.kind)
        self.numbers.select(2, slot).copy_(numbers)
        self.scale.select(2, slot).copy_(scale)

    def attend(self, q: Tensor, held: int, output: Tensor, bias: Tensor | None = None) -> Tensor:
        numbers, scale, room = (part.narrow(-2, 0, held) for part in (self.numbers, self.scale, self.room))
        return attend_scaled(q, numbers, scale, LARGEST[self.kind], room, output, bias)
