"""What must always be true, over the table policy x dtype x prompts x guidance x grouped queries."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

import ssd_core
from ssd_core import ADSA, SSD, Full, HeadKV, Memory, Policy, StreamingLLM, Window, generate
from ssd_core.cache.cache import SlotCache
from ssd_core.cache.growing import GrowingSlots
from ssd_core.cache.offloaded import OffloadedSlots
from ssd_core.clock import Clock
from ssd_core.loop import GREY, draw_tokens, uniform_numbers
from ssd_core.memory import PeakBytes, counted, plan_rows
from ssd_core.models.decoder import TABLE
from ssd_core.prompts import prompt_rows
from ssd_core.sampling import Sampling, streams
from ssd_core.step import prefill
from ssd_core.tokens import UNDRAWN
from ssd_core.turn import Step, Turn
from tests.table import (
    EQUAL,
    HEADS,
    NO_PLAN,
    POLICIES,
    ROUNDED,
    SEED,
    UNEQUAL,
    WARM,
    Drawn,
    check_positions,
    draw,
    each_dtype,
    each_guidance,
    each_kv_dtype,
    each_kv_heads,
    each_policy,
    each_prompts,
    mean_slots,
    model_of,
    naive,
    storages_of,
    tensors_of,
    watch,
    with_budget,
)


@cache
def whole(kv_heads: int, dtype: torch.dtype, prompts: Sequence[str], guidance: float) -> Drawn:
    """What the full cache draws."""
    return draw(model_of(kv_heads, dtype), Full(), prompts, guidance)


@each_kv_heads
@each_guidance
@each_prompts
@each_dtype
@each_policy
def test_a_budget_of_the_whole_draws_what_the_full_cache_draws(
    policy: Policy, dtype: torch.dtype, prompts: Sequence[str], guidance: float, kv_heads: int
) -> None:
    model = model_of(kv_heads, dtype)
    longest = max(len(model.encode(prompt)) for prompt in prompts)
    budget = 1.0 if guidance == 1 else model.geometry.cached_tokens(longest)
    drawn = draw(model, with_budget(policy, budget), prompts, guidance)
    assert drawn.tokens.equal(whole(kv_heads, dtype, prompts, guidance).tokens)


@each_policy
def test_the_table_s_budgets_drop_tokens_that_matter(policy: Policy) -> None:
    drawn = draw(model_of(), policy, UNEQUAL, 3.0)
    assert drawn.like(whole(4, torch.float32, UNEQUAL, 3.0)) == isinstance(policy, Full)


@pytest.mark.parametrize("name", [name for name in POLICIES if "offloaded" in name])
def test_what_may_come_back_changes_the_picture(name: str) -> None:
    policy = POLICIES[name]
    assert isinstance(policy, ADSA)
    assert policy.offload
    blind = replace(policy, offload=False)
    assert not draw(model_of(), policy, UNEQUAL, 3.0).like(draw(model_of(), blind, UNEQUAL, 3.0))


@each_kv_heads
@each_guidance
@each_prompts
@each_policy
def test_tokens_are_those_of_keeping_everything_and_masking_what_was_dropped(
    policy: Policy, prompts: Sequence[str], guidance: float, kv_heads: int
) -> None:
    model = model_of(kv_heads)
    assert draw(model, policy, prompts, guidance).like(naive(model, policy, prompts, guidance))


@each_kv_dtype
@each_policy
def test_tokens_are_those_of_rounding_keys_and_values_as_they_come(policy: Policy, kv_dtype: str) -> None:
    model = model_of(2)
    drawn = draw(model, policy, UNEQUAL, 3.0, kv_dtype=kv_dtype)
    assert drawn.like(naive(model, policy, UNEQUAL, 3.0, rounded=ROUNDED[kv_dtype]))
    assert not drawn.like(draw(model, policy, UNEQUAL, 3.0))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize(
    "policy",
    [
        Window(5, pin_prompt=False),
        StreamingLLM(6, sinks=2),
        SSD(8, refresh=1, pin_prompt=False, head_map=HEADS),
        SSD(8, pin_prompt=False, head_map=HEADS),
        SSD(6, literal=True, head_map=HEADS),
        SSD(6, refresh=5, literal=True, head_map=HEADS),
        ADSA(6, refresh=4, recent=1, pin_prompt=False, offload=True),
    ],
    ids=[
        "window",
        "streaming",
        "ssd, every token",
        "ssd",
        "ssd, literal",
        "ssd, literal, every 5 tokens",
        "adsa, offloaded",
    ],
)
def test_a_prompt_may_be_longer_than_the_slots(
    policy: Policy, guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompts = model_of(), ["abcdefghijklmno", "ab"]

    def see(cache: SlotCache) -> None:
        for layer in cache.layers:
            for slots in layer:
                check_positions(slots)

    watch(monkeypatch, see)
    assert draw(model, policy, prompts, guidance).like(naive(model, policy, prompts, guidance))


@each_kv_heads
@each_prompts
@each_policy
def test_never_more_slots_than_the_budget(
    policy: Policy, prompts: Sequence[str], kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, guidance = model_of(kv_heads), 3.0
    geometry = model.geometry
    lengths = [len(ids) for ids in prompt_rows(model, prompts, 1, None, Sampling(guidance))]
    seen = 0

    def see(cache: SlotCache) -> None:
        nonlocal seen
        held = torch.zeros(len(lengths), dtype=torch.int64)  # slots of each row, over layers and heads
        for groups, layer in zip(cache.groups, cache.layers, strict=True):
            for group, slots in zip(groups, layer, strict=True):
                size = slots.kv.shape[2]
                assert slots.kv.shape == (2, len(group.pairs), size, geometry.head_dim)
                rows = torch.tensor(group.pairs) // kv_heads
                held.index_add_(0, rows, torch.tensor(size).expand(len(rows)))
                allowed = mean_slots(policy, geometry, group.prompt)
                if isinstance(slots, GrowingSlots):  # everything, until heads are typed
                    assert isinstance(policy, HeadKV)
                    allowed = slots.keep.slots
                    assert policy.replan_at(geometry, group.prompt) == allowed >= slots.stored
                assert size <= geometry.cached_tokens(group.prompt)
                if slots.keep.role == "spatial":
                    assert size <= max(allowed, slots.keep.pinned + geometry.columns + 1)
                elif slots.keep.role not in ("semantic", "near", "far"):  # of these the mean is bounded, below
                    assert size <= allowed
                assert slots.stored == group.prompt + seen
                check_positions(slots)
                # nothing waits elsewhere: whatever slots hold on to is counted
                kept = sum(tensor.untyped_storage().nbytes() for tensor in tensors_of(slots))
                assert kept == slots.kv_bytes + slots.bookkeeping_bytes + slots.host_bytes
        heads = geometry.layers * kv_heads
        assert cache.grows or all(
            row <= heads * mean_slots(policy, geometry, length) for row, length in zip(held, lengths, strict=True)
        )
        seen += 1

    watch(monkeypatch, see)
    draw(model, policy, prompts, guidance)
    assert seen == geometry.tokens


@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
@each_guidance
@each_prompts
@each_policy
def test_the_plan_is_what_is_counted(policy: Policy, prompts: Sequence[str], guidance: float, kv_dtype: str) -> None:
    # bfloat16 with guidance, so that half of the cases tell bytes from counts
    model = model_of(4, torch.bfloat16 if guidance != 1 else torch.float32)
    sampling, images = Sampling(guidance), 2 * len(prompts)
    rows, seeds = prompt_rows(model, prompts, 2, None, sampling), list(range(images))
    planned = plan_rows(model, policy, rows, sampling, kv_dtype=kv_dtype)
    model.decoder.rope.reserve(100, model.device, model.dtype)  # the model's, not the drawing's

    def on_host(cache: SlotCache) -> int:
        """Bytes of what is kept for policies that recall."""
        slots = [slots for layer in cache.layers for slots in layer if isinstance(slots, OffloadedSlots)]
        return sum(part.nbytes for own in slots for part in own.host)

    def count(cache: SlotCache) -> tuple[int, int]:
        """Bytes of keys and values, and of all that is held."""
        slots = [slots for layer in cache.layers for slots in layer]
        parts = (*slots, *set(cache.orders), cache.orders[0].room)
        # by what holds them, for slots share the room in which they read small precisions
        held = sum({own._cdata: own.nbytes() for own in storages_of(*parts)}.values())
        return sum(part.nbytes for own in slots for part in own.storage.parts), held

    # the processor is its own host, so that what this keeps is held in the same memory, all the time
    host = planned.host_bytes
    assert (host > 0) == (isinstance(policy, ADSA) and policy.offload)
    with torch.inference_mode(), PeakBytes() as counter:
        cache = prefill(model, policy, rows, kv_dtype=kv_dtype)
        assert cache.host_bytes == host == on_host(cache)
        prefill_peak, counter.peak = counter.peak, counter.live
        at_first = count(cache)[1]
        turn = Turn(model, sampling, rows, uniform_numbers(model, seeds))
        draw_tokens(Step(turn, cache), planned, Clock(model.device))
        drawing_peak = counter.peak
        kv_bytes, held = count(cache)
        memory = counted(planned, cache)
        cache.free()
        del turn
        assert counter.live == 0
        counter.peak = 0
        model.decode_image(torch.zeros(1, model.geometry.tokens, dtype=torch.int64))
        picture_peak = counter.peak
    assert (memory.kv_bytes, memory.kv_bytes + memory.bookkeeping_bytes) == (kv_bytes, held - host)
    assert at_first + planned.prefill_bytes == prefill_peak
    most = max(planned.kv_bytes + planned.bookkeeping_bytes + planned.step_bytes, planned.replan_bytes) + host
    if not isinstance(policy, HeadKV) or policy.local == 1:  # no head is local, the worst that was planned for
        assert memory == planned
        assert drawing_peak == most
    else:
        assert drawing_peak <= most
        assert memory.kv_bytes < planned.kv_bytes
        assert memory.bookkeeping_bytes <= planned.bookkeeping_bytes
    assert planned.picture_bytes == planned.pictures_at_once * picture_peak
    parameters = sum(part.nbytes for part in model.parameters())
    assert max(map(len, rows)) + model.geometry.tokens <= TABLE
    rope = 2 * TABLE * model.geometry.head_dim * model.dtype.itemsize
    assert planned.weights_bytes == parameters + rope


@each_prompts
@each_policy
def test_the_bytes_of_each_row_are_those_of_the_filled_slots(
    policy: Policy, prompts: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, guidance = model_of(), 3.0
    rows = prompt_rows(model, prompts, 1, "xyz", Sampling(guidance))
    planned = plan_rows(model, policy, rows, Sampling(guidance))
    full = plan_rows(model, Full(), rows, Sampling(guidance))
    filled: list[int] = []
    memory = planned

    def see(cache: SlotCache) -> None:
        nonlocal memory
        memory = counted(planned, cache)
        layers = [slots for layer in cache.layers for slots in layer]
        filled.append(sum(slots.kv[:, :, : slots.held].numel() * slots.kv.itemsize for slots in layers))

    watch(monkeypatch, see)
    draw(model, policy, prompts, guidance, negative="xyz")
    columns = model.geometry.columns
    assert memory.kv_bytes_by_row[1:] == filled[columns - 1 :: columns]
    assert all(now <= most for now, most in zip(memory.kv_bytes_by_row, planned.kv_bytes_by_row, strict=True))
    assert planned.kv_bytes_by_row[0] <= planned.kv_bytes_full_by_row[0] < planned.kv_bytes_full_by_row[-1]
    assert planned.kv_bytes_by_row[-1] == planned.kv_bytes
    assert memory.kv_bytes_by_row[-1] == memory.kv_bytes
    assert planned.kv_bytes_full_by_row == full.kv_bytes_full_by_row == full.kv_bytes_by_row
    assert planned.kv_bytes_full_by_row[-1] == planned.kv_bytes_full


@pytest.mark.parametrize("kv_dtype", ["auto", "fp8"])
@each_policy
def test_what_a_drawing_reports_is_what_plan_says(policy: Policy, kv_dtype: str) -> None:
    model = model_of()
    drawn = generate(model, EQUAL, policy, images_per_prompt=2, guidance=3.0, kv_dtype=kv_dtype)
    planned = ssd_core.plan(model, policy, images=4, prompt=4, guidance=3.0, kv_dtype=kv_dtype)
    # plan runs one prompt, the drawing two
    assert planned.prefill_bytes <= drawn.memory.prefill_bytes
    for name in ("kv_bytes", "kv_bytes_full", "bookkeeping_bytes", "step_bytes", "picture_bytes", "slots"):
        own, most = getattr(drawn.memory, name), getattr(planned, name)
        assert own == most or (isinstance(policy, HeadKV) and own <= most)
    if isinstance(policy, HeadKV) and policy.local != 1:
        assert drawn.memory.kv_bytes < planned.kv_bytes


@each_guidance
@each_policy
def test_an_image_is_the_same_alone_and_in_any_batch(policy: Policy, guidance: float) -> None:
    model, prompts = model_of(), ("", "cde", "ab")
    together = draw(model, policy, prompts, guidance)
    for k, prompt in enumerate(prompts):
        alone = draw(model, policy, [prompt], guidance, seed=SEED + k)
        assert alone.tokens[0].equal(together.tokens[k])
    pair = draw(model, policy, prompts[:1], guidance, images=2)
    assert pair.tokens[0].equal(together.tokens[0])
    assert not pair.tokens[0].equal(pair.tokens[1])
    assert pair.tokens[1].equal(draw(model, policy, prompts[:1], guidance, seed=SEED + 1).tokens[0])


@each_policy
def test_a_negative_prompt_of_another_length_changes_no_neighbour(policy: Policy) -> None:
    model = model_of()
    together = draw(model, policy, UNEQUAL, 3.0, negative="xy")
    for k, prompt in enumerate(UNEQUAL):
        alone = draw(model, policy, [prompt], 3.0, negative="xy", seed=SEED + k)
        assert alone.tokens[0].equal(together.tokens[k])
    assert [len(ids) for ids in prompt_rows(model, UNEQUAL, 1, "xy", Sampling())] == [2, 5, 4, 4]
    assert together.like(naive(model, policy, UNEQUAL, 3.0, negative="xy"))


def test_generate_draws_its_images_in_order_each_with_its_seed() -> None:
    model, policy = model_of(), SSD(12, head_map=HEADS)
    together = generate(model, UNEQUAL, policy, images_per_prompt=2, seed=SEED, temperature=WARM)
    assert together.seeds == [SEED, SEED + 1, SEED + 2, SEED + 3]
    for k, seed in enumerate(together.seeds):
        alone = generate(model, [UNEQUAL[k // 2]], policy, seed=seed, temperature=WARM)
        assert alone.tokens[0].equal(together.tokens[k])
        assert alone.images[0].equal(together.images[k])


@each_dtype
def test_random_numbers_depend_on_the_seed_alone(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    model, plain, seen = model_of(4, dtype), Sampling.next_tokens, []

    def spy(sampling: Sampling, logits: Tensor, uniform: Tensor) -> Tensor:
        seen.append(uniform)
        return plain(sampling, logits, uniform)

    monkeypatch.setattr(Sampling, "next_tokens", spy)
    rows = prompt_rows(model, UNEQUAL, 1, None, Sampling())
    with torch.inference_mode():
        turn = Turn(model, Sampling(), rows, uniform_numbers(model, [9, 7]))
        draw_tokens(Step(turn, prefill(model, Full(), rows)), NO_PLAN, Clock(model.device))
    assert torch.stack(seen, 1).equal(torch.stack([streams([seed], model.geometry.tokens)[0] for seed in (9, 7)]))


def test_seeds_go_round_at_64_bits() -> None:
    model = model_of()
    drawn = generate(model, ["ab"], images_per_prompt=2, seed=2**64 - 1, temperature=WARM)
    assert drawn.seeds == [2**64 - 1, 0]
    assert drawn.tokens[1:].equal(generate(model, ["ab"], seed=0, temperature=WARM).tokens)
    assert drawn.tokens[:1].equal(generate(model, ["ab"], seed=-1, temperature=WARM).tokens)


@pytest.mark.parametrize(("guidance", "rows"), [(1.0, 3), (0.0, 6), (3.0, 6)])
def test_guidance_of_1_runs_one_row_an_image(guidance: float, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs: set[int] = set()
    watch(monkeypatch, lambda cache: pairs.update(slots.kv.shape[1] for layer in cache.layers for slots in layer))
    drawn = generate(model_of(), ["ab"], images_per_prompt=3, guidance=guidance)
    assert pairs == {4 * rows}
    assert drawn.memory.kv_bytes == rows * ssd_core.plan(model_of(), prompt=4, guidance=1.0).kv_bytes


@pytest.mark.parametrize(
    "policy", [Full(), SSD(12, head_map=HEADS), HeadKV(10, type_at=7, local=3)], ids=["full", "ssd", "headkv"]
)
@pytest.mark.parametrize("stop", [True, False], ids=["stopped", "failed"])
def test_whatever_ends_a_drawing_gives_the_slots_back(
    stop: bool, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors: list[weakref.ref[Tensor]] = []
    newest: list[weakref.ref[Tensor]] = []

    def see(cache: SlotCache) -> None:
        held = [tensor for layer in cache.layers for slots in layer for tensor in tensors_of(slots)]
        newest[:] = [weakref.ref(tensor) for tensor in held]
        tensors.extend(newest)

    watch(monkeypatch, see)

    def on_row(row: int, tokens: Tensor, memory: Memory, *_: object) -> bool:
        assert all(tensor() is not None for tensor in newest)
        if row == 1 and not stop:
            raise InterruptedError
        return row == 1

    if stop:
        generate(model_of(), UNEQUAL, policy, on_row=on_row)
    else:
        with pytest.raises(InterruptedError) as held:
            generate(model_of(), UNEQUAL, policy, on_row=on_row)
        assert held.tb is not None
    assert tensors
    # at once, without the collector, and though the traceback of a failure is still held
    assert all(tensor() is None for tensor in tensors)


def test_a_stopped_drawing_is_the_start_of_a_whole_one() -> None:
    model, policy, calls = model_of(), SSD(12, head_map=HEADS), []

    def on_row(row: int, tokens: Tensor, memory: Memory, *_: object) -> bool:
        calls.append((row, tokens.clone(), memory))
        return row == 1

    whole = generate(model, UNEQUAL, policy, seed=SEED)
    part = generate(model, UNEQUAL, policy, seed=SEED, on_row=on_row)
    drawn, pixels = 2 * model.geometry.columns, 2 * 2  # a token is 2 pixels high
    assert part.tokens[:, :drawn].equal(whole.tokens[:, :drawn])
    assert (part.tokens[:, drawn:] == UNDRAWN).all()
    assert part.images[:, :pixels].equal(whole.images[:, :pixels])
    assert (part.images[:, pixels:] == GREY).all()
    assert [row for row, _, _ in calls] == [0, 1]
    for row, tokens, memory in calls:
        assert tokens.equal(whole.tokens[:, : (row + 1) * model.geometry.columns])
        assert memory == whole.memory
