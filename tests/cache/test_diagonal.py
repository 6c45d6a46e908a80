from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_core.cache.diagonal import DiagonalSlots
from ssd_core.cache.storage import Storage
from ssd_core.policies import Diagonal, Keep
from tests.naive import NaiveHead
from tests.table import check_positions

DIM, GROUP, COUNT = 4, 2, 3


@settings(max_examples=60)
@given(
    pinned=st.integers(0, 3),
    attended=st.integers(2, 6),
    skipped=st.integers(1, 6),
    fed=st.integers(0, 3),
    steps=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_each_head_skips_the_distances_that_it_attended_least(
    pinned: int, attended: int, skipped: int, fed: int, steps: int, seed: int
) -> None:
    keep = Keep(pinned + attended + skipped, pinned, attended=pinned + attended)
    random, prompt = torch.Generator().manual_seed(seed), max(pinned - fed, 0)
    keys, values = torch.randn(2, COUNT, prompt + steps, DIM, generator=random)
    queries = 3 * torch.randn(COUNT, prompt + steps, GROUP, DIM, generator=random)
    slots = DiagonalSlots(keep, Storage(COUNT, keep.slots, DIM, torch.float32, "cpu"), torch.float32)
    slots.fill(keys[:, :prompt], values[:, :prompt])
    heads = [NaiveHead(keep, Diagonal(), 5, 0, 1.0) for _ in range(COUNT)]
    for head, k, v in zip(heads, keys, values, strict=True):
        head.remember(k[:prompt], v[:prompt])
    for at in range(prompt, prompt + steps):
        answer = torch.empty(COUNT, GROUP, DIM)
        slots.attend(queries[:, at], torch.stack([keys[:, at], values[:, at]]), answer)
        check_positions(slots)
        for pair, head in enumerate(heads):
            head.come(keys[pair, at], values[pair, at])
            torch.testing.assert_close(answer[pair], head.answer(queries[pair, at]), rtol=0, atol=1e-5)
            assert len(head.skipped) == min(max(len(head.alive) - keep.attended + 1, 0), skipped)
            assert 0 not in head.skipped
    # what the slots skip from the newest token is what the reference skips, wherever the ring has come to
    chosen = (slots.bias.view(COUNT, 2, slots.ring) == -torch.inf).tolist()
    for (once, again), head in zip(chosen, heads, strict=True):
        assert once == again
        assert {slots.ring - 1 - place for place, skips in enumerate(once) if skips} == head.skipped


def test_bytes_are_those_of_the_tensors() -> None:
    keep = Keep(9, 2, attended=5)
    slots = DiagonalSlots(keep, Storage(COUNT, 9, DIM, torch.bfloat16, "cpu"), torch.bfloat16)
    assert slots.kv_bytes == 2 * COUNT * 9 * DIM * 2
    assert slots.bookkeeping_bytes == COUNT * 2 * 7 * 2
