"""Folders of pictures, and what each picture was to show."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..errors import UserError
from ..pictures import tiles

PROMPTS = "prompts.jsonl"


@dataclass(frozen=True)
class Sheet:
    """A PNG file of one picture, or of several of one prompt.

    prompt: None where the file itself says it, in its text `prompt`.
    task: the kind of its prompt, where a benchmark has kinds.
    pictures: how many there are, laid out as `mosaic` does.
    """

    path: Path
    prompt: str | None
    task: str = ""
    pictures: int = 1

    def read(self) -> tuple[str, list[Image.Image]]:
        """The prompt and the pictures, in RGB; raises UserError where there is no such thing."""
        try:
            with Image.open(self.path, formats=["PNG"]) as image:
                image.load()  # a PNG's text may follow its pixels
                prompt, whole = self.prompt or image.info.get("prompt"), image.convert("RGB")
        except OSError:
            raise UserError(f"{self.path} cannot be read as a PNG picture.") from None
        if not prompt:
            raise UserError(f"{self.path.name}: it has no text `prompt`, and no line in {PROMPTS}.")
        return prompt, tiles(whole, self.pictures)


def sheets_of(folder: Path) -> list[Sheet]:
    """All PNG files of a folder, in order of their names, each one picture.

    The prompt of each stands in the folder's `prompts.jsonl`, {"file": ..., "prompt": ...} a line, or else in the PNG's
    own text `prompt`. Raises UserError for what is listed and missing, and where there is nothing.
    """
    prompts = _listed_prompts(folder)
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() == ".png")
    missing = sorted(prompts.keys() - {path.name for path in paths})
    if missing:
        raise UserError(f"{PROMPTS} names {missing[0]}, which is not in {folder}.")
    if not paths:
        raise UserError(f"There are no PNG files in {folder}.")
    return [Sheet(path, prompts.get(path.name)) for path in paths]


def _listed_prompts(folder: Path) -> dict[str, str]:
    """The prompt of each file named in the folder's list; without a list, none."""
    if not (folder / PROMPTS).exists():
        return {}
    prompts = {}
    try:
        lines = (folder / PROMPTS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise UserError(f"{folder / PROMPTS} cannot be read as a text ({error}).") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            file, prompt = entry["file"], entry["prompt"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise UserError(f'Line {number} of {PROMPTS} is not {{"file": ..., "prompt": ...}}.') from None
        prompts[str(file)] = str(prompt)
    return prompts
