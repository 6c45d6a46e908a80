"""What fits on which card."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import cards
from bench.cards import BUDGET, CARDS, DOCUMENT, KEPT_IN, OF_README, README, RESERVE, SHOWN, Fits, Way, fits
from ssd_core import Full, Window, largest_batch
from ssd_core.cli.plan import empty
from ssd_core.models.known import KNOWN
from ssd_core.models.small import WEIGHTS
from tests.tiny import tiny


def test_each_card_holds_its_largest_batch_beside_the_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(rows=12, columns=12)
    monkeypatch.setattr(cards, "empty", lambda *_: model)
    least, most = (fits(Way("any", "auto", "window"), reserve, [1])[1] for reserve in (1 - 2**-8, 1 - 2**-7))
    for found, free in ((least, 2**22), (most, 2**23)):
        assert found == [largest_batch(model, Window(BUDGET), free, kv_dtype=kept_in) for kept_in in KEPT_IN]
    assert 0 < least[0] < most[0] < most[1]


def test_the_tables_have_every_way_and_card(tmp_path: Path) -> None:
    found: dict[Way, Fits] = {}
    for model in KNOWN:
        for weights in WEIGHTS:
            for method in SHOWN:
                number = 10 * len(found)
                found[Way(model, weights, method)] = {card: [number + card, number + card + 1] for card in CARDS}
    lines = cards.whole(found).splitlines()
    assert [line for line in lines if line.startswith("## ")] == [f"## {model}" for model in KNOWN]
    assert "| auto | full | 6 / 7 | 8 / 9 | 12 / 13 | 16 / 17 | 24 / 25 |" in lines
    assert "| nf4 | headkv | 396 / 397 | 398 / 399 | 402 / 403 | 406 / 407 | 414 / 415 |" in lines
    assert "| Janus-Pro-7B, nf4 | 358 / 359 | 368 / 369 | 378 / 379 | 388 / 389 | 398 / 399 |" in cards.short(found)


@pytest.mark.parametrize(
    ("way", "card"), [(Way("Janus-Pro-7B", "int4", "ssd"), OF_README), (Way("Janus-Pro-7B", "int8", "window"), 24)]
)
def test_what_is_written_is_what_is_planned(way: Way, card: int) -> None:
    model, free = empty(way.model, "bf16", way.weights), int((card - RESERVE) * 2**30)
    most = [largest_batch(model, way.policy(), free, kv_dtype=kept_in) for kept_in in KEPT_IN]
    whole, short = DOCUMENT.read_text(encoding="utf-8"), README.read_text(encoding="utf-8")
    [row] = re.findall(rf"^\| {way.weights} \| {way.method} \|(.*)\|$", whole.split(f"## {way.model}")[1], re.MULTILINE)
    assert row.split("|")[CARDS.index(card)].strip() == cards.cell(most)
    if card == OF_README:
        assert most[0] >= 4  # as is promised of so small a card
        [row] = re.findall(rf"^\| {way.model}, {way.weights} \|(.*)\|$", short, re.MULTILINE)
        assert row.split("|")[SHOWN.index(way.method)].strip() == cards.cell(most)
    for text in (whole, short):
        assert f"{RESERVE:g} GiB of each card" in text


def test_only_the_full_cache_has_no_budget() -> None:
    assert Way("any", "auto", "full").policy() == Full()
    assert Way("any", "auto", "window").policy() == Window(BUDGET)
