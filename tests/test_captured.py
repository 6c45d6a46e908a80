"""What a captured step draws, beside the plain one."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import ssd_core
from ssd_core import (
    Diagonal,
    Full,
    HeadKV,
    Policy,
    Result,
    UserError,
    Window,
    captured,
    choice,
    generate,
    largest_batch,
    loop,
    plan,
)
from ssd_core.cache import fixed as fixed_module
from ssd_core.cache.cache import SlotCache
from ssd_core.cache.masked import MaskedCache
from ssd_core.captured import CapturedStep
from ssd_core.clock import Clock
from ssd_core.memory import PeakBytes, plan_rows
from ssd_core.models.base import ImageModel
from ssd_core.prompts import prompt_rows
from ssd_core.report import report
from ssd_core.sampling import Sampling
from ssd_core.step import prefill
from ssd_core.tokens import UNDRAWN
from ssd_core.turn import Step, Turn
from tests.graphs import Reads, StandIn, Tape, stand_in
from tests.table import (
    EQUAL,
    NO_PLAN,
    POLICIES,
    SEED,
    UNEQUAL,
    WARM,
    check_sentence,
    each_fixed_policy,
    each_guidance,
    each_kv_dtype,
    each_kv_heads,
    each_prompts,
    model_of,
    tensors_of,
)
from tests.tiny import TinyModel, tiny

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs take a CUDA device")
MIDDLE = 40  # of the operations of a turn


def drawn(
    kind: type[Step],
    model: ImageModel,
    policy: Policy,
    prompts: Sequence[str] = UNEQUAL,
    guidance: float = 3.0,
    kv_dtype: str = "auto",
    sampling: Sampling | None = None,
    kept: Tensor | None = None,
    **how: Any,
) -> tuple[Tensor, str]:
    """The tokens that a kind of step draws, and what it tells; without a plan and without pictures."""
    sampling = sampling or Sampling(guidance, WARM)
    rows = prompt_rows(model, prompts, 1, None, sampling)
    with torch.inference_mode():
        cache = prefill(model, policy.fit(model), rows, kv_dtype=kv_dtype)
        turn = Turn(model, sampling, rows, loop.uniform_numbers(model, range(SEED, SEED + len(prompts))), kept)
        with closing(kind(turn, cache)) as draw:
            loop.draw_tokens(draw, NO_PLAN, Clock(model.device), **how)
    return turn.tokens, draw.told


def check_captured(model: ImageModel, policy: Policy, **how: Any) -> None:
    plain, told = drawn(Step, model, policy, **how)
    assert told == "plain"
    tokens, told = drawn(CapturedStep, model, policy, **how)
    assert told == "graph"
    assert tokens.equal(plain)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Nothing is known against graphs on this machine, and they are a stand-in's."""
    monkeypatch.setattr(choice, "takes_graphs", lambda _: True)
    return stand_in(monkeypatch, warm_up=1)


def generated(model: ImageModel | None = None, policy: Policy | None = None, step: str = "auto", **how: Any) -> Result:
    usual: dict[str, Any] = {"prompts": UNEQUAL, "guidance": 3.0, "temperature": WARM, "seed": SEED}
    return generate(model or model_of(), policy=policy, step=step, **(usual | how))


@each_kv_heads
@each_guidance
@each_prompts
@each_fixed_policy
def test_a_captured_step_draws_what_the_plain_one_draws(
    policy: Policy, prompts: Sequence[str], guidance: float, kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = stand_in(monkeypatch, warm_up=0)  # heads may be typed late
    check_captured(model_of(kv_heads), policy, prompts=prompts, guidance=guidance)
    [tape] = graphs.tapes
    assert tape.replays >= (1 if isinstance(policy, HeadKV) else model_of().geometry.tokens)


@each_kv_dtype
@each_kv_heads
@each_fixed_policy
def test_so_it_does_from_slots_of_small_precision(
    policy: Policy, kv_heads: int, kv_dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, warm_up=0)
    check_captured(model_of(kv_heads), policy, kv_dtype=kv_dtype)


@pytest.mark.parametrize(
    "sampling", [Sampling(greedy=True), Sampling(3.0, 2.0, top_k=5), Sampling(1.0, 3.0, top_p=0.8)], ids=repr
)
def test_so_it_does_however_tokens_are_chosen(sampling: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    check_captured(model_of(), POLICIES["ssd"], sampling=sampling)


@pytest.mark.parametrize("policy", [Full(), POLICIES["ssd"], POLICIES["headkv"]], ids=["full", "ssd", "headkv"])
@pytest.mark.parametrize("first", [0, 1, 5, 7])
def test_so_it_does_where_tokens_are_kept(first: int, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs, model = stand_in(monkeypatch, warm_up=1), model_of()
    random = torch.Generator().manual_seed(first)
    kept = torch.randint(20, (2, 12), generator=random)
    kept[torch.rand(2, 12, generator=random) < 0.6] = UNDRAWN
    kept[:, :first] = 3
    kept[:, first] = UNDRAWN
    check_captured(model, policy, kept=kept)
    tokens, _ = drawn(CapturedStep, model, policy, kept=kept)
    assert tokens[kept != UNDRAWN].equal(kept[kept != UNDRAWN])
    if isinstance(policy, Full):
        assert graphs.warmed + graphs.tapes[0].replays == 2 + 12 - first - 1  # twice warmed, a row of 4 is ended


def test_turns_run_as_they_are_before_one_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs, turns = stand_in(monkeypatch), list[str]()
    plain = Turn.draw

    def draw(turn: Turn, cache: Any) -> None:
        turns.append(type(cache).__name__)
        plain(turn, cache)

    monkeypatch.setattr(Turn, "draw", draw)
    drawn(CapturedStep, model_of(), POLICIES["ssd"])
    assert turns == ["MaskedCache"] * (captured.WARM_UP + 1)  # the last is the capture
    assert graphs.warmed == captured.WARM_UP
    assert graphs.tapes[0].replays == model_of().geometry.tokens - captured.WARM_UP
    turns.clear()
    drawn(CapturedStep, model_of(), HeadKV(11, type_at=9, local=3), ["ab"])
    assert turns == ["SlotCache"] * 7 + ["MaskedCache"] * (captured.WARM_UP + 1)


@pytest.mark.parametrize("fails_after", [0, 1, MIDDLE, 110])
@each_fixed_policy
def test_a_capture_that_fails_is_said_and_the_drawing_goes_on(
    policy: Policy, fails_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs, model = stand_in(monkeypatch, warm_up=0, fails_after=fails_after), model_of()
    tokens, told = drawn(CapturedStep, model, policy)
    assert told == "plain: its step could not be captured (CUDA out of memory.)"
    assert tokens.equal(drawn(Step, model, policy)[0])
    assert len(graphs.tapes) == 1


def test_a_capture_that_fails_holds_nothing(on_a_gpu: StandIn) -> None:
    on_a_gpu.fails_after = MIDDLE
    result = generated()
    assert result.step.startswith("plain: its step could not be captured")
    assert result.memory == generated(step="plain").memory


@pytest.mark.parametrize("kv_dtype", ["auto", "int8", "fp8"])
@pytest.mark.parametrize("policy", [POLICIES["ssd"], POLICIES["headkv"]], ids=["ssd", "headkv"])
def test_what_empty_slots_hold_has_no_effect(policy: Policy, kv_dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, warm_up=0)
    plain, _ = drawn(Step, model_of(), policy, kv_dtype=kv_dtype)
    torch.use_deterministic_algorithms(True, warn_only=True)  # new tensors are full of NaN, or of the largest number
    try:
        assert torch.empty(1).isnan()
        tokens, _ = drawn(CapturedStep, model_of(), policy, kv_dtype=kv_dtype)
    finally:
        torch.use_deterministic_algorithms(False)
    assert tokens.equal(plain)


def test_a_step_that_looks_at_a_tensor_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    model = tiny(rows=3, columns=4)
    plain, _ = drawn(Step, model, Full())
    monkeypatch.setattr(TinyModel, "image_logits", lambda self, hidden: self.head(hidden) * (hidden.sum().item() != 0))
    tokens, told = drawn(CapturedStep, model, Full())
    assert told == "plain: its step could not be captured (operation not permitted when stream is capturing)"
    assert tokens.equal(plain)


@pytest.mark.parametrize("after", [1, 3, 6])
@pytest.mark.parametrize("policy", [POLICIES["ssd"], POLICIES["headkv"]], ids=["ssd", "headkv"])
@pytest.mark.parametrize("end", ["stopped", "failed", "failed within"])
def test_whatever_ends_a_drawing_gives_the_graph_and_the_slots_back(
    end: str, policy: Policy, after: int, on_a_gpu: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots: list[weakref.ref[Tensor]] = []
    turns, plain, plain_draw, plain_replay = 0, SlotCache.fill, Turn.draw, Tape.replay

    def fill(cache: SlotCache, *given: Any) -> None:
        plain(cache, *given)
        if cache.layers[0][0].kv.device.type == "cpu":
            slots.extend(weakref.ref(part) for layer in cache.layers for own in layer for part in tensors_of(own))

    def check() -> None:
        nonlocal turns
        turns += 1
        fail("failed")

    def fail(where: str) -> None:
        if turns == 2 + after and end == where:  # one is before the prompts of each length
            raise InterruptedError

    def draw(turn: Turn, cache: Any) -> None:
        plain_draw(turn, cache)
        if not on_a_gpu.tapes:  # a capture may fail, that is another matter
            fail("failed within")

    def replay(tape: Tape) -> None:
        plain_replay(tape)
        fail("failed within")

    monkeypatch.setattr(SlotCache, "fill", fill)
    monkeypatch.setattr(Turn, "draw", draw)
    monkeypatch.setattr(Tape, "replay", replay)
    if end == "stopped":
        result = generated(policy=policy, on_row=lambda row, *_: row == (after > 3), check=check)
        assert (result.tokens != UNDRAWN).all(0).sum() == (8 if after > 3 else 4)
    else:
        with pytest.raises(InterruptedError) as held:
            generated(policy=policy, check=check)
        assert held.tb is not None
    assert slots
    # at once, without the collector, and though the traceback of a failure is still held
    assert all(part() is None for part in slots)
    assert not any(tape.operations for tape in on_a_gpu.tapes)


def streaming() -> TinyModel:
    """A model that computes where none of its weights are, as torch names places."""
    model = tiny(rows=3, columns=4)
    model.computes_on = torch.device("cpu", 0)
    return model


@pytest.mark.usefixtures("on_a_gpu")
def test_a_result_and_its_report_say_which_step_drew() -> None:
    model = model_of()
    by_step = {step: generated(step=step) for step in ("auto", "plain", "graph")}
    assert {step: result.step for step, result in by_step.items()} == {
        "auto": "graph", "plain": "plain", "graph": "graph"
    }  # fmt: skip
    assert len({tuple(result.tokens.flatten().tolist()) for result in by_step.values()}) == 1
    assert report(model, Full(), {"step": "auto"}, UNEQUAL, by_step["auto"])["step"] == "graph"
    assert generated(policy=Diagonal(8)).step == "plain: its slots choose what to skip while they fill"
    streamed = generated(streaming())
    assert streamed.step == "kernel: weights are streamed"
    assert report(model, Full(), {}, UNEQUAL, streamed)["step"] == "kernel: weights are streamed"
    assert streamed.tokens.equal(by_step["plain"].tokens)


@pytest.mark.usefixtures("on_a_gpu")
def test_a_graph_that_cannot_be_is_refused_where_it_was_asked_for() -> None:
    with pytest.raises(UserError, match="choose what to skip") as learning:
        generated(policy=Diagonal(8), step="graph")
    with pytest.raises(UserError, match="not 'fast'") as unknown:
        generated(step="fast")
    with pytest.raises(UserError, match="weights are streamed") as streamed:
        generated(streaming(), step="graph")
    for refusal in (learning, unknown, streamed):
        check_sentence(refusal.value)


def test_the_processor_draws_with_a_kernel_and_refuses_a_graph() -> None:
    assert generated().step == "kernel"
    with pytest.raises(UserError, match="the model computes on cpu") as refusal:
        generated(step="graph")
    check_sentence(refusal.value)


def test_weights_of_a_step_are_those_a_token_passes_through() -> None:
    for model in (tiny(), ssd_core.load("janus-shapes")):
        assert model.is_resident
        passed: list[torch.nn.Module] = []
        rows = [model.encode("ab")]
        with torch.inference_mode():
            cache = prefill(model, Full(), rows)
            turn = Turn(model, Sampling(1.0), rows, loop.uniform_numbers(model, [0]))
            turn.embed_image.table = None
            see = partial(lambda passed, part, _: passed.append(part), passed)
            hooks = [part.register_forward_pre_hook(see) for part in model.modules()]
            turn.draw(cache)
            for hook in hooks:
                hook.remove()
        of_step = {part for own in model.step_parts() for part in own.modules()}
        assert set(passed) <= of_step
        assert all(set(passed) & set(own.modules()) for own in model.step_parts())


@pytest.mark.parametrize(("prompts", "kv_dtype"), [(EQUAL, "auto"), (UNEQUAL, "int8")], ids=["equal", "int8"])
@each_fixed_policy
def test_the_plan_of_a_graph_is_what_is_counted(policy: Policy, prompts: Sequence[str], kv_dtype: str) -> None:
    model, sampling = model_of(), Sampling(3.0)
    rows = prompt_rows(model, prompts, 2, None, sampling)
    planned = plan_rows(model, policy, rows, sampling, kv_dtype=kv_dtype, step="graph")
    plain = plan_rows(model, policy, rows, sampling, kv_dtype=kv_dtype)
    assert replace(planned, graph_bytes=0) == plain
    with torch.inference_mode(), PeakBytes() as counter:
        cache = prefill(model, policy, rows, kv_dtype=kv_dtype)
        turn = Turn(model, sampling, rows, loop.uniform_numbers(model, range(4)))
        while cache.grows:
            turn.draw(cache)
        before = counter.live
        fixed = MaskedCache(cache)
        fixed.advance()
        counter.peak = counter.live
        turn.draw(fixed)
        kept = counter.peak - before
    assert 0 < kept <= planned.graph_bytes
    if not isinstance(policy, HeadKV) or policy.local == 1:  # no head is local, the worst that was planned for
        assert kept == planned.graph_bytes


def test_a_graph_takes_its_room_beside_steps_and_previews() -> None:
    model = TinyModel(tiny().geometry, torch.bfloat16, "meta")
    plain, held = (plan(model, Window(9), 64, 4, previews=True, step=step) for step in ("plain", "graph"))
    assert held.graph_bytes > 0 == plain.graph_bytes
    assert held.peak_bytes - held.weights_bytes == (
        held.kv_bytes + held.bookkeeping_bytes + held.graph_bytes + max(held.step_bytes, held.preview_bytes)
    )
    assert plan(model, Diagonal(8), 1, 4, step="graph") == plan(model, Diagonal(8), 1, 4, step="plain")
    fit = [largest_batch(model, Window(9), 1_000_000, 4, step=step) for step in ("plain", "graph")]
    assert fit[0] > fit[1] > 0
    peaks = [plan(model, Window(9), images, 4, step="graph").peak_bytes for images in (fit[1], fit[1] + 1)]
    assert peaks[0] <= 1_000_000 < peaks[1]
    with pytest.raises(UserError, match="not 'fast'"):
        plan(model, step="fast")


@pytest.mark.usefixtures("on_a_gpu")
def test_a_graph_with_the_kernel_says_so_and_counts_its_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured, "kernel_cache_for", MaskedCache)  # which does the same, without a GPU
    plain, drawn = (generated(policy=POLICIES["ssd"], step=step) for step in ("plain", "auto"))
    assert drawn.step == "graph, attention by Triton's kernel"
    assert drawn.tokens.equal(plain.tokens)
    assert drawn.memory.graph_bytes > 0


@pytest.mark.usefixtures("on_a_gpu")
def test_a_drawing_counts_its_graph() -> None:
    drawn = generated(policy=POLICIES["ssd"])
    assert drawn.memory.graph_bytes > 0 == generated(policy=POLICIES["ssd"], step="plain").memory.graph_bytes
    drawn = generated(prompts=EQUAL, policy=POLICIES["ssd"])
    assert plan(model_of(), POLICIES["ssd"], 2, 4, guidance=3.0).graph_bytes == drawn.memory.graph_bytes


@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
@each_fixed_policy
def test_no_turn_waits_for_the_device(policy: Policy, kv_dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, warm_up=0)
    found: list[list[str]] = []
    with Reads(monkeypatch) as reads:
        for kind in (Step, CapturedStep):
            plain = kind.__call__

            def take(draw: Step, most: int, _plain: Any = plain) -> int:
                with reads.during():
                    return _plain(draw, most)

            with monkeypatch.context() as patched:
                patched.setattr(kind, "__call__", take)
                drawn(kind, model_of(), policy, kv_dtype=kv_dtype)
            found.append(list(reads.found))
            reads.found.clear()
    # heads are typed by looking, once for each length of prompts
    assert set(found[0]) == ({"tolist", "cpu"} if isinstance(policy, HeadKV) else set())
    assert found[0] == found[1]


def test_the_numbers_of_a_step_wait_where_no_other_step_s_are_put(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed_module, "may_be_ahead_of", lambda _: True)  # as on a GPU
    model = model_of()
    with torch.inference_mode():
        cache = prefill(model, POLICIES["ssd"], [[0, 3, 4, 2]])
        fixed = MaskedCache(cache)
        assert len(fixed.to_come) == model.geometry.tokens
        told = []
        for _ in range(model.geometry.tokens):
            fixed.advance()
            told.append(fixed.state.clone())
    assert torch.stack(told).equal(fixed.to_come)


@pytest.mark.parametrize("fails", [False, True], ids=["works", "fails"])
def test_what_is_asked_of_torch(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In which order, that is: what torch makes of it takes a device."""
    done: list[str] = []

    def noted(name: str) -> Callable[..., None]:
        return lambda *given: done.append(" ".join([name, *map(str, given)]))

    @contextmanager
    def within(name: str, *given: object, **named: object) -> Iterator[None]:
        done.append(" ".join([name, *map(str, given), *map(str, named.values())]))
        try:
            yield
        finally:
            done.append(f"end {name}")

    def stream(name: str) -> Any:
        waits = noted(f"{name} waits for")
        return SimpleNamespace(device=torch.device("cuda", 3), wait_stream=lambda other: waits(other.name), name=name)

    def work() -> None:
        done.append("work")
        if fails:
            raise InterruptedError

    monkeypatch.setattr(torch.cuda, "Stream", lambda _: stream("side"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream("main"))
    monkeypatch.setattr(torch.cuda, "stream", lambda own: within(f"on {own.name}"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: "graph")
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(
        torch.cuda, "graph", lambda graph, pool, own, **named: within("capture", graph, pool, own.name, **named)
    )
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        monkeypatch.setattr(torch._C, name, noted(name), raising=False)
    graphs = captured.CudaGraphs(torch.device("cuda", 3))
    with pytest.raises(InterruptedError) if fails else nullcontext():
        graphs.warm_up(work)
    assert done == ["side waits for main", "on side", "work", "end on side", "main waits for side"]
    done.clear()
    with pytest.raises(InterruptedError) if fails else nullcontext():
        made: Any = graphs.capture(work)
        assert made == "graph"
    told = ["_cuda_endAllocateToPool 3 pool", "_cuda_releasePool 3 pool"] if fails else []
    assert done == ["on side", "capture graph pool side thread_local", "work", "end capture", *told, "end on side"]
    assert not captured.BUSY.locked()


@needs_cuda
@pytest.mark.parametrize("kv_dtype", ["auto", "int8", "fp8"])
@each_fixed_policy
def test_a_real_graph_draws_what_the_plain_step_draws(policy: Policy, kv_dtype: str) -> None:
    model = on_cuda()
    how: dict[str, Any] = {"model": model, "policy": policy, "kv_dtype": kv_dtype}
    plain, told = (in_a_thread(partial(generated, step=step, **how)) for step in ("plain", "auto"))
    assert (plain.step, told.step) == ("plain", "graph")
    assert told.tokens.equal(plain.tokens)


@needs_cuda
def test_a_real_graph_gives_its_memory_back() -> None:
    model = on_cuda()
    in_a_thread(lambda: generated(model))
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()

    def fail(row: int, *_: object) -> None:
        if row == 2:
            raise InterruptedError

    for _ in range(3):
        with pytest.raises(InterruptedError):
            in_a_thread(lambda: generated(model, on_row=fail))
        in_a_thread(lambda: generated(model))
    gc.collect()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() == before


@needs_cuda
def test_a_real_capture_that_fails_leaves_everything_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    model = on_cuda()
    plain = in_a_thread(lambda: generated(model, step="plain"))

    def looks(self: TinyModel, hidden: Tensor) -> Tensor:
        return self.head(hidden).float() * (hidden.sum().item() != 0)

    with monkeypatch.context() as patched:
        patched.setattr(TinyModel, "image_logits", looks)
        fallen = in_a_thread(lambda: generated(model))
    assert fallen.step.startswith("plain: its step could not be captured (")
    assert fallen.tokens.equal(plain.tokens)
    again = in_a_thread(lambda: generated(model))
    assert again.step == "graph"
    assert again.tokens.equal(plain.tokens)


def on_cuda() -> TinyModel:
    model = tiny(rows=3, columns=4)
    return model.to("cuda")


def in_a_thread(work: Callable[[], Result]) -> Result:
    """What comes of it in a thread that is not the main one, as ComfyUI's is."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()
