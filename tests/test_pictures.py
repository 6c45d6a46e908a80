from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssd_core import pictures


def test_a_picture_of_sixteen_bits_is_scaled_not_clipped(tmp_path: Path) -> None:
    grey = np.array([[0, 2000, 32768, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "mask.png")
    read = pictures.read(tmp_path / "mask.png", "L")
    assert np.allclose(read.numpy(), grey / 65535, atol=1 / 255)


@pytest.mark.parametrize("count", range(1, 8))
def test_a_mosaic_comes_apart_again(count: int) -> None:
    parts = [Image.new("RGB", (4, 6), (shade, 20 * shade, 7)) for shade in range(count)]
    whole = pictures.mosaic(parts)
    assert [part.tobytes() for part in pictures.tiles(whole, count)] == [part.tobytes() for part in parts]
