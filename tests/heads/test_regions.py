"""Where attention goes, against a plain computation with whole matrices, and against heads whose shape is known."""

from __future__ import annotations

from itertools import pairwise
from math import ceil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssd_core import UserError
from ssd_core.heads import measure
from ssd_core.heads.measure import ShareMeter
from ssd_core.heads.regions import REGIONS, RegionMeter, Regions, largest_holding, newest_holding
from ssd_core.heads.replay import replay
from ssd_core.models.base import Geometry, ImageModel
from tests.heads.whole import random_pictures, whole_attention
from tests.tiny import tiny

PLACES = list(REGIONS)


def region(query: int, key: int, columns: int) -> str:
    """The region of an image token, or of the prompt where `key` is below 0, looked up from the picture."""
    if key < 0:
        return "prompt"
    (row, column), (asks, own) = divmod(key, columns), divmod(query, columns)
    if row == asks:
        return "own row"
    if row == asks - 1:
        return "above" if abs(column - own) <= 1 else "row above"
    return "margins" if column in (0, columns - 1) else "rest"


def seen(geometry: Geometry, attention: Tensor, prompt: int) -> Regions:
    """Regions of attention float [B, heads, queries, prompt + image keys] of one layer, shown row by row."""
    meter = RegionMeter(geometry, "cpu")
    fed = attention.shape[2]
    for start, stop in pairwise([*range(0, fed, geometry.columns), fed]):
        meter.add(0, attention[:, :, start:stop, : prompt + stop].float().log(), prompt)
    return meter.regions()


def plain_regions(model: ImageModel, ids: list[int], tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """share, columns, newest and largest, each entry of the matrices looked at by itself."""
    g, prompt = model.geometry, len(ids)
    share = torch.zeros(g.layers * g.heads, g.rows, len(REGIONS))
    columns = torch.zeros(g.layers * g.heads, g.rows, g.columns)
    newest, largest = torch.zeros(g.layers * g.heads, g.rows), torch.zeros(g.layers * g.heads, g.rows)
    for picture in tokens:
        for place, matrix in enumerate(whole_attention(model, ids, picture).flatten(0, 1)):
            for query, attention in enumerate(matrix[prompt:].tolist()):
                row = query // g.columns
                part = 1 / (len(tokens) * (g.columns - (row == g.rows - 1)))
                for key in range(-prompt, query + 1):
                    name = region(query, key, g.columns)
                    share[place, row, PLACES.index(name)] += attention[prompt + key] * part
                    if name in ("margins", "rest"):
                        columns[place, row, key % g.columns] += attention[prompt + key] * part
                image = attention[prompt : prompt + query + 1]
                newest[place, row] += holding(image[::-1]) * part
                largest[place, row] += holding(sorted(image, reverse=True)) * part
    each = (g.layers, g.heads)
    return share.unflatten(0, each), columns.unflatten(0, each), newest.unflatten(0, each), largest.unflatten(0, each)


def holding(attention: list[float]) -> int:
    """How many of the first hold nine tenths of the whole."""
    return next(n for n in range(1, len(attention) + 1) if sum(attention[:n]) >= 0.9 * sum(attention))


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_regions_equal_a_plain_computation_with_whole_matrices(kv_heads: int) -> None:
    model = tiny(layers=2, kv_heads=kv_heads, rows=4, columns=5)
    ids, tokens = model.encode("a red dot"), random_pictures(model, 2)
    meter = RegionMeter(model.geometry, "cpu")
    replay(model, ids, tokens, [meter])
    got = meter.regions()
    found = (got.share, got.columns, got.newest, got.largest)
    for measured, plain in zip(found, plain_regions(model, ids, tokens), strict=True):
        torch.testing.assert_close(measured, plain, rtol=1e-4, atol=1e-5)
        assert measured.std() > 0.02  # heads and steps differ, so that mixed up ones would be seen


@given(st.data())
def test_every_attended_token_is_in_one_region(data: st.DataObject) -> None:
    """All attention on one token goes whole to that token's region; attention at random adds up to 1."""
    rows, columns, prompt = (data.draw(st.integers(low, 6)) for low in (1, 3, 1))
    geometry = Geometry(layers=1, heads=2, kv_heads=1, head_dim=1, rows=rows, columns=columns, codebook=20)
    fed = geometry.tokens - 1
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    sharp = data.draw(st.floats(0, 30))
    logits = torch.randn(1, 1, fed, prompt + fed, generator=generator) * sharp
    random = logits.masked_fill(torch.ones(fed, prompt + fed).tril(prompt) == 0, -torch.inf).softmax(-1)
    keys = [data.draw(st.integers(-prompt, query)) for query in range(fed)]
    one = torch.zeros(1, 1, fed, prompt + fed)
    one[0, 0, range(fed), [prompt + key for key in keys]] = 1
    found = seen(geometry, torch.cat([random, one], 1), prompt)
    assert found.share.min() >= 0
    torch.testing.assert_close(found.share.sum(-1), torch.ones(1, 2, rows))
    torch.testing.assert_close(found.columns.sum(-1), found.share[..., -3:-1].sum(-1))
    expected = torch.zeros(rows, len(REGIONS))
    for query, key in enumerate(keys):
        expected[query // columns, PLACES.index(region(query, key, columns))] += 1
    torch.testing.assert_close(found.share[0, 1] * found.queries[:, None], expected)


JANUS = Geometry(layers=1, heads=1, kv_heads=1, head_dim=128, rows=24, columns=24, codebook=16384)
FED = JANUS.tokens - 1
PROMPT = 7


def looking(where: str) -> Regions:
    """A head that looks at one place alone, and at the prompt until there is such a place."""
    attention = torch.zeros(1, 1, FED, PROMPT + FED)
    for query in range(FED):
        row = query // JANUS.columns
        keys = {
            "prompt": range(-PROMPT, 0),
            "itself": [query],
            "straight above": [query - JANUS.columns] if row else [],
            "row above": range((row - 1) * JANUS.columns, row * JANUS.columns) if row else [],
            "margins": [line * JANUS.columns + side for line in range(row - 1) for side in (0, 23)],
            "last column": [line * JANUS.columns + 23 for line in range(row - 1)],
            "first token": [0],
        }[where] or range(-PROMPT, 0)
        for key in keys:
            attention[0, 0, query, PROMPT + key] = 1 / len(keys)
    return seen(JANUS, attention, PROMPT)


@pytest.mark.parametrize(
    ("where", "name", "first"),
    [
        ("prompt", "prompt", 0),
        ("itself", "own row", 0),
        ("straight above", "above", 1),
        ("margins", "margins", 2),
        ("last column", "margins", 2),
        ("first token", "margins", 2),
    ],
)
def test_a_head_that_looks_at_one_place_has_all_its_attention_there(where: str, name: str, first: int) -> None:
    """From the step on at which the place exists."""
    share = looking(where).share[0, 0, :, PLACES.index(name)]
    torch.testing.assert_close(share, (torch.arange(24) >= first).float())


def test_a_head_that_looks_at_the_row_above_evenly() -> None:
    """Three of 24 tokens are straight above and beside that, two where the one that asks stands at a margin."""
    found = looking("row above")
    above = torch.full((23,), (22 * 3 + 2 * 2) / 24**2)
    above[-1] = (22 * 3 + 2) / (23 * 24)  # whose last token never asks
    torch.testing.assert_close(found.share[0, 0, 1:, 0], above)
    torch.testing.assert_close(found.share[0, 0, 1:, :2].sum(-1), torch.ones(23))


def test_columns_say_which_margin() -> None:
    columns = looking("last column").columns[0, 0]
    assert columns[2:, 23].allclose(torch.ones(22))
    assert not columns[:, :23].any()
    assert looking("margins").columns[0, 0, 2:][:, [0, 23]].allclose(torch.tensor(0.5))


def test_the_whole_is_the_mean_over_queries_not_over_steps() -> None:
    found = looking("straight above")
    assert found.whole(found.share)[0, 0, 0].item() == pytest.approx((FED - 24) / FED)


def test_a_head_that_looks_straight_above_needs_a_row_and_one_backward_and_one_at_best() -> None:
    found = looking("straight above")
    assert (found.newest[0, 0, 1:] == 25).all()
    assert (found.largest[0, 0, 1:] == 1).all()


@pytest.mark.parametrize("keys", [1, 7, 24, 575])
def test_even_attention_takes_nine_tenths_of_its_tokens(keys: int) -> None:
    even = torch.full((1, keys), 1 / keys)
    assert newest_holding(even).item() == largest_holding(even).item() == ceil(0.9 * keys - 1e-3)


def test_keys_after_the_query_are_not_counted() -> None:
    attention = torch.tensor([[0.05, 0.95, 0.0, 0.0], [0.0, 0.5, 0.5, 0.0], [0.95, 0.0, 0.0, 0.05]])
    assert newest_holding(attention).tolist() == [1, 2, 4]
    assert largest_holding(attention).tolist() == [1, 2, 1]


def test_one_measuring_serves_the_map_and_the_regions() -> None:
    model = tiny(rows=5)
    meter, prompts = RegionMeter(model.geometry, "cpu"), ["red", "a blue square"]
    together = measure(model, prompts, images_per_prompt=2, seed=3, meters=[meter])
    assert torch.equal(together.share, measure(model, prompts, images_per_prompt=2, seed=3).share)
    again = RegionMeter(model.geometry, "cpu")
    measure(model, prompts, images_per_prompt=2, seed=3, meters=[again, ShareMeter(model.geometry, 6, "cpu")])
    assert torch.equal(meter.regions().share, again.regions().share)
    assert (meter.pictures == 4).all()


def test_a_grid_with_nothing_between_its_margins_is_refused() -> None:
    RegionMeter(tiny(rows=2, columns=3).geometry, "cpu")
    with pytest.raises(UserError, match="3 columns"):
        RegionMeter(tiny(rows=8, columns=2).geometry, "cpu")
