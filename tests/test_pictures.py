from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ssd_core import pictures


def test_a_picture_of_sixteen_bits_is_scaled_not_clipped(tmp_path: Path) -> None:
    grey = np.array([[0, 2000, 32768, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "mask.png")
    read = pictures.read(tmp_path / "mask.png", "L")
    assert np.allclose(read.numpy(), grey / 65535, atol=1 / 255)
