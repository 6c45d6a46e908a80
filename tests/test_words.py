from __future__ import annotations

import pytest

from ssd_core import Diagonal, UserError, Window, plan
from ssd_core.words import bytes_of, human, slots
from tests.tiny import tiny


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1010, "0.986 KiB"),
        (round(999.6 * 2**10), "0.976 MiB"),
        (1536, "1.5 KiB"),
        (2**20, "1 MiB"),
        (1010 * 2**20, "0.99 GiB"),
        (5 * 2**40, "5120.00 GiB"),
    ],
)
def test_bytes_in_few_digits(count: int, words: str) -> None:
    assert human(count) == words


def test_slots_say_what_is_held_and_what_of_it_is_attended() -> None:
    model = tiny(rows=6, columns=4)
    assert slots(plan(model, Window(9), prompt=4)) == "9"
    assert slots(plan(model, Diagonal(9), prompt=4)) == "16 (9 attended)"
    assert slots(plan(model, Diagonal(20), prompt=4)) == "20"


@pytest.mark.parametrize(
    ("text", "count"),
    [("8GB", 8 * 10**9), ("8gb", 8 * 10**9), ("7.5GiB", 15 * 2**29), ("512 MiB", 2**29), ("10 kb", 10**4)],
)
def test_sizes_are_decimal_or_binary(text: str, count: int) -> None:
    assert bytes_of(text, "--vram") == count


@pytest.mark.parametrize("text", ["8", "GB", "-8GB", "infGB", "8TBB", "8.GB.", ""])
def test_other_texts_are_no_sizes(text: str) -> None:
    with pytest.raises(UserError, match="--vram"):
        bytes_of(text, "--vram")
