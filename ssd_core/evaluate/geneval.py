"""GenEval (arXiv 2310.11513): 553 prompts of six tasks, four pictures each, judged by an object detector."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import UserError
from .folders import Benchmark, write_whole
from .gallery import Sheet

METADATA = "metadata.jsonl"


class GenEval(Benchmark):
    """evaluation_metadata.jsonl -> NNNNN/metadata.jsonl, its line, and NNNNN/samples/NNNN.png.

    The scorer passes over everything in the folder whose name is not a number.
    """

    name = "geneval"
    title = "GenEval"
    home = "https://github.com/djghosh13/geneval"

    def read(self, source: Path) -> None:
        try:
            lines = source.read_text(encoding="utf-8-sig").split("\n")  # a prompt may hold other ends of lines
        except (OSError, UnicodeError) as error:
            raise UserError(
                f"{source} cannot be read ({error}); --prompts is GenEval's evaluation_metadata.jsonl."
            ) from None
        numbered = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
        if not numbered:
            raise UserError(f"{source} holds no prompts; --prompts is GenEval's evaluation_metadata.jsonl.")
        self.prompts = [entry_of(line, f"Line {number} of {source}")["prompt"] for number, line in numbered]
        self.content = [line for _, line in numbered]

    def missing(self) -> list[int]:
        return [number for number in range(self.total) if not self.file(number).exists()]

    def add(self, number: int, picture: Image.Image, text: Mapping[str, str]) -> None:
        file = self.file(number)
        place, at = divmod(number, self.images)
        if at == 0:
            write_whole(file.parents[1] / METADATA, f"{self.content[place]}\n".encode(), self.folder)
        self.write(file, picture, text)

    def file(self, number: int) -> Path:
        """Where a picture is."""
        prompt, picture = divmod(number, self.images)
        return self.folder / f"{prompt:05}" / "samples" / f"{picture:04}.png"

    def scorer(self, side: int) -> list[str]:
        pictures = self.folder.resolve()
        results = shlex.quote(str(pictures / "results.jsonl"))
        return [
            f"python evaluation/evaluate_images.py {shlex.quote(str(pictures))} --outfile {results} "
            "--model-path OBJECT_DETECTOR_FOLDER",
            f"python evaluation/summary_scores.py {results}",
        ]

    @staticmethod
    def sheets(folder: Path, images: int) -> list[Sheet]:
        found = []
        for own in sorted(path for path in folder.iterdir() if path.name.isdigit()):
            try:
                line = (own / METADATA).read_text(encoding="utf-8")
            except (OSError, UnicodeError) as error:
                raise UserError(f"{own / METADATA} cannot be read ({error}).") from None
            entry = entry_of(line, str(own / METADATA))
            files = sorted((own / "samples").glob("*.png"))
            found += [Sheet(file, entry["prompt"], entry["tag"]) for file in files]
        return found


def entry_of(line: str, place: str) -> dict[str, Any]:
    """What a line of the metadata says; raises UserError, which names the place, for any other line."""
    try:
        entry = json.loads(line)
        if all(entry[name].strip().encode() for name in ("prompt", "tag")):
            return dict(entry)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(f'{place} is not GenEval\'s {{"tag": ..., "include": ..., "prompt": ...}}.')
