"""What the kernel for whole turns must do: what a turn does operation by operation, for any sizes and any sampling."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import gelu

import ssd_core
from ssd_core import Policy, loop, turn_kernel
from ssd_core.cache.decoder_cache import DTYPES, DecoderCache
from ssd_core.cache.kernel_cache import kernel_cache_for
from ssd_core.cache.storage import KV_DTYPES
from ssd_core.models import few_rows
from ssd_core.native.build import WIDE
from ssd_core.prompts import prompt_rows
from ssd_core.rounding import rounded_up
from ssd_core.sampling import Sampling
from ssd_core.start import kept_tokens
from ssd_core.step import prefill, step
from ssd_core.turn import Turn
from ssd_core.turn_kernel import (
    TRIED,
    Ending,
    KernelStep,
    TurnKernel,
    is_known_ending,
    take_without_layers,
    turn_kernel_for,
    works,
)
from tests.cache.kernel_cases import needs_compiler
from tests.cache.test_cpp_kernel import threads
from tests.cache.test_decoder_cache import before_nothing
from tests.table import POLICIES, SEED, WARM, model_of
from tests.tiny import TinyModel, tiny

pytestmark = needs_compiler
CPU = torch.device("cpu")
FULL = ssd_core.Full()
NEAR = {torch.float32: 1e-3, torch.bfloat16: 0.3}  # of logits around 10
samplings = st.one_of(
    st.builds(Sampling, st.sampled_from([0.0, 0.3, 1.0, 3.0]), greedy=st.just(True)),
    st.builds(
        Sampling,
        st.sampled_from([0.0, 0.3, 1.0, 3.0]),
        st.sampled_from([0.5, 1.0, WARM]),
        st.sampled_from([0, 1, 2, 7, 1000]),
        st.sampled_from([1e-6, 0.3, 0.9, 1.0]),
    ),
)


def drawn_from(sampling: Sampling, guided: Tensor, uniform: Tensor) -> Tensor:
    """What torch draws from logits that have guidance and temperature within."""
    return replace(sampling, guidance=1.0, temperature=1.0).next_tokens(guided, uniform)


class Alone:
    """A head behind a decoder without layers, and what a turn needs beside it."""

    def __init__(
        self,
        sampling: Sampling,
        images: int,
        codebook: int = 24,
        inner: int | None = None,
        dtype: torch.dtype = torch.float32,
        embeds: bool = True,
        bias: bool = True,
        seed: int = 0,
    ) -> None:
        """inner: numbers between two layers; None for a head of one."""
        random = torch.Generator().manual_seed(seed)

        def some(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=random)

        self.hidden, self.grid, rows = 20, 3, images * (1 + sampling.guided)
        sizes = [self.hidden, codebook] if inner is None else [self.hidden, inner, codebook]
        self.norm = few_rows.RMSNorm(self.hidden, 1e-6, dtype=dtype).requires_grad_(False)
        self.norm.weight.copy_(1 + some(self.hidden) / 4)
        layers = [few_rows.Linear(*pair, bias, dtype=dtype) for pair in pairwise(sizes)]
        self.head = [layer.requires_grad_(False) for layer in layers]
        for part in (part for layer in self.head for part in layer.parameters()):
            part.copy_(some(*part.shape) * 2 / part.shape[-1] ** 0.5)
        self.sampling, self.images = sampling, images
        self.x = some(rows, self.hidden).to(dtype)
        self.table = some(codebook, self.hidden).to(dtype) if embeds else None
        self.uniform = torch.rand(self.grid, images, generator=random)
        self.at, self.positions = torch.tensor([1]), torch.randint(9, (rows, 1), generator=random)
        self.tokens = torch.randint(codebook, (images, self.grid), generator=random)
        self.stays: Tensor | None = None

    def logits(self) -> Tensor:
        """Of torch, guidance and temperature within, float32 [images, codebook]."""
        x = self.norm(self.x)
        for layer in self.head[:-1]:
            x = gelu(layer(x))
        return self.sampling.guide(self.head[-1](x).float()) / self.sampling.temperature

    def take(self) -> Ending:
        tensors = self.x, self.positions, self.at, self.tokens, self.uniform, self.stays
        ending = Ending(self.head, self.sampling, self.table, *tensors)
        take_without_layers(ending, self.norm, self.x, self.positions, self.x.dtype)
        return ending


@given(
    sampling=samplings,
    images=st.sampled_from([1, 2, 3, 5, 8, 16, 17, 20, 33]),
    codebook=st.integers(1, 12).map(lambda fours: 4 * fours),
    inner=st.none() | st.integers(1, 10).map(lambda fours: 4 * fours),
    dtype=st.sampled_from(DTYPES),
    embeds=st.booleans(),
    bias=st.booleans(),
    stays=st.booleans(),
    cores=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_the_kernel_does_what_follows_the_decoder(
    sampling: Sampling,
    images: int,
    codebook: int,
    inner: int | None,
    dtype: torch.dtype,
    embeds: bool,
    bias: bool,
    stays: bool,
    cores: int,
    seed: int,
) -> None:
    alone = Alone(sampling, images, codebook, inner, dtype, embeds, bias, seed)
    if stays:
        alone.stays = torch.rand(alone.grid, images, generator=torch.Generator().manual_seed(seed)) < 0.5
    expected, x, positions, tokens = alone.logits(), alone.x.clone(), alone.positions.clone(), alone.tokens.clone()
    with threads(cores):
        ending = alone.take()
    torch.testing.assert_close(ending.logits, expected, rtol=0, atol=NEAR[dtype] / sampling.temperature)
    token = drawn_from(sampling, ending.logits, alone.uniform[1])
    if alone.stays is not None:
        token = torch.where(alone.stays[1], tokens[:, 1], token)
    tokens[:, 1] = token
    assert ending.token.equal(token)
    assert alone.tokens.equal(tokens)
    if alone.table is None:  # the next input is made elsewhere
        assert (alone.x.equal(x), alone.positions.equal(positions), int(alone.at)) == (True, True, 1)
    else:
        assert alone.x.equal(alone.table[token].repeat(len(x) // images, 1))
        assert (alone.positions.equal(positions + 1), int(alone.at)) == (True, 2)


@pytest.mark.parametrize("images", [16, 17, 40])
@pytest.mark.parametrize("sampling", TRIED, ids=str)
def test_each_picture_has_its_own_random_number(sampling: Sampling, images: int) -> None:
    alone = Alone(sampling, images)
    ending = alone.take()
    assert ending.token.equal(drawn_from(sampling, ending.logits, alone.uniform[1]))


@pytest.mark.parametrize("far", [-300.0, 300.0])
def test_logits_may_be_far_from_zero(far: float) -> None:
    alone = Alone(Sampling(1.0), 40)
    alone.head[0].bias.add_(far)
    ending = alone.take()
    assert ending.token.equal(drawn_from(alone.sampling, ending.logits, alone.uniform[1]))


@pytest.mark.parametrize("top_p", [0.2, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("top_k", [0, 3, 5])
def test_of_tokens_alike_filters_keep_those_that_torch_keeps(top_k: int, top_p: float) -> None:
    for seed in range(20):
        alone = Alone(Sampling(1.0, top_k=top_k, top_p=top_p), 16, codebook=12, seed=seed)
        for part in alone.head[0].parameters():
            part[1::2] = part[::2]  # each token has a twin
        ending = alone.take()
        assert ending.logits[:, 1::2].equal(ending.logits[:, ::2])
        assert ending.token.equal(drawn_from(alone.sampling, ending.logits, alone.uniform[1]))


@pytest.mark.parametrize(("top_p", "kept"), [(0.5, 4), (0.51, 8)])
def test_the_token_that_reaches_the_share_is_the_last_one(top_p: float, kept: int) -> None:
    alone = Alone(Sampling(1.0, top_p=top_p), 5)
    (layer,) = alone.head
    layer.weight.zero_()
    layer.bias.fill_(-1000.0)
    layer.bias[[4, 8]] = 1.0
    alone.uniform.fill_(1 - 2**-24)
    ending = alone.take()
    assert ending.token.tolist() == [kept] * 5
    assert ending.token.equal(drawn_from(alone.sampling, ending.logits, alone.uniform[1]))


def test_of_tokens_alike_the_first_is_the_likeliest() -> None:
    alone = Alone(Sampling(1.0, greedy=True), 20, codebook=12)
    for part in alone.head[0].parameters():
        part[6:] = part[:6]
    assert (alone.take().token < 6).all()


def test_gelu_is_torchs_over_all_it_may_meet() -> None:
    numbers = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([0.0, 1e-30, -1e-30, 1e4, -1e4, 3e38])])
    for some in numbers.split(16):  # one of them in each picture
        alone = Alone(Sampling(1.0), len(some), codebook=4, inner=4)
        first, second = alone.head
        for part in (*first.parameters(), *second.parameters()):
            part.zero_()
        alone.norm.weight.fill_(1.0)
        alone.x.zero_()
        alone.x[:, 0] = 1  # which the norm makes sqrt(hidden)
        for image, number in enumerate(some):
            first.bias[0] = number
            second.weight[2, 0] = 1
            torch.testing.assert_close(alone.take().logits[image, 2], gelu(number), rtol=1e-6, atol=1e-6)
            alone.at.fill_(1)
            alone.x.zero_()


@pytest.mark.parametrize("uniform", [0.0, 0.3, 1 - 2**-24])
@pytest.mark.parametrize("sampling", [*TRIED, Sampling(1.0, top_k=3), Sampling(1.0, top_p=0.5)], ids=str)
def test_rows_of_no_number_give_some_token_and_touch_no_other(sampling: Sampling, uniform: float) -> None:
    taken = []
    for wrong in (0.0, math.nan, math.inf):
        alone = Alone(sampling, 18)
        alone.uniform.fill_(uniform)
        alone.x[3] += wrong
        taken.append(alone.take().token)
        assert 0 <= int(taken[-1][3]) < 24
    others = torch.arange(18) != 3
    for other in taken[1:]:
        assert other[others].equal(taken[0][others])


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_token_that_cannot_be_is_never_drawn(guidance: float) -> None:
    for uniform in (0.0, 0.5, 1 - 2**-24):
        alone = Alone(Sampling(guidance), 5)
        (layer,) = alone.head
        layer.bias[[0, 1, 2, 23]] = -1000.0 / (1 if guidance == 1 else 0.1)
        layer.weight[[0, 1, 2, 23]] = 0
        alone.uniform.fill_(uniform)
        token = alone.take().token
        assert ((token >= 3) & (token < 23)).all()


def test_threads_make_no_difference() -> None:
    taken = []
    for count in (1, 2, 5):
        with threads(count):
            alone = Alone(Sampling(3.0, top_k=9, top_p=0.9), 37, inner=12)
            taken.append((alone.take().logits, alone.tokens))
    for logits, tokens in taken[1:]:
        assert logits.equal(taken[0][0])
        assert tokens.equal(taken[0][1])


@pytest.mark.parametrize("images", [1, 2, 10, 35])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_behind_what_is_given_is_read(dtype: torch.dtype, images: int) -> None:
    alone = Alone(Sampling(3.0), images, codebook=20, inner=12, dtype=dtype)
    for part in (part for layer in alone.head for part in layer.parameters()):
        part.data = before_nothing(part)
    alone.at.fill_(2)  # the last row of what follows
    alone.x, alone.uniform, alone.tokens = map(before_nothing, (alone.x, alone.uniform, alone.tokens))
    alone.positions = before_nothing(alone.positions)
    assert alone.table is not None
    alone.table, alone.stays = before_nothing(alone.table), torch.zeros(3, images, dtype=torch.bool)
    expected = alone.logits()
    torch.testing.assert_close(alone.take().logits, expected, rtol=0, atol=NEAR[dtype])


def turn_of(
    model: TinyModel, prompts: Sequence[str], policy: Policy, sampling: Sampling, kept: Tensor | None = None
) -> tuple[Turn, TurnKernel, Turn]:
    """A turn that the kernel takes, the kernel, and the same turn over slots of its own for torch."""
    rows = prompt_rows(model, prompts, 1, None, sampling)
    seeds = range(SEED, SEED + len(prompts))
    turns = [Turn(model, sampling, rows, loop.uniform_numbers(model, seeds), kept) for _ in range(2)]
    cache = DecoderCache(prefill(model, policy.fit(model), rows), model.decoder, sampling.rows_of_image)
    kernel = turn_kernel_for(turns[0], cache)
    assert kernel
    return turns[0], kernel, turns[1]


@pytest.mark.parametrize("codebook", [20, 12])  # more than a picture has tokens, and so many
@pytest.mark.parametrize("name", ["full", "ssd", "reach, every 3 tokens, windows cut"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_drawing_is_the_plain_one(name: str, guidance: float, codebook: int) -> None:
    geometry = replace(model_of().geometry, codebook=codebook)
    model, policy, sampling = TinyModel(geometry), POLICIES[name], Sampling(guidance, WARM)
    keep = torch.zeros(geometry.tokens, dtype=torch.bool)
    keep[[2, 5]] = True
    kept = kept_tokens(geometry, torch.full((2, geometry.tokens), 7), keep, 2)
    with torch.inference_mode():
        turn, kernel, plain = turn_of(model, ["ab", "cde"], policy, sampling, kept)
        assert (turn.embed_image.table is None) == (codebook > geometry.tokens)
        slots = prefill(model, policy.fit(model), prompt_rows(model, ["ab", "cde"], 1, None, sampling))
        for at in range(geometry.tokens):
            logits = sampling.guide(step(model, slots, turn.x.clone(), turn.positions.clone())) / WARM
            kernel.cache.advance()
            kernel()
            torch.testing.assert_close(kernel.ending.logits, logits, rtol=0, atol=1e-3)
            token = drawn_from(sampling, kernel.ending.logits, turn.uniform[at])
            plain.tokens[:, at] = plain.tokens[:, at] if keep[at] else token
            plain.go_on(plain.tokens[:, at])
            for one, other in zip(vars(turn).values(), vars(plain).values(), strict=True):
                assert not isinstance(one, Tensor) or one.equal(other)


def test_the_embedded_models_turn_is_one_call() -> None:
    model = ssd_core.load("janus-shapes", "cpu", "fp32")
    sampling = Sampling(5.0)
    with torch.inference_mode():
        turn, kernel, _ = turn_of(model, ["a red circle"] * 2, ssd_core.Full(), sampling)  # type: ignore[arg-type]
        rows = prompt_rows(model, ["a red circle"] * 2, 1, None, sampling)
        slots = prefill(model, ssd_core.Full(), rows)
        for _ in range(3):
            logits = sampling.guide(step(model, slots, turn.x.clone(), turn.positions.clone()))
            kernel.cache.advance()
            kernel()
            torch.testing.assert_close(kernel.ending.logits, logits, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("images", [1, 2, 3, 8, 9, 20, 33])  # in few rows, part of a vector, and several
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_turns_at_once_are_those_one_by_one(dtype: torch.dtype, guidance: float, images: int) -> None:
    geometry = replace(model_of().geometry, codebook=12)
    model, policy, sampling = TinyModel(geometry, dtype), POLICIES["ssd"], Sampling(guidance, WARM)
    rows = prompt_rows(model, ["ab", "cde"], images, None, sampling)
    keep = torch.zeros(geometry.tokens, dtype=torch.bool)
    keep[[2, 5]] = True
    kept, drawn = kept_tokens(geometry, torch.full((1, geometry.tokens), 7), keep, 2 * images), []
    with torch.inference_mode():
        for cores, most in ((1, 1), (2, 1), (1, 12), (2, 12), (3, 12)):
            turn = Turn(model, sampling, rows, loop.uniform_numbers(model, range(2 * images)), kept)
            cache, taken = prefill(model, policy.fit(model), rows), list[int]()
            with threads(cores):
                steps = KernelStep(turn, cache)
                while sum(taken) < geometry.tokens:
                    steps.at_once = 12  # however slow this machine is
                    taken.append(steps(min(most, geometry.tokens - sum(taken))))
            assert steps.kernel
            assert max(taken) == min(most, geometry.columns)
            slots = [part for layer in cache.layers for one in layer for part in (one.kv, getattr(one, "score", None))]
            drawn.append([part for part in [*vars(turn).values(), *slots] if isinstance(part, Tensor)])
    for other in drawn[1:]:
        for one, part in zip(drawn[0], other, strict=True):
            assert part.equal(one)


def test_pictures_may_be_anywhere_in_a_batch() -> None:
    geometry = replace(model_of().geometry, codebook=12)
    model = TinyModel(geometry)
    drawing: dict[str, Any] = {"guidance": 3.0, "temperature": WARM, "step": "kernel"}
    together = ssd_core.generate(model, ["ab", "cde"], POLICIES["ssd"], 10, **drawing)
    for image in (0, 7, 8, 9, 15, 19):
        prompt = "ab" if image < 10 else "cde"
        alone = ssd_core.generate(model, [prompt], POLICIES["ssd"], seed=together.seeds[image], **drawing)
        assert alone.tokens[0].equal(together.tokens[image])


def test_turns_at_once_end_with_a_row() -> None:
    model, rows = TinyModel(replace(model_of().geometry, codebook=12)), list[tuple[int, ...]]()

    def on_row(row: int, tokens: Tensor, *_: object) -> bool:
        rows.append((row, *tokens.shape))
        return row == 1

    drawn = ssd_core.generate(model, ["ab"], images_per_prompt=2, step="kernel", on_row=on_row)
    assert rows == [(0, 2, 4), (1, 2, 8)]
    assert drawn.drawn == 16


def test_nobody_waits_long_for_turns_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sampling = TinyModel(replace(model_of().geometry, codebook=12)), Sampling(3.0)
    rows = prompt_rows(model, ["ab"], 1, None, sampling)
    now, take, lasts = 0.0, TurnKernel.__call__, 0.1

    def slowly(kernel: TurnKernel, turns: int = 1) -> None:
        nonlocal now
        now += turns * lasts
        take(kernel, turns)

    monkeypatch.setattr(TurnKernel, "__call__", slowly)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    with torch.inference_mode():
        steps = KernelStep(Turn(model, sampling, rows, loop.uniform_numbers(model, [SEED])), prefill(model, FULL, rows))
        assert [steps(12) for _ in range(3)] == [1, 2, 2]  # the first tells how long one takes
        lasts = 0.01
        assert [steps(3), steps(12)] == [2, 4]
        lasts = 1.0
        assert [steps(1), steps(12)] == [1, 1]


def of_another_class(model: TinyModel) -> None:
    class Own(nn.Linear):
        """Which may do anything."""

    model.head = Own(32, 20)


def of_another_precision(model: TinyModel) -> None:
    model.head.to(torch.bfloat16)


def looked_into(model: TinyModel) -> None:
    model.head.register_forward_hook(lambda *_: None)


def looked_into_elsewhere(model: TinyModel) -> None:
    model.codes.register_forward_pre_hook(lambda *_: None)


def of_an_odd_size(model: TinyModel) -> None:
    model.head = nn.Linear(32, 21)


def without_layers(model: TinyModel) -> None:
    model.head_layers = list  # type: ignore[method-assign]


def of_three_layers(model: TinyModel) -> None:
    model.head_layers = lambda: [model.head] * 3  # type: ignore[method-assign]


CHANGES = (
    of_another_class,
    of_another_precision,
    looked_into,
    looked_into_elsewhere,
    of_an_odd_size,
    without_layers,
    of_three_layers,
)


@pytest.mark.parametrize("change", CHANGES)
def test_other_heads_go_operation_by_operation(change: Callable[[TinyModel], None]) -> None:
    model = tiny()
    assert is_known_ending(model, Sampling())
    change(model)
    assert not is_known_ending(model, Sampling())


def test_so_does_a_sampling_of_ones_own() -> None:
    class Own(Sampling):
        """Which may do anything."""

    assert not is_known_ending(tiny(), Own())


def test_without_the_kernel_a_step_takes_the_decoders_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = []
    for works_here in (True, False):
        monkeypatch.setattr(turn_kernel, "works", lambda *_, here=works_here: here)
        model, sampling = model_of(), Sampling(3.0, WARM)
        rows = prompt_rows(model, ["ab"], 1, None, sampling)
        with torch.inference_mode():
            turn = Turn(model, sampling, rows, loop.uniform_numbers(model, [SEED]))
            steps = KernelStep(turn, prefill(model, ssd_core.Full(), rows))
            for _ in range(model.geometry.tokens):
                steps()
        assert (steps.kernel is not None) == works_here
        assert isinstance(steps.fixed, DecoderCache)
        tokens.append(turn.tokens)
    assert tokens[0].equal(tokens[1])


def test_slots_whose_rows_stand_otherwise_have_no_kernel_for_turns() -> None:
    model, sampling = model_of(), Sampling(3.0)
    rows = prompt_rows(model, ["ab"], 9, None, sampling)
    with torch.inference_mode():
        turn = Turn(model, sampling, rows, loop.uniform_numbers(model, range(9)))
        for rows_of_image in (1, 2):
            cache = DecoderCache(prefill(model, FULL, rows), model.decoder, rows_of_image)
            assert (turn_kernel_for(turn, cache) is None) == (rows_of_image == 1)


def test_slots_without_a_kernel_for_the_decoder_have_none_for_turns() -> None:
    model, sampling = model_of(), Sampling()
    rows = prompt_rows(model, ["ab"], 1, None, sampling)
    with torch.inference_mode():
        turn = Turn(model, sampling, rows, loop.uniform_numbers(model, [SEED]))
        cache = kernel_cache_for(prefill(model, ssd_core.Full(), rows))
        assert cache
        assert turn_kernel_for(turn, cache) is None


@pytest.mark.parametrize("kv_dtype", [*KV_DTYPES])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_trial_finds_that_it_works(dtype: torch.dtype, kv_dtype: str) -> None:
    assert works.__wrapped__(dtype, KV_DTYPES[kv_dtype] or dtype)


def test_what_is_tried_is_what_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[torch.dtype, ...]] = []

    def works_here(*precisions: torch.dtype) -> bool:
        tried.append(precisions)
        return True

    monkeypatch.setattr(turn_kernel, "works", works_here)
    ssd_core.generate(model_of(), ["ab"], step="kernel", kv_dtype="int8")
    assert tried == [(torch.float32, torch.int8)]


def logits_off(ending: Ending) -> None:
    ending.room[: ending.codebook * 16].add_(1)


def other_tokens(ending: Ending) -> None:
    tokens = ending.given[5]
    tokens[-1] = (tokens[-1] + 1) % ending.codebook


def not_fed(ending: Ending) -> None:
    ending.given[2][-1] += 1


def no_step_further(ending: Ending) -> None:
    ending.given[4].sub_(1)


def no_position_further(ending: Ending) -> None:
    ending.given[3][-1] -= 1


@pytest.mark.parametrize("wrong", [logits_off, other_tokens, not_fed, no_step_further, no_position_further])
def test_the_trial_finds_wrong_turns(
    wrong: Callable[[Ending], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    take = turn_kernel.take_without_layers

    def wrongly(ending: Ending, *given: object) -> None:
        take(ending, *given)  # type: ignore[arg-type]
        if len(ending.token) == 5:
            wrong(ending)

    monkeypatch.setattr(turn_kernel, "take_without_layers", wrongly)
    with caplog.at_level(logging.WARNING):
        assert not works.__wrapped__(torch.float32, torch.float32)
    (told,) = caplog.messages
    assert told == "The kernel for whole turns is done without on this processor: it gives wrong answers"


@pytest.mark.parametrize("rows", [1, 2, 16, 17, 34])
def test_there_is_room_behind_what_is_written(rows: int) -> None:
    ending = Alone(Sampling(1.0), rows, codebook=24, inner=12).take()
    assert ending.room.numel() >= (24 + 12) * rounded_up(rows, WIDE) + WIDE


def test_room_for_sorting_is_there_only_where_something_is_sorted() -> None:
    sizes = [Alone(sampling, 3).take().order.numel() for sampling in (Sampling(), Sampling(top_k=2))]
    assert sizes == [0, 24 * torch.get_num_threads()]
