from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from ssd_core import sampling
from ssd_core.errors import UserError
from ssd_core.sampling import Sampling, draw, streams
from tests.table import check_sentence

BELOW_1 = 1 - 2**-24  # the largest float32 below 1
LOGITS = st.lists(st.integers(-8, 8).map(lambda quarter: quarter / 4), min_size=2, max_size=12)


def probabilities_of(logits: Tensor, **parameters: Any) -> Tensor:
    """What Sampling(**parameters) draws from."""
    seen: list[Tensor] = []

    def spy(probabilities: Tensor, uniform: Tensor) -> Tensor:
        seen.append(probabilities)
        return draw(probabilities, uniform)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "draw", spy)
        Sampling(**parameters).next_tokens(logits, torch.full((1,), 0.5))
    return seen[0]


def reference(logits: list[float], top_k: int, top_p: float) -> tuple[list[float], float]:
    """Probabilities after both filters, one token after the other, and how close the nearest share came to top_p."""
    if top_k:
        least = sorted(logits, reverse=True)[:top_k][-1]
        logits = [logit if logit >= least else -math.inf for logit in logits]
    total = sum(map(math.exp, logits))
    shares = [math.exp(logit) / total for logit in logits]
    before, nearest = 0.0, math.inf
    kept = [0.0] * len(shares)
    for token in sorted(range(len(shares)), key=lambda token: -shares[token]):
        nearest = min(nearest, abs(before - top_p))
        if top_p == 1 or before < top_p:
            kept[token] = shares[token]
        before += shares[token]
    return kept, nearest


def test_draws_follow_the_probabilities() -> None:
    probabilities, draws = torch.tensor([0.05, 0.0, 0.3, 0.15, 0.4, 0.1], dtype=torch.float64), 20_000
    uniform = torch.rand(draws, generator=torch.Generator().manual_seed(3))
    counts = draw(probabilities.float().expand(draws, -1), uniform).bincount(minlength=6)
    possible = probabilities > 0
    assert chisquare(counts[possible], probabilities[possible] * draws).pvalue > 0.01
    assert not counts[~possible].any()


@settings(max_examples=100)
@given(parts=st.lists(st.integers(0, 9), min_size=1, max_size=9), numerator=st.integers(0, 255))
def test_a_draw_inverts_the_cumulative_distribution(parts: list[int], numerator: int) -> None:
    """On multiples of 1/256 every sum is exact, and so must be the answer."""
    assume(sum(parts) > 0)
    uniform, total = numerator / 256, sum(parts)
    expected = next(token for token in range(len(parts)) if sum(parts[: token + 1]) > uniform * total)
    probabilities = torch.tensor([parts], dtype=torch.float32) / 256
    assert draw(probabilities, torch.tensor([uniform])).tolist() == [expected]


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1 / 3, 7.0])
@pytest.mark.parametrize("size", [2, 16384])
def test_the_ends_never_reach_a_token_that_cannot_be_drawn(size: int, scale: float) -> None:
    probabilities = torch.rand(1, size + 200, generator=torch.Generator().manual_seed(0)) * scale
    probabilities[:, :100] = probabilities[:, -100:] = 0
    assert draw(probabilities, torch.tensor([0.0])).tolist() == [100]
    assert draw(probabilities, torch.tensor([BELOW_1])).tolist() == [size + 99]


def test_rounding_of_a_parallel_sum_draws_no_token_that_cannot_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Tensor.cumsum

    def rounded(tensor: Tensor, dim: int) -> Tensor:
        """As graphics processors sum: each place takes its own way, so neighbours may differ by an ulp both ways."""
        up = torch.arange(tensor.shape[dim]) % 2 == 0
        exact = plain(tensor, dim)
        return torch.where(up, torch.nextafter(exact, torch.tensor(2.0)), exact)

    monkeypatch.setattr(Tensor, "cumsum", rounded)
    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.0, 0.25, 0.5, 0.0]])
    around = [
        torch.nextafter(torch.tensor(at), torch.tensor(to)) for at in (0.0, 0.25, 0.5, 1.0) for to in (0.0, at, 1.0)
    ]
    uniform = torch.stack(around).clamp(0, BELOW_1)
    tokens = draw(probabilities.expand(len(uniform), -1), uniform)
    assert set(tokens.tolist()) == {1, 4, 5}


@settings(max_examples=100)
@given(logits=LOGITS, top_k=st.integers(0, 14), top_p=st.floats(0.01, 1.0))
def test_top_k_and_top_p_keep_what_the_slow_reference_keeps(logits: list[float], top_k: int, top_p: float) -> None:
    expected, nearest = reference(logits, top_k, top_p)
    assume(nearest > 1e-5)  # nearer, and rounding decides
    got = probabilities_of(torch.tensor([logits]), guidance=1.0, top_k=top_k, top_p=top_p)
    torch.testing.assert_close(got[0], torch.tensor(expected), rtol=0, atol=1e-6)
    assert (got[0] > 0).tolist() == [share > 0 for share in expected]


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.5, [0, 1]), (0.51, [0, 1, 2]), (0.25, [0]), (1e-6, [0]), (0.76, [0, 1, 2, 3])]
)
def test_top_p_counts_the_token_that_reaches_it_and_of_equals_the_first(top_p: float, kept: list[int]) -> None:
    got = probabilities_of(torch.zeros(1, 4), guidance=1.0, top_p=top_p)
    assert got.nonzero()[:, 1].tolist() == kept


def test_top_k_keeps_what_is_as_likely_as_the_last_of_them() -> None:
    got = probabilities_of(torch.tensor([[1.0, 3.0, 1.0, 0.0]]), guidance=1.0, top_k=2)
    assert got.nonzero()[:, 1].tolist() == [0, 1, 2]


@pytest.mark.parametrize("guidance", [0.0, 0.3, 2.0, 5.0])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
def test_guidance_and_temperature_follow_their_formulas(guidance: float, temperature: float) -> None:
    with_prompt, without = torch.randn(2, 1, 9, generator=torch.Generator().manual_seed(1))
    got = probabilities_of(torch.cat([with_prompt, without]), guidance=guidance, temperature=temperature)
    led = without.double() + guidance * (with_prompt.double() - without.double())
    torch.testing.assert_close(got.double(), (led / temperature).softmax(-1), rtol=0, atol=1e-6)


def test_guidance_of_1_reads_every_row_as_an_image() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(probabilities_of(logits, guidance=1.0), logits.softmax(-1))


def test_greedy_takes_the_likeliest_whatever_the_random_number() -> None:
    random = torch.Generator().manual_seed(2)
    logits = torch.randn(6, 11, generator=random)
    led = logits[3:] + 4.0 * (logits[:3] - logits[3:])
    for uniform in (0.0, 0.5, BELOW_1):
        tokens = Sampling(4.0, greedy=True).next_tokens(logits, torch.full((3,), uniform))
        assert tokens.equal(led.argmax(-1))


@pytest.mark.parametrize("parameters", [{}, {"top_k": 3, "top_p": 0.8, "temperature": 0.5}, {"greedy": True}])
def test_images_are_drawn_without_regard_to_each_other(parameters: dict[str, Any]) -> None:
    random = torch.Generator().manual_seed(2)
    logits, uniform = torch.randn(10, 11, generator=random), torch.rand(5, generator=random)
    chosen = Sampling(3.0, **parameters)
    together = chosen.next_tokens(logits, uniform)
    alone = [chosen.next_tokens(logits[[k, 5 + k]], uniform[k : k + 1]) for k in range(5)]
    assert together.equal(torch.cat(alone))


@pytest.mark.parametrize(
    ("parameters", "about"),
    [
        ({"guidance": -0.1}, "guidance"),
        ({"guidance": math.nan}, "guidance"),
        ({"guidance": math.inf}, "guidance"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": 1e-40}, "temperature"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_p": math.nan}, "top_p"),
        ({"greedy": True, "temperature": 0.9}, "greedy"),
        ({"greedy": True, "top_k": 5}, "greedy"),
        ({"greedy": True, "top_p": 0.9}, "greedy"),
    ],
)
def test_what_cannot_be_is_refused(parameters: dict[str, Any], about: str) -> None:
    with pytest.raises(UserError, match=f"^{about} ") as refusal:
        Sampling(**parameters)
    check_sentence(refusal.value)


@pytest.mark.parametrize("temperature", [0.001, 1000.0])
def test_the_temperatures_at_the_ends_still_draw(temperature: float) -> None:
    logits = torch.tensor([[-40.0, 90.0, 100.0, 60.0]])
    token = Sampling(1.0, temperature).next_tokens(logits, torch.tensor([0.5]))
    assert token.tolist() == [2]


def test_a_stream_is_its_seed_s_alone() -> None:
    state = torch.get_rng_state()
    together = streams([7, 0, 2**64 - 1, 7], 50)
    assert together.shape == (4, 50)
    assert together.dtype is torch.float32
    assert ((together >= 0) & (together < 1)).all()
    for row, seed in zip(together, [7, 0, 2**64 - 1, 7], strict=True):
        assert row.equal(streams([seed], 50)[0])
    assert together[0].equal(together[3])
    assert not together[0].equal(together[1])
    assert torch.get_rng_state().equal(state)  # nobody else's random numbers are used up
