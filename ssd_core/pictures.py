"""Pictures as files: PNG, with what they were drawn from inside."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from .errors import UserError

NAME = 40  # characters of a prompt in a file's name


def to_pil(images: Tensor) -> list[Image.Image]:
    """float [n, height, width, 3] in 0..1 -> n pictures."""
    return [Image.fromarray(picture.numpy()) for picture in (images * 255).round().to("cpu", torch.uint8)]


def from_pil(picture: Image.Image) -> Tensor:
    """A picture -> float32 [height, width, 3] in 0..1, or [height, width] where it is grey."""
    return torch.from_numpy(np.asarray(picture, np.float32) / 255)


def read(path: Path, mode: str = "RGB") -> Tensor:
    """A picture's file, taken in colours ("RGB") or in grey ("L"), as `from_pil` gives it."""
    try:
        with Image.open(path) as picture:
            if picture.mode.startswith("I;16"):  # which PIL would clip to 255, not scale
                return from_pil(Image.fromarray((np.asarray(picture, np.uint16) >> 8).astype(np.uint8)).convert(mode))
            return from_pil(picture.convert(mode))
    except OSError as error:
        raise UserError(f"{path} cannot be read as a picture ({error.strerror or 'of no known format'}).") from None


def mosaic(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size edge to edge, in as many columns as rows or one more."""
    columns, rows = mosaic_shape(len(pictures))
    width, height = pictures[0].size
    whole = Image.new("RGB", (columns * width, rows * height))
    for place, picture in enumerate(pictures):
        whole.paste(picture, (place % columns * width, place // columns * height))
    return whole


def tiles(whole: Image.Image, count: int) -> list[Image.Image]:
    """The pictures of a mosaic of `count`."""
    columns, rows = mosaic_shape(count)
    width, height = whole.width // columns, whole.height // rows
    corners = [(place % columns * width, place // columns * height) for place in range(count)]
    return [whole.crop((x, y, x + width, y + height)) for x, y in corners]


def mosaic_shape(count: int) -> tuple[int, int]:
    """The columns and rows of a mosaic."""
    columns = math.ceil(math.sqrt(count))
    return columns, -(-count // columns)


def save(folder: Path, pictures: Sequence[Image.Image], texts: Sequence[Mapping[str, str]]) -> list[Path]:
    """Write pictures into an existing folder and return their paths; nothing is ever overwritten.

    texts: what each PNG says of itself; its `prompt` also names the file, after a number that goes on from the largest
        in the folder.
    """
    numbers = (re.match(r"\d+", path.name) for path in folder.iterdir())
    number = max((int(found[0]) for found in numbers if found), default=0)
    paths = []
    for picture, text in zip(pictures, texts, strict=True):
        number += 1
        path = folder / f"{number:04}-{file_name(text['prompt'])}.png"
        with path.open("xb") as file:
            write(picture, file, text)
        paths.append(path)
    return paths


def write(picture: Image.Image, file: IO[bytes], text: Mapping[str, str]) -> None:
    """Write a picture as PNG with what it says of itself."""
    info = PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    picture.save(file, "PNG", pnginfo=info)


def file_name(prompt: str) -> str:
    """The beginning of a prompt in characters that every file system takes."""
    return "-".join(re.findall(r"\w+", prompt.lower()))[:NAME].strip("-") or "picture"
