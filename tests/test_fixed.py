"""What a step with a kernel draws, beside the plain one, and when it is taken."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch

from ssd_core import (
    Diagonal,
    Full,
    HeadKV,
    Policy,
    SnapKV,
    UserError,
    Window,
    choice,
    generate,
    loop,
    memory,
    plan,
    turn_kernel,
)
from ssd_core.cache import decoder_cache, kernel_cache
from ssd_core.cache.decoder_cache import DecoderCache
from ssd_core.cache.kernel_cache import KernelCache, is_known, kernels_on, why_no_kernel
from ssd_core.cache.masked import MaskedCache
from ssd_core.choice import choose_step
from ssd_core.fixed import FixedStep
from ssd_core.memory import PeakBytes, plan_rows
from ssd_core.prompts import prompt_rows
from ssd_core.sampling import Sampling
from ssd_core.step import prefill
from ssd_core.turn import Step, Turn
from ssd_core.turn_kernel import TurnKernel
from tests.table import (
    EQUAL,
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
)
from tests.tiny import TinyModel, tiny

CPU = torch.device("cpu")
needs_kernel = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("g++"), reason="the kernel takes Linux and g++"
)


def check_alike(
    policy: Policy, kv_heads: int, prompts: Sequence[str] = UNEQUAL, guidance: float = 3.0, kv_dtype: str = "auto"
) -> None:
    how: dict[str, Any] = {"guidance": guidance, "temperature": WARM, "seed": SEED, "kv_dtype": kv_dtype}
    plain, drawn = (generate(model_of(kv_heads), prompts, policy, step=step, **how) for step in ("plain", "kernel"))
    assert (plain.step, drawn.step) == ("plain", "kernel")
    assert drawn.tokens.equal(plain.tokens)


def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("kernel_cache_for", "decoder_cache_for"):
        monkeypatch.setattr(f"ssd_core.fixed.{name}", lambda *_: None)


@needs_kernel
@each_kv_heads
@each_guidance
@each_prompts
@each_fixed_policy
def test_a_step_with_a_kernel_draws_what_the_plain_one_draws(
    policy: Policy, prompts: Sequence[str], guidance: float, kv_heads: int
) -> None:
    check_alike(policy, kv_heads, prompts, guidance)


@needs_kernel
@each_kv_dtype
@each_kv_heads
@each_fixed_policy
def test_so_it_does_from_slots_of_small_precision(policy: Policy, kv_heads: int, kv_dtype: str) -> None:
    check_alike(policy, kv_heads, kv_dtype=kv_dtype)


@needs_kernel
def test_slots_are_left_to_the_plain_turn_until_they_no_longer_move(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []
    plain = Turn.draw

    def draw(turn: Turn, cache: object) -> None:
        if not turn.x.is_meta:
            turns.append(type(cache).__name__)
        plain(turn, cache)  # type: ignore[arg-type]

    monkeypatch.setattr(Turn, "draw", draw)
    monkeypatch.setattr(turn_kernel, "works", lambda *_: False)
    generate(model_of(), ["ab"], HeadKV(11, type_at=9, local=3), step="kernel")
    assert turns == ["SlotCache"] * 7 + ["DecoderCache"] * 5


def test_without_a_kernel_slots_are_attended_behind_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    without_kernels(monkeypatch)
    model, sampling = model_of(), Sampling(3.0, WARM)
    rows = prompt_rows(model, UNEQUAL, 1, None, sampling)
    tokens = []
    with torch.inference_mode():
        for kind in (Step, FixedStep):
            turn = Turn(model, sampling, rows, loop.uniform_numbers(model, [1, 2]))
            step = kind(turn, prefill(model, POLICIES["ssd"].fit(model), rows))
            for _ in range(model.geometry.tokens):
                step()
            tokens.append(turn.tokens)
    assert isinstance(step, FixedStep)
    assert isinstance(step.fixed, MaskedCache)
    assert tokens[0].equal(tokens[1])


def test_auto_takes_a_kernel_where_one_works_and_says_why_not_where_none_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = generate(model_of(), ["ab"], step="plain").tokens
    for reason in (None, "there is no compiler"):
        monkeypatch.setattr(choice, "why_no_kernel", lambda *_, reason=reason: reason)
        without_kernels(monkeypatch)
        result = generate(model_of(), ["ab"])
        assert result.step == ("plain: there is no compiler" if reason else "kernel")
        assert result.tokens.equal(drawn)
    assert generate(model_of(), ["ab"], Diagonal(8)).step == "plain: its slots choose what to skip while they fill"
    with pytest.raises(UserError, match="No kernel can do the step's attention here: there is no compiler;") as none:
        generate(model_of(), ["ab"], step="kernel")
    with pytest.raises(UserError, match="attention here: its slots choose what to skip") as learning:
        generate(model_of(), ["ab"], Diagonal(8), step="kernel")
    for refusal in (none, learning):
        check_sentence(refusal.value)


def test_devices_without_graphs_and_kernels_are_plain_without_more_words() -> None:
    model = TinyModel(tiny().geometry, device="meta")
    assert choose_step("auto", model, Full(), [[0, 1]]).told == "plain"
    assert "there is none for meta" in str(why_no_kernel(torch.device("meta"), model.geometry, torch.float32))
    assert why_no_kernel(CPU, model.geometry, torch.float64) == "there is none for float64"


def test_a_kernel_that_answers_wrongly_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong:
        nbytes, about = 0, None

        def __init__(self, *_: object) -> None: ...

        def __call__(self, qkv: torch.Tensor, answers: torch.Tensor, *_: object) -> None:
            answers.zero_()

    monkeypatch.setattr(kernel_cache, "kernels_on", lambda _: [Wrong])
    with caplog.at_level(logging.WARNING):
        assert kernel_cache.failure.__wrapped__(CPU, torch.float32, None, 2, 2, 16) == "it gives wrong answers"
    assert caplog.messages == ["The attention kernel does not run on cpu, and is done without: it gives wrong answers"]


@pytest.mark.parametrize("kind", [KernelCache, DecoderCache, TurnKernel])
@pytest.mark.parametrize(("prompts", "kv_dtype"), [(EQUAL, "auto"), (UNEQUAL, "int8")], ids=["equal", "int8"])
@each_fixed_policy
def test_the_plan_of_a_step_with_a_kernel_is_what_is_counted(
    policy: Policy, prompts: Sequence[str], kv_dtype: str, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "is_taken", lambda _: kind is not KernelCache)
    monkeypatch.setattr(memory, "is_known_ending", lambda *_: kind is TurnKernel)
    monkeypatch.setattr(memory, "PLANS", {})
    model, sampling = model_of(), Sampling(3.0)
    rows = prompt_rows(model, prompts, 2, None, sampling)
    planned = plan_rows(model, policy, rows, sampling, kv_dtype=kv_dtype, step="kernel")
    with torch.inference_mode(), PeakBytes() as counter:
        cache = prefill(model, policy, rows, kv_dtype=kv_dtype)
        beside = counter.live - cache.bytes
        turn = Turn(model, sampling, rows, loop.uniform_numbers(model, range(4)))
        while cache.grows:
            turn.draw(cache)
        counter.peak = counter.live
        assert is_known(cache)
        # the kernels themselves make no tensor
        for module in (decoder_cache, turn_kernel):
            monkeypatch.setattr(module, "run", lambda *_: None)
        if kind is KernelCache:
            fixed = KernelCache(cache, kernels_on(CPU)[0])
            fixed.kernel, kernel = lambda *_: None, fixed.kernel  # type: ignore[assignment]
            assert kernel.nbytes  # what it holds is counted
        else:
            fixed = DecoderCache(cache, model.decoder)
        draw = TurnKernel(turn, fixed) if kind is TurnKernel else partial(turn.draw, fixed)  # type: ignore[arg-type]
        for _ in range(model.geometry.tokens - int(turn.at)):
            fixed.advance()
            draw()
        step_bytes = counter.peak - beside - cache.bytes
    assert 0 < step_bytes <= planned.step_bytes
    if not isinstance(policy, HeadKV):  # whose plan is for the worst that may come
        most = 8 * len(rows)  # torch's norm is another one where nothing is computed
        if isinstance(policy, SnapKV):  # its lines are as long as the picture is, and the last ranking is planned late
            pairs = len(rows) * model.geometry.kv_heads
            most += 2 * 4 * pairs * (policy.steps_between(model.geometry) - 1)
        assert planned.step_bytes - step_bytes <= most


def test_a_plan_is_for_the_step_that_auto_prefers() -> None:
    model = model_of()
    by_step = {step: plan(model, Window(9), 2, 4, step=step) for step in ("auto", "kernel", "compiled", "plain")}
    assert by_step["auto"] == by_step["kernel"]
    assert len({by_step[step].step_bytes for step in ("kernel", "compiled", "plain")}) == 3
    assert plan(model, Diagonal(8), 1, 4, step="kernel") == plan(model, Diagonal(8), 1, 4, step="plain")
    on_meta = TinyModel(model.geometry, device="meta")
    assert plan(on_meta, Window(9), 2, 4, step="kernel") == plan(on_meta, Window(9), 2, 4, step="plain")
