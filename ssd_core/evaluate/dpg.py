"""DPG-Bench (arXiv 2403.05135): 1065 long prompts, four pictures each, judged by a model that answers questions."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from ..errors import UserError
from ..pictures import mosaic
from .folders import Benchmark
from .gallery import Sheet

PICTURES = "images"
MOST = 4  # pictures of a prompt that the scorer can be told to cut out


class Dpg(Benchmark):
    """A folder of <item>.txt -> images/<item>.png, in which the pictures stand two by two.

    The scorer takes every file beside the pictures for one, so they have a folder of their own. It cuts the pictures
    out row by row, and looks up the item by what stands before the first dot of the file's name.
    """

    name = "dpg"
    title = "DPG-Bench"
    home = "https://github.com/TencentQQGYLab/ELLA"

    def __init__(self, source: Path, folder: Path, images: int) -> None:
        if images > MOST:
            raise UserError(f"DPG-Bench's scorer reads {MOST} pictures of a prompt at most, so not --images {images}.")
        super().__init__(source, folder, images)
        self.held: list[tuple[Image.Image, Mapping[str, str]]] = []  # pictures of an item that is not whole yet

    def read(self, source: Path) -> None:
        files = sorted(path for path in source.glob("*.txt") if not path.name.startswith("."))
        if not files:
            raise UserError(f"{source} is no folder of .txt files; --prompts is DPG-Bench's dpg_bench/prompts.")
        self.items = [file.stem for file in files]
        self.prompts = [text_of(file) for file in files]
        self.content = [text for pair in zip(self.items, self.prompts, strict=True) for text in pair]

    def missing(self) -> list[int]:
        places = [place for place, item in enumerate(self.items) if not self.file(item).exists()]
        return [place * self.images + picture for place in places for picture in range(self.images)]

    def add(self, number: int, picture: Image.Image, text: Mapping[str, str]) -> None:
        place, at = divmod(number, self.images)
        self.held = [*self.held[:at], (picture, text)]
        if len(self.held) == self.images:
            seeds = ", ".join(own["seed"] for _, own in self.held)
            self.write(self.file(self.items[place]), mosaic([own for own, _ in self.held]), {**text, "seed": seeds})

    def file(self, item: str) -> Path:
        """Where the pictures of an item are."""
        return self.folder / PICTURES / f"{item}.png"

    def scorer(self, side: int) -> list[str]:
        folder = self.folder.resolve()
        pictures, results = shlex.quote(str(folder / PICTURES)), shlex.quote(str(folder / "results.txt"))
        launch = "accelerate launch --num_machines 1 --num_processes 1 --mixed_precision fp16"
        about = f"--image-root-path {pictures} --resolution {side} --pic-num {self.images} --res-path {results}"
        return [f"{launch} dpg_bench/compute_dpg_bench.py {about} --vqa-model mplug"]

    @staticmethod
    def sheets(folder: Path, images: int) -> list[Sheet]:
        return [Sheet(file, None, pictures=images) for file in sorted((folder / PICTURES).glob("*.png"))]


def text_of(file: Path) -> str:
    """An item's prompt; raises UserError for a file that cannot be one."""
    if "." in file.stem:
        raise UserError(f"DPG-Bench's scorer would look up {file.stem} by {file.stem.split('.')[0]}; rename {file}.")
    try:
        text = file.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeError) as error:
        raise UserError(f"{file} cannot be read as a text ({error}).") from None
    if not text:
        raise UserError(f"{file} holds no prompt; write one into it or remove it.")
    return text
