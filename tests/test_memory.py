from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from ssd_core import ADSA, SSD, Full, HeadKV, Policy, UserError, Window, generate, largest_batch, plan
from ssd_core import memory as planning
from ssd_core.memory import (
    SOME,
    Memory,
    PeakBytes,
    decoding_bytes,
    encoding_bytes,
    full_bytes,
    growing,
    most_images,
    peak_bytes,
    plan_rows,
)
from ssd_core.models.base import Geometry
from ssd_core.sampling import Sampling
from tests.table import GRID, POLICIES, check_sentence, each_policy
from tests.tiny import TinyModel, random_map, tiny

PRO_1B = Geometry(24, 16, 16, 128, 24, 24, 16384)
PRO_7B = Geometry(30, 32, 32, 128, 24, 24, 16384)


@pytest.mark.parametrize(("geometry", "per_token"), [(PRO_1B, 196_608), (PRO_7B, 491_520)])
def test_a_full_cache_costs_what_janus_pro_s_does(geometry: Geometry, per_token: int) -> None:
    # a picture takes two rows of 24 prompt tokens and 575 image tokens: the last is never fed back
    assert full_bytes(geometry, [24, 24], torch.bfloat16) == 2 * (24 + 575) * per_token
    assert full_bytes(geometry, [24], torch.float32) == (24 + 575) * 2 * per_token
    assert full_bytes(geometry, [10, 30], torch.bfloat16) == (10 + 30 + 2 * 575) * per_token


def test_grouped_queries_keep_fewer_keys() -> None:
    grouped = Geometry(24, 16, 4, 128, 24, 24, 16384)
    assert full_bytes(grouped, [24], torch.bfloat16) * 4 == full_bytes(PRO_1B, [24], torch.bfloat16)


@pytest.mark.parametrize("budget", [120, 0.2])
def test_a_fifth_of_the_budget_is_a_fifth_of_the_bytes(budget: int | float) -> None:
    shallow = replace(PRO_1B, layers=8)
    model, per_token = TinyModel(shallow, torch.bfloat16, "meta"), 196_608 * 8 // 24
    for policy in (Window(budget), SSD(budget, head_map=random_map(shallow))):
        memory = plan(model, policy, images=3, prompt=24)
        assert memory.kv_bytes_full == 6 * 599 * per_token
        # whole slots a head: less than one of 120 is left over
        assert 6 * 119 * per_token < memory.kv_bytes <= 6 * 120 * per_token
        assert memory.bookkeeping_bytes < 0.02 * memory.kv_bytes


@pytest.mark.parametrize("kv_dtype", ["int8", "fp8"])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_a_fifth_in_a_byte_a_number_is_at_most_11_hundredths(head_dim: int, kv_dtype: str) -> None:
    geometry = replace(PRO_1B, layers=4, head_dim=head_dim)
    model = TinyModel(geometry, torch.bfloat16, "meta")
    for policy in (Window(0.2), SSD(0.2, head_map=random_map(geometry))):
        plain, small = (plan(model, policy, images=2, kv_dtype=kind) for kind in ("auto", kv_dtype))
        assert 0.1 < small.kv_bytes / small.kv_bytes_full <= 0.11
        assert small.kv_bytes * 2 * head_dim == plain.kv_bytes * (head_dim + 2)
        assert (small.kv_bytes_full, small.slots) == (plain.kv_bytes_full, plain.slots)
        assert small.kv_bytes_by_row[-1] == small.kv_bytes
        # room to read one layer's keys, or its values
        room = small.bookkeeping_bytes - plain.bookkeeping_bytes
        largest = max(sum(slots for slots in layer) for layer in plain.slots) * 4 * head_dim * 2
        assert 0 < room <= largest


@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
def test_what_is_offloaded_is_the_host_s_and_takes_little_of_the_device(kv_dtype: str) -> None:
    model = TinyModel(PRO_1B, torch.bfloat16, "meta")
    plain, offloaded = (plan(model, ADSA(0.2, offload=offload), 2, kv_dtype=kv_dtype) for offload in (False, True))
    assert (plain.host_bytes, offloaded.kv_bytes) == (0, plain.kv_bytes)
    assert offloaded.bookkeeping_bytes == plain.bookkeeping_bytes
    a_token = {"auto": 2 * 128, "int8": 128 + 2}[kv_dtype]  # of a head's keys, or values
    assert offloaded.host_bytes == 4 * 575 * 24 * 16 * 2 * a_token  # four rows, image tokens alone
    assert "host_bytes" in offloaded.as_dict()
    # one layer's values of all tokens, and of the chosen ones, for a moment; a ranking takes no more than before
    values = 4 * 575 * 16 * a_token
    assert values < offloaded.step_bytes < plain.step_bytes + 1.5 * values
    assert offloaded.peak_bytes < plain.peak_bytes + 0.04 * plain.kv_bytes_full


def test_more_slots_than_tokens_offload_nothing() -> None:
    model = tiny(**GRID)
    assert plan(model, ADSA(1.0, offload=True)) == plan(model, ADSA(1.0))


def test_a_kv_dtype_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="not 'int4'") as refusal:
        plan(tiny(), kv_dtype="int4")
    check_sentence(refusal.value)
    with pytest.raises(UserError, match="not 'int4'"):
        largest_batch(tiny(), None, 10**9, kv_dtype="int4")
    with pytest.raises(UserError, match="not 'int4'"):
        generate(tiny(), ["ab"], kv_dtype="int4")


def test_more_pictures_fit_in_a_smaller_precision() -> None:
    model = tiny(**GRID)
    by_kind = [largest_batch(model, Window(25), 2_000_000, kv_dtype=kind) for kind in ("auto", "int8")]
    assert by_kind[0] < by_kind[1]
    peak = plan(model, Window(25), by_kind[1], kv_dtype="int8").peak_bytes
    assert peak <= 2_000_000 < plan(model, Window(25), by_kind[1] + 1, kv_dtype="int8").peak_bytes


def one_by_one(memory: Memory) -> Memory:
    """The same, but that pictures are painted as on the processor."""
    assert memory.pictures_at_once > 1
    return replace(memory, pictures_at_once=1, picture_bytes=memory.picture_bytes // memory.pictures_at_once)


@pytest.mark.parametrize("policy", [None, POLICIES["ssd"]], ids=["full", "ssd"])
def test_a_plan_allocates_nothing_and_reads_no_weight(policy: Policy | None) -> None:
    on_meta, real = TinyModel(tiny(**GRID).geometry, device="meta"), tiny(**GRID)
    memory = plan(on_meta, policy, images=100_000, prompt=4)
    assert memory.kv_bytes > 4e8
    assert one_by_one(memory) == plan(real, policy, images=100_000, prompt=4, step="plain")


@each_policy
def test_bytes_grow_with_images_rows_and_width(policy: Policy) -> None:
    model = tiny(**GRID)
    one, three = (plan(model, policy, images, prompt=4) for images in (1, 3))
    alone, wide = plan(model, policy, 1, 4, guidance=1.0), plan(tiny(dtype=torch.bfloat16, **GRID), policy, 1, 4)
    assert (three.kv_bytes, three.bookkeeping_bytes) == (3 * one.kv_bytes, 3 * one.bookkeeping_bytes)
    assert (2 * alone.kv_bytes, 2 * wide.kv_bytes) == (one.kv_bytes, one.kv_bytes)
    slots = [[keep.slots for keep in layer] for layer in policy.keeps(model.geometry, 4)]
    if isinstance(policy, HeadKV):  # before heads are typed all are planned for as if global
        slots = [[policy.choices(model.geometry, 4)[-1].slots] * 4] * 2
    assert one.slots == three.slots == slots
    assert sum(map(sum, one.slots)) * 2 * 2 * 8 * 4 == one.kv_bytes  # two rows, keys and values of 8 floats


def test_the_peak_is_the_larger_of_drawing_and_painting() -> None:
    memory = plan(tiny(**GRID), images=4)
    drawing = memory.kv_bytes + memory.bookkeeping_bytes + max(memory.prefill_bytes, memory.step_bytes)
    assert memory.peak_bytes == memory.weights_bytes + max(drawing, memory.picture_bytes)
    assert memory.picture_bytes <= memory.kv_bytes + memory.bookkeeping_bytes
    assert json.loads(json.dumps(memory.as_dict()))["peak_bytes"] == memory.peak_bytes


def test_pictures_are_painted_one_by_one_where_the_cache_leaves_no_room_for_more() -> None:
    big = Geometry(1, 1, 1, 8, 30, 30, 20)
    memory = plan(TinyModel(big, device="meta"), Window(2, pin_prompt=False), images=2)
    assert memory.pictures_at_once == 1
    assert memory.peak_bytes == memory.weights_bytes + memory.picture_bytes


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("policy", [None, POLICIES["ssd"]], ids=["full", "ssd"])
def test_the_largest_batch_fits_and_the_next_does_not(policy: Policy | None, guidance: float) -> None:
    model = tiny(**GRID)

    def peak(images: int) -> int:
        return plan(model, policy, images, 4, guidance).peak_bytes

    for images in (1, 2, 300):
        assert largest_batch(model, policy, peak(images), 4, guidance) == images
        assert largest_batch(model, policy, peak(images) - 1, 4, guidance) == images - 1


@each_policy
def test_what_many_images_take_is_known_from_two_plans(policy: Policy) -> None:
    model = tiny(**GRID)

    def planned(images: int) -> Memory:
        return plan(model, policy, images, 4)

    grown = growing(planned)
    for images in (SOME, 90):
        assert grown(images).drawing_bytes == planned(images).drawing_bytes
    assert most_images(planned, planned(90).drawing_bytes) == 90
    assert most_images(grown, planned(90).drawing_bytes - 1) == 89
    assert most_images(grown, 0) == 1
    bent = growing(planned, (1, SOME))  # what prompts take is outgrown between the two
    for images in (1, 2, 90):
        assert bent(images).drawing_bytes == planned(images).drawing_bytes


def test_more_memory_or_a_smaller_budget_never_draw_fewer() -> None:
    model = tiny(**GRID)
    by_memory = [largest_batch(model, None, free) for free in (0, 100_000, 200_000, 10_000_000)]
    assert by_memory == sorted(by_memory)
    assert (by_memory[0], by_memory[-1] > 100) == (0, True)
    by_budget = [largest_batch(model, Window(budget), 2_000_000) for budget in (25, 30, 1000)]
    assert by_budget[0] > by_budget[1] > by_budget[2] == largest_batch(model, Full(), 2_000_000)


def test_a_picture_that_takes_more_than_its_cache_counts_too() -> None:
    model, policy = TinyModel(Geometry(1, 1, 1, 8, 30, 30, 20), device="meta"), Window(2, pin_prompt=False)
    one = plan(model, policy)
    assert one.picture_bytes > one.drawing_bytes - one.weights_bytes
    assert largest_batch(model, policy, one.peak_bytes) >= 1
    assert largest_batch(model, policy, one.peak_bytes - 1) == 0


def test_previews_are_made_while_the_cache_is_held() -> None:
    model, policy = TinyModel(Geometry(1, 1, 1, 8, 30, 30, 20), device="meta"), Window(2, pin_prompt=False)
    without, shown = plan(model, policy), plan(model, policy, previews=True)
    assert (without.preview_bytes, shown.preview_bytes) == (0, decoding_bytes(model))
    assert shown.peak_bytes == shown.weights_bytes + shown.kv_bytes + shown.bookkeeping_bytes + shown.preview_bytes
    assert shown.peak_bytes > without.peak_bytes
    assert largest_batch(model, policy, shown.peak_bytes, previews=True) == 1
    assert largest_batch(model, policy, shown.peak_bytes - 1, previews=True) == 0
    drawn = generate(tiny(), ["ab"], previews=True)
    assert drawn.memory == plan(tiny(), prompt="ab", previews=True)


def test_what_was_planned_is_known_until_something_of_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, planned = tiny(), []

    def counted(*given: object) -> Memory:
        planned.append(given)
        return Memory(len(planned), 0, 0, 0, 0, 0, 0, 0, 0, [], [], [], [])

    monkeypatch.setattr(planning, "_plan_rows", counted)
    rows, alike, other = [[1, 2, 3]] * 2, [[1, 4, 3]] * 2, [[1, 2, 3], [1, 4, 3]]
    guided = Sampling()
    first = plan_rows(model, Window(12), rows, guided)
    assert plan_rows(model, Window(12), alike, guided) is first  # other words, as many
    changed = [
        plan_rows(model, Window(13), rows, guided),
        plan_rows(model, Window(12), other, guided),  # two prompts to read instead of one
        plan_rows(model, Window(12), [[1, 2, 3, 4]] * 2, guided),
        plan_rows(model, Window(12), rows * 2, guided),
        plan_rows(model, Window(12), rows, Sampling(1.0)),
        plan_rows(model, Window(12), rows, guided, previews=True),
        plan_rows(model, Window(12), rows, guided, kv_dtype="int8"),
        plan_rows(tiny(), Window(12), rows, guided),
        plan_rows(model.to(torch.bfloat16), Window(12), rows, guided),
    ]
    assert [each.kv_bytes for each in changed] == list(range(2, 11))
    for budget in range(20, 20 + planning.MOST_PLANS):
        plan_rows(model, Window(budget), rows, guided)
    assert len(planning.PLANS[model]) <= planning.MOST_PLANS


def test_a_plan_counts_a_longer_negative_prompt() -> None:
    model = tiny()
    drawn = generate(model, ["ab"], negative="abcdefghi", images_per_prompt=2)
    assert drawn.memory == plan(model, None, 2, "ab", negative="abcdefghi")
    assert drawn.memory.kv_bytes > plan(model, None, 2, "ab").kv_bytes


@pytest.mark.parametrize(("images", "prompt_tokens"), [(0, 24), (-1, 24), (1, 1), (1, 0)])
def test_a_plan_of_nothing_is_refused(images: int, prompt_tokens: int) -> None:
    with pytest.raises(UserError, match=f"not {images} and {prompt_tokens}") as refusal:
        plan(tiny(), images=images, prompt=prompt_tokens)
    check_sentence(refusal.value)


def test_the_counter_counts_storage_once_and_while_it_lives() -> None:
    before = torch.zeros(100)
    with PeakBytes() as counter:
        kept = torch.zeros(10)  # 40 bytes
        view, _ = kept.view(2, 5), before[:5]
        kept.add_(1)
        before.mul_(2)
        assert (counter.live, counter.peak) == (40, 40)
        more = kept + 1  # 40 more
        del more
        assert (counter.live, counter.peak) == (40, 80)
        del kept
        assert counter.live == 40  # the view holds it
        del view
    assert (counter.live, counter.peak) == (0, 80)


def test_reading_and_painting_a_picture_take_what_was_said() -> None:
    model = tiny(**GRID)
    tokens = torch.zeros(1, model.geometry.tokens, dtype=torch.int64)
    pixels = model.decode_image(tokens)
    assert 0 < decoding_bytes(model) == peak_bytes(lambda: model.decode_image(tokens.clone()))
    assert 0 < encoding_bytes(model) == peak_bytes(lambda: model.encode_image(pixels.clone()))
    assert plan(model).picture_bytes == decoding_bytes(model)
