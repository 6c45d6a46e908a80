"""Measured shares against a plain computation with whole matrices, and against heads whose shape is known."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ssd_core import UserError, generate
from ssd_core.heads import measure, shares
from ssd_core.heads.measure import ReachMeter, ShareMeter, outside
from ssd_core.heads.replay import Shown, replay
from ssd_core.models.base import Geometry, ImageModel
from ssd_core.policies import SSD
from tests.heads.whole import random_pictures, whole_attention
from tests.tiny import tiny

JANUS = Geometry(layers=1, heads=1, kv_heads=1, head_dim=128, rows=24, columns=24, codebook=16384)
FED = JANUS.tokens - 1  # the last token is drawn, but never fed back
NEAR = JANUS.columns + 2


def plain_shares(model: ImageModel, ids: list[int], tokens: Tensor, neighbourhood: int) -> Tensor:
    """The same with each entry of the matrices looked at by itself."""
    share, prompt = torch.zeros(model.geometry.layers, model.geometry.heads), len(ids)
    for picture in tokens:
        for place, matrix in enumerate(whole_attention(model, ids, picture).flatten(0, 1)):
            of_queries = []
            for query in range(prompt + neighbourhood, len(matrix)):
                far = sum(float(matrix[query, key]) for key in range(prompt, query - neighbourhood + 1))
                of_queries.append(far / sum(float(matrix[query, key]) for key in range(prompt, query + 1)))
            share.view(-1)[place] += sum(of_queries) / len(of_queries) / len(tokens)
    return share


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("neighbourhood", [None, 1, 5, 9, 28])
def test_shares_equal_a_plain_computation_with_whole_matrices(kv_heads: int, neighbourhood: int | None) -> None:
    model = tiny(layers=3, kv_heads=kv_heads, rows=5, columns=6)
    ids, tokens = model.encode("a red dot"), random_pictures(model, 2)
    got = shares(model, ids, tokens, neighbourhood)
    torch.testing.assert_close(got, plain_shares(model, ids, tokens, neighbourhood or 6 + 2), rtol=1e-4, atol=1e-5)
    assert (got.std() > 0.02) or neighbourhood in (1, 28)  # the heads differ, so that mixed up heads would be seen


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_what_goes_beyond_a_window_equals_a_plain_computation(kv_heads: int) -> None:
    model = tiny(layers=2, kv_heads=kv_heads, rows=5, columns=6)
    ids, tokens = model.encode("a red dot"), random_pictures(model, 2)
    meter, prompt = ReachMeter(model.geometry, "cpu"), len(ids)
    replay(model, ids, tokens, [meter])
    plain, most = torch.zeros(2, 4, 7), torch.zeros(8)
    for picture in tokens:
        for place, matrix in enumerate(whole_attention(model, ids, picture).flatten(0, 1)):
            for window in range(1, 8):
                lost = [
                    float(matrix[query, key])
                    for query in range(prompt, len(matrix))
                    for key in range(prompt, query + 1 - window)
                ]
                plain.view(8, 7)[place, window - 1] += sum(lost) / (len(matrix) - prompt) / len(tokens)
            far = [float(row[prompt : max(query - 6, prompt)].sum()) for query, row in enumerate(matrix)]
            most[place] = max(float(most[place]), *far[prompt:])
    torch.testing.assert_close(meter.beyond(), plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(meter.peak.flatten(), most, rtol=1e-4, atol=1e-5)
    assert (most > 1.2 * plain[..., -1].flatten()).all()
    assert plain.std() > 0.02
    assert (plain.diff(dim=-1) < 0).all()


def test_shares_are_exact_where_the_prompt_takes_nearly_all_attention() -> None:
    """With 200 added to the prompt's logits, float32 attention to image tokens is 0: its shares must not be 0 / 0."""
    geometry = Geometry(layers=1, heads=1, kv_heads=1, head_dim=2, rows=4, columns=4, codebook=20)
    q, k = torch.zeros(1, 2 + 15, 1, 2), torch.zeros(1, 2 + 15, 1, 2)
    q[..., 0] = 2**0.5
    k[:, :2, :, 0] = 200
    meter = ShareMeter(geometry, neighbourhood=6, device="cpu")
    Shown(geometry, prompt=2, meters=[meter]).attend(0, torch.cat([q, k, k], 2))
    even = [(image + 1 - 6) / (image + 1) for image in range(6, 15)]
    assert meter.shares().item() == pytest.approx(sum(even) / len(even), abs=1e-6)


def test_no_share_passes_one() -> None:
    """All attention goes outside, and its rounded parts add up to more than 1 here and there."""
    logits = torch.randn(64, 95, 95, generator=torch.Generator().manual_seed(0))
    logits = logits.masked_fill(torch.ones(95, 95).tril(-1) == 0, -torch.inf)
    assert logits[:, 1:].softmax(-1).sum(-1).max() > 1
    assert outside(logits, 0, 1)[:, 1:].max() == 1


def synthetic(look: dict[str, float]) -> Tensor:
    """A head [1, 1, queries, keys] that gives these parts of its attention, each evenly, to these image tokens."""
    attention = torch.zeros(FED, FED)
    for query in range(FED):
        keys = {
            "itself": [query],
            "above": [max(query - JANUS.columns, 0)],
            "everywhere": list(range(query + 1)),
            "margins": [key for key in range(query + 1) if key % JANUS.columns in (0, JANUS.columns - 1)],
        }
        for where, part in look.items():
            attention[query, keys[where]] += part / len(keys[where])
    return attention[None, None]


def share_of(attention: Tensor) -> float:
    """What the measure makes of a head's attention, given in rows of the picture as it comes from a decoder."""
    meter = ShareMeter(JANUS, neighbourhood=NEAR, device="cpu")
    for start, stop in pairwise([*range(0, FED, JANUS.columns), FED]):
        meter.add(0, attention[:, :, start:stop, :stop].log(), prompt=0)
    return meter.shares().item()


def test_a_head_that_looks_at_the_token_above_is_spatial() -> None:
    """The spatial example of arXiv 2510.18716 scores 0.057."""
    share = share_of(synthetic({"above": 0.93, "everywhere": 0.07}))
    assert share == pytest.approx(0.057, abs=0.01)
    assert share < SSD().tau


def test_a_head_that_looks_at_the_margins_is_semantic() -> None:
    """The semantic example of arXiv 2510.18716 scores 0.72."""
    share = share_of(synthetic({"margins": 0.8, "itself": 0.2}))
    assert share == pytest.approx(0.72, abs=0.05)
    assert share > SSD().tau


@pytest.mark.parametrize(("distance", "expected"), [(0, 0), (23, 0), (24, 0), (25, 0), (26, 1), (100, 1)])
def test_the_neighbourhood_ends_beyond_the_left_neighbour_of_the_token_above(distance: int, expected: int) -> None:
    query = 10 * JANUS.columns + 5
    attention = torch.zeros(1, 1, query + 1)
    attention[..., query - distance] = 1
    assert outside(attention.log(), query, NEAR).item() == expected


def test_measure_draws_with_the_full_cache_and_averages_over_prompts_and_pictures() -> None:
    model = tiny()
    prompts = ["red", "a blue square", "dot"]
    head_map = measure(model, prompts, images_per_prompt=2, seed=7, guidance=3.0)
    drawn = generate(model, prompts, images_per_prompt=2, seed=7, guidance=3.0).tokens
    of_prompts = [shares(model, model.encode(prompt), drawn[2 * n : 2 * n + 2]) for n, prompt in enumerate(prompts)]
    torch.testing.assert_close(head_map.share, torch.stack(of_prompts).mean(0))
    head_map.check(model.geometry)
    assert head_map.about == {
        "model": "tiny",
        "source": "measured",
        "prompts": "3",
        "neighbourhood": "6",
        "head_dim": "8",
    }


def test_a_neighbourhood_given_is_used_and_noted() -> None:
    model = tiny()
    head_map = measure(model, ["red"], neighbourhood=3)
    drawn = generate(model, ["red"]).tokens
    torch.testing.assert_close(head_map.share, shares(model, model.encode("red"), drawn, 3))
    assert head_map.about["neighbourhood"] == "3"


def test_progress_counts_the_rows_of_all_prompts() -> None:
    seen = []
    measure(tiny(), ["red", "blue"], on_progress=lambda done, whole: seen.append((done, whole)))
    assert seen == [(done, 8) for done in range(1, 9)]


def test_what_progress_returns_does_not_stop_the_drawing() -> None:
    model = tiny()
    told = measure(model, ["red"], on_progress=lambda done, whole: True)
    assert torch.equal(told.share, measure(model, ["red"]).share)


def test_measuring_is_ended_within_a_token() -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 18:  # in the second prompt's picture
            raise InterruptedError

    with pytest.raises(InterruptedError):
        measure(tiny(), ["red", "blue"], check=check)
    assert calls == 18


@pytest.mark.parametrize("neighbourhood", [0, -1, 15])
def test_a_neighbourhood_that_leaves_nothing_to_tell_apart_is_refused_before_drawing(neighbourhood: int) -> None:
    with pytest.raises(UserError, match="give 1 to 14"):
        measure(tiny(), ["red"], neighbourhood, on_progress=lambda *_: pytest.fail("drew first"))


def test_one_prompt_that_is_no_list_is_refused() -> None:
    with pytest.raises(UserError, match="prompts is a list"):
        measure(tiny(), "red")


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(16, dtype=torch.int64), "table"),
        (torch.zeros(0, 16, dtype=torch.int64), "table"),
        (torch.zeros(1, 15, dtype=torch.int64), "table"),
        (torch.full((1, 16), -1), "to the end"),
        (torch.full((1, 16), 20), "0..19"),
    ],
)
def test_tokens_that_are_no_whole_pictures_are_refused(tokens: Tensor, message: str) -> None:
    model = tiny()
    with pytest.raises(UserError, match=message):
        shares(model, model.encode("red"), tokens)
