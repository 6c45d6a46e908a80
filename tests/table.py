"""The table that drives the tests: every policy, each with a budget small enough to drop tokens here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from ssd_core import loop
from ssd_core.cache.cache import SlotCache
from ssd_core.cache.fixed import FixedCache
from ssd_core.cache.slots import Slots
from ssd_core.clock import Clock
from ssd_core.memory import Memory
from ssd_core.models.base import Geometry, ImageModel
from ssd_core.models.decoder import Attend
from ssd_core.policies import (
    ADSA,
    H2O,
    SSD,
    Diagonal,
    Full,
    HeadKV,
    LineAR,
    Policy,
    Reach,
    SnapKV,
    StreamingLLM,
    Window,
)
from ssd_core.prompts import prompt_rows
from ssd_core.sampling import Sampling
from ssd_core.step import prefill
from ssd_core.turn import Step, Turn
from ssd_core.turn_kernel import TurnKernel
from tests.naive import Rounding, as_it_is, naive_tokens
from tests.tiny import TinyModel, random_map, tiny

GRID = {"rows": 3, "columns": 4}  # of the models that the table fits
# one layer of both kinds and one of semantic heads alone, or of spatial heads alone; so too with grouped queries
HEADS, NARROW = (random_map(tiny(**GRID).geometry, seed) for seed in (0, 3))
FAR = random_map(tiny(**GRID).geometry, 1, beyond=True)  # with how far each head looks

POLICIES: dict[str, Policy] = {
    "full": Full(),
    "window": Window(9),
    "window of a share": Window(0.6),
    "window with nothing pinned": Window(5, pin_prompt=False),
    "streaming": StreamingLLM(8, sinks=2),
    "streaming without sinks": StreamingLLM(0.4, sinks=0),
    "diagonal": Diagonal(0.55, held=0.7),
    "diagonal, of a whole picture": Diagonal(8, held=1.0),
    "ssd": SSD(12, head_map=HEADS),
    "ssd of a share, every token": SSD(0.7, refresh=1, head_map=HEADS),
    "ssd, every 3 tokens": SSD(11, refresh=3, recent=1, half_life=0.5, head_map=HEADS),
    "ssd, every 6 tokens, prompt not pinned": SSD(8, refresh=6, recent=0, pin_prompt=False, head_map=NARROW),
    "ssd, literal": SSD(7, literal=True, head_map=NARROW),
    "ssd, literal, every token": SSD(0.3, refresh=1, literal=True, head_map=HEADS),
    "reach": Reach(12, head_map=HEADS),
    "reach of a share, every token": Reach(0.65, refresh=1, half_life=1.0, head_map=FAR),
    "reach, every 3 tokens, windows cut": Reach(8, lost=0.3, refresh=3, head_map=FAR),
    "h2o": H2O(11),
    "h2o of a share, every token": H2O(0.6, refresh=1),
    "h2o, every 3 tokens, prompt not pinned": H2O(8, refresh=3, recent=2, pin_prompt=False),
    "snapkv": SnapKV(12),
    "snapkv, every token, not pooled": SnapKV(0.65, refresh=1, window=2, pool=1),
    "snapkv, every 3 tokens, prompt not pinned": SnapKV(9, refresh=3, window=3, pool=3, pin_prompt=False),
    "line-ar": LineAR(12, anchors=2),
    "line-ar of a share, every token": LineAR(0.6, refresh=1, anchors=1, recent=2),
    "line-ar, every 2 tokens, no anchors": LineAR(10, refresh=2, anchors=0, recent=1),
    "adsa": ADSA(13, recent=3),
    "adsa of a share, every token": ADSA(0.7, refresh=1, recent=3),
    "adsa, every 3 tokens, prompt not pinned": ADSA(11, refresh=3, pin_prompt=False),
    "adsa, offloaded, every 2 tokens": ADSA(9, refresh=2, recent=2, offload=True),
    "adsa of a share, offloaded, every token": ADSA(0.6, refresh=1, recent=2, offload=True),
    "adsa, offloaded, every 3 tokens, prompt not pinned": ADSA(7, refresh=3, recent=2, pin_prompt=False, offload=True),
    "headkv": HeadKV(11, type_at=9, local=3),
    "headkv of a share, every 2 tokens": HeadKV(0.65, type_at=8, local=2, refresh=2, mass=0.8, split=0.6),
    "headkv, all heads global": HeadKV(10, type_at=7, local=1),
    "headkv, more at first than in the end": HeadKV(9, type_at=11, local=3, refresh=1),
}


def in_int8(x: Tensor) -> Tensor:
    most = x.abs().amax(-1, keepdim=True).bfloat16().float()
    return (x / most * 127).round() * most / 127


def in_fp8(x: Tensor) -> Tensor:
    most = x.abs().amax(-1, keepdim=True).bfloat16().float()
    return (x / most * 448).to(torch.float8_e4m3fn).float() * most / 448


ROUNDED: dict[str, Rounding] = {"auto": as_it_is, "int8": in_int8, "fp8": in_fp8}  # by kv_dtype

EQUAL, UNEQUAL = ("ab", "cd"), ("", "cde")  # prompts of 4 and 4 tokens, of 2 and 5

each_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
FIXED = {name: policy for name, policy in POLICIES.items() if not isinstance(policy, Diagonal)}  # their steps can be
each_fixed_policy = pytest.mark.parametrize("policy", FIXED.values(), ids=FIXED.keys())
each_prompts = pytest.mark.parametrize("prompts", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
each_guidance = pytest.mark.parametrize("guidance", [1.0, 3.0], ids=["unguided", "guided"])
each_kv_heads = pytest.mark.parametrize("kv_heads", [4, 2], ids=["plain", "grouped"])
each_kv_dtype = pytest.mark.parametrize("kv_dtype", ["int8", "fp8"])
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])

SEED = 5
WARM = 6.0  # a temperature at which the random number decides; the tiny model is sure of itself
NO_PLAN = Memory(0, 0, 0, 0, 0, 0, 0, 0, 0, [], [], [], [])

OUT_OF_MEMORY = [  # as torch says it on CUDA, MPS, Linux and Windows
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:80] DefaultCPUAllocator: not enough memory: you tried to ..."),
]


@cache
def model_of(kv_heads: int = 4, dtype: torch.dtype = torch.float32) -> TinyModel:
    """The model that the table fits."""
    return tiny(kv_heads=kv_heads, dtype=dtype, **GRID)


def with_budget(policy: Policy, budget: int | float) -> Policy:
    """The policy with another budget; the full cache has none."""
    return policy if isinstance(policy, Full) else replace(cast(Any, policy), budget=budget)


def mean_slots(policy: Policy, geometry: Geometry, prompt: int) -> float:
    """Slots per head that a policy may use, as its budget reads."""
    budget = getattr(policy, "budget", 1.0)
    if isinstance(policy, Diagonal):  # whose budget is what it attends
        return prompt + policy.held * geometry.tokens
    return budget * (prompt + geometry.tokens) if isinstance(budget, float) else budget


@dataclass(frozen=True)
class Recorder(Sampling):
    """A sampling that remembers the logits it was given."""

    logits: list[Tensor] = field(default_factory=list)

    def next_tokens(self, logits: Tensor, uniform: Tensor) -> Tensor:
        self.logits.append(logits)
        return super().next_tokens(logits, uniform)


@dataclass(frozen=True)
class Drawn:
    """tokens int64 [images, grid tokens] and the logits each came from, float32 [grid tokens, rows, codebook].

    closest: as `naive_tokens` has it."""

    tokens: Tensor
    logits: Tensor
    closest: float = 1.0

    def like(self, other: Drawn) -> bool:
        """The same tokens, from logits that differ by no more than float32's rounding."""
        return self.tokens.equal(other.tokens) and torch.allclose(self.logits, other.logits, rtol=0, atol=1e-3)


def draw(
    model: ImageModel,
    policy: Policy,
    prompts: Sequence[str],
    guidance: float,
    images: int = 1,
    negative: str | None = None,
    seed: int = SEED,
    kv_dtype: str = "auto",
) -> Drawn:
    """What `generate` draws, without a plan and without pictures, which take longer here."""
    sampling = Recorder(guidance, WARM)
    rows = prompt_rows(model, prompts, images, negative, sampling)
    with torch.inference_mode():
        cache = prefill(model, policy.fit(model), rows, kv_dtype=kv_dtype)
        seeds = range(seed, seed + len(prompts) * images)
        turn = Turn(model, sampling, rows, loop.uniform_numbers(model, seeds))
        loop.draw_tokens(Step(turn, cache), NO_PLAN, Clock(model.device))
    return Drawn(turn.tokens, torch.stack(sampling.logits))


def naive(
    model: ImageModel,
    policy: Policy,
    prompts: Sequence[str],
    guidance: float,
    images: int = 1,
    negative: str | None = None,
    rounded: Rounding = as_it_is,
) -> Drawn:
    """The same, drawn by the naive reference, whose keys and values are kept `rounded`."""
    sampling = Recorder(guidance, WARM)
    rows = prompt_rows(model, prompts, images, negative, sampling)
    tokens, closest = naive_tokens(model, policy, rows, range(SEED, SEED + len(prompts) * images), sampling, rounded)
    return Drawn(tokens, torch.stack(sampling.logits), closest)


def watch(monkeypatch: pytest.MonkeyPatch, see: Callable[[SlotCache], object]) -> None:
    """Have the loop show its cache after every turn, or some at once."""
    plain, kernel = Turn.draw, TurnKernel.__call__

    def show(turn: Turn, cache: Attend) -> None:
        if not turn.x.is_meta:  # planning is not drawing
            see(cast(SlotCache, cache.cache if isinstance(cache, FixedCache) else cache))

    def draw(turn: Turn, cache: Attend) -> None:
        plain(turn, cache)
        show(turn, cache)

    def call(taken: TurnKernel, turns: int = 1) -> None:
        kernel(taken, turns)
        show(taken.turn, taken.cache)

    monkeypatch.setattr(Turn, "draw", draw)
    monkeypatch.setattr(TurnKernel, "__call__", call)


def tensors_of(holder: object) -> list[Tensor]:
    """Every tensor that slots, with their storage, or orders hold on to, whatever it is called; views of one tensor
    once."""
    values = [value for own in (holder, getattr(holder, "storage", None)) if own for value in vars(own).values()]
    held = [part for value in values for part in (value if isinstance(value, list) else [value])]
    tensors = [part for part in held if isinstance(part, Tensor)]
    return list({tensor.untyped_storage()._cdata: tensor for tensor in tensors}.values())


def storages_of(*holders: object) -> list[torch.UntypedStorage]:
    """The memory that their tensors lie in."""
    return [tensor.untyped_storage() for holder in holders for tensor in tensors_of(holder)]


def check_positions(slots: Slots) -> None:
    """No token twice, none lost among the pinned, the newest there, and as many as there is room for."""
    positions, newest = slots.positions(), slots.stored - 1
    assert positions.shape == (slots.kv.shape[1], min(slots.stored, slots.keep.slots))
    assert (positions.sort(1).values.diff(dim=1) > 0).all()
    assert (positions.amin(1) >= 0).all()
    assert (positions.amax(1) == newest).all()
    pinned = min(slots.keep.pinned, slots.stored)
    assert ((positions < pinned).sum(1) == pinned).all()


def check_sentence(error: BaseException) -> None:
    """One sentence that can be shown as it is."""
    text = str(error)
    assert text.endswith(".")
    assert not {"\n", "None", "nan"} & {text, *text.split()}
    assert "  " not in text
    assert ". " not in text
    assert len(text) < 300
