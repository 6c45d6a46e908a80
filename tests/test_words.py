from __future__ import annotations

import pytest

from ssd_core.words import human


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
