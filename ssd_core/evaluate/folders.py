"""Folders of pictures for scorers that are not ours: drawn in batches, at any time interrupted and taken up again.

Pictures are numbered prompt by prompt: picture k of prompt p, both counted from 0, is number p * images + k and is
drawn with seed + its number, whatever is drawn beside it and whenever. The folder says in `settings.json` how its
pictures are drawn; only the same settings go on with it.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor

from ..errors import UserError
from ..heads.headmap import HeadMap
from ..loop import OnRow, generate
from ..models.base import ImageModel
from ..pictures import to_pil, write
from ..policies import Policy
from ..report import method_of, settings_of, versions
from ..tokens import UNDRAWN
from .gallery import Sheet

SETTINGS = "settings.json"
KINDS = {"benchmark": str, "prompts": int, "images": int, "settings": dict, "versions": list}  # what we rely on in it
SAMPLE = 16  # values of each weight that its checksum reads


class Benchmark(ABC):
    """A benchmark's prompts, and the folder of pictures that its own scorer reads.

    name, title, home: what the command calls it, what people call it, and where its scorer is.
    prompts: in the benchmark's order.
    content: what of the benchmark decides what the folder holds.
    images: pictures of each prompt.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    home: ClassVar[str]
    prompts: list[str]
    content: list[str]

    def __init__(self, source: Path, folder: Path, images: int) -> None:
        """Read the prompts; raises UserError for what is not this benchmark's."""
        if images < 1:
            raise UserError(f"--images is 1 at least, not {images}.")
        self.folder, self.images = folder, images
        self.read(source)

    @abstractmethod
    def read(self, source: Path) -> None:
        """Set `prompts` and `content` to what the benchmark's own file or folder holds."""

    @property
    def total(self) -> int:
        """How many pictures there will be."""
        return len(self.prompts) * self.images

    @abstractmethod
    def missing(self) -> list[int]:
        """The numbers of the pictures that are to be drawn, rising."""

    @abstractmethod
    def add(self, number: int, picture: Image.Image, text: Mapping[str, str]) -> None:
        """Take a picture and what its file is to say; called in the order of `missing`."""

    @abstractmethod
    def scorer(self, side: int) -> list[str]:
        """The commands that score the folder's pictures of side x side pixels, for a shell in the scorer's folder."""

    @staticmethod
    @abstractmethod
    def sheets(folder: Path, images: int) -> list[Sheet]:
        """The pictures that are in a folder."""

    def batches(self, size: int) -> Iterator[list[int]]:
        """The numbers of the missing pictures, at most `size` at once, each batch without a gap."""
        batch: list[int] = []
        for number in self.missing():
            if batch and (len(batch) == size or number != batch[-1] + 1):
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch

    def write(self, file: Path, picture: Image.Image, text: Mapping[str, str]) -> None:
        """Write a picture, whole or not at all."""
        buffer = io.BytesIO()
        write(picture, buffer, text)
        write_whole(file, buffer.getvalue(), self.folder)


def draw_batch(
    model: ImageModel,
    benchmark: Benchmark,
    numbers: list[int],
    policy: Policy,
    drawing: Mapping[str, Any],
    on_row: OnRow | None = None,
) -> None:
    """Draw pictures of consecutive numbers and put them into the folder; none of them where `on_row` stops.

    policy: fitted to the model.
    drawing: what else `generate` is told; its seed is that of number 0.
    """
    prompts = [benchmark.prompts[number // benchmark.images] for number in numbers]
    result = generate(model, prompts, policy, on_row=on_row, **{**drawing, "seed": drawing["seed"] + numbers[0]})
    if (result.tokens == UNDRAWN).any():
        return
    settings = json.dumps(settings_of(model, policy, drawing))
    about = {"model": model.name, "method": method_of(policy), "settings": settings}
    for number, picture, prompt, seed in zip(numbers, to_pil(result.images), prompts, result.seeds, strict=True):
        benchmark.add(number, picture, {"prompt": prompt, "seed": str(seed)} | about)


def claim(model: ImageModel, benchmark: Benchmark, policy: Policy, drawing: Mapping[str, Any]) -> None:
    """Say in the folder how its pictures are drawn; raises UserError where there are some that are drawn otherwise.

    policy, drawing: as `draw_batch` takes them. The versions of what draws are kept but not compared.
    """
    maps = {field.name: getattr(policy, field.name) for field in fields(policy)}  # type: ignore[arg-type]
    stating = {
        "benchmark": benchmark.name,
        "prompts": len(benchmark.prompts),
        "prompts_checksum": f"{zlib.crc32(json.dumps(benchmark.content).encode()):08x}",
        "images": benchmark.images,
        "model": model.name,
        "method": method_of(policy),
        "weights_checksum": checksum(weight.flatten()[:SAMPLE] for weight in model.state_dict().values()),
        "head_map_checksum": checksum(value.share for value in maps.values() if isinstance(value, HeadMap)),
        "settings": settings_of(model, policy, drawing),
        "versions": [],
    }
    own = json.loads(json.dumps(stating))  # as it will be read again
    begun = any(benchmark.folder.rglob("*.png"))
    there, now = (begun and stated(benchmark.folder)) or own, versions(model.device)
    before, after = compared(there), compared(own)
    for name in {**before, **after}:
        if before.get(name) != after.get(name):
            raise UserError(
                f"The pictures in {benchmark.folder} are drawn with another {name} ({before.get(name)}, not "
                f"{after.get(name)}); give the settings they began with, or another --out."
            )
    if now not in there["versions"]:
        there["versions"].append(now)
        write_whole(benchmark.folder / SETTINGS, json.dumps(there, indent=1).encode(), benchmark.folder)


def stated(folder: Path) -> dict[str, Any] | None:
    """What a folder says of how its pictures are drawn, None where it has none yet; raises UserError for any other."""
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        if isinstance(settings, dict) and {name: type(settings.get(name)) for name in KINDS} == KINDS:
            return settings
    except FileNotFoundError:
        if any(not path.name.startswith(".") for path in folder.iterdir()):
            raise UserError(
                f"{folder} holds files but no {SETTINGS} that says how pictures in it are drawn; choose another --out."
            ) from None
        return None
    except (OSError, ValueError):
        pass
    raise UserError(f"{folder / SETTINGS} does not say how the pictures beside it were drawn; choose another --out.")


def compared(about: dict[str, Any]) -> dict[str, Any]:
    """What must not change from one start to the next."""
    return {name: value for name, value in (about | about["settings"]).items() if name not in ("settings", "versions")}


def checksum(tensors: Iterable[Tensor]) -> str:
    """A checksum of some tensors' values."""
    found = 0
    for tensor in tensors:
        found = zlib.crc32(tensor.float().cpu().numpy().tobytes(), found)
    return f"{found:08x}"


def write_whole(file: Path, content: bytes, folder: Path) -> None:
    """Write a file so that it is there whole or not at all.

    folder: of the same file system, where what is not whole yet does nobody harm.
    """
    part = folder / f".{os.getpid()}.part"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(file)
    except OSError as error:
        raise UserError(
            f"{file} cannot be written ({error.strerror}); what is there is whole, so the same command can go on later."
        ) from None
    finally:
        part.unlink(missing_ok=True)
