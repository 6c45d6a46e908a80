"""Where a checkpoint is, and how its files are read. What a file can do wrong becomes one sentence here."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...errors import UserError

ASSETS = Path(__file__).parents[2] / "assets"
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLES = ("model.safetensors", "pytorch_model.bin")
PICKLES = (".bin", ".pt", ".pth")
LFS_POINTER = b"version https://git-lfs"
MAPPED_AT_ONCE = 2**27  # bytes


@dataclass(frozen=True)
class Entry:
    """What a tensor looks like in its file."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Checkpoint:
    """The files of a checkpoint: a folder, or one file that holds everything or stands in such a folder.

    Each property reads its file when it is first asked for, and raises UserError where that file is absent or unfit.
    """

    def __init__(self, path: str | Path, partial: bool = False) -> None:
        """path: a folder, a file, or the name of something in ssd_core/assets; partial: absent shards are left out."""
        self.path, self.partial = find(path), partial
        self.folder = self.path if self.path.is_dir() else self.path.parent
        self.name = self.path.resolve().name if self.path.is_dir() else self.path.stem

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The files that hold tensors."""
        if self.path.is_file():
            if self.path.suffix not in (".safetensors", *PICKLES):
                raise UserError(f"{self.path} is not a file of weights; give a .safetensors or .bin file, or a folder.")
            return (self.path,)
        if self.index:
            shards = sorted(set(self.index.values()))
            absent = [shard for shard in shards if not shard.is_file()]
            if absent and not self.partial:
                raise UserError(
                    f"{absent[0]} is not there, though the index beside it names it; "
                    f"download what is absent, {len(absent)} of {len(shards)} files."
                )
            return tuple(shard for shard in shards if shard not in absent)
        for single in SINGLES:
            if (self.folder / single).is_file():
                return (self.folder / single,)
        raise UserError(f"{self.path} holds no weights, neither {' nor '.join(INDEXES + SINGLES)}; download them.")

    @cached_property
    def index(self) -> dict[str, Path]:
        """The file of each tensor, where an index of several files tells it; empty where there is none."""
        for index in INDEXES:
            if self.path.is_dir() and (self.folder / index).is_file():
                return read_index(self.folder / index)
        return {}

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The strings that a safetensors file carries; nothing for any other."""
        if self.path.is_dir() or self.path.suffix != ".safetensors":
            return {}
        refuse_pointer(self.path)
        with explain(self.path), safe_open(self.path, framework="pt") as opened:
            return opened.metadata() or {}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        return parse(*self.config_text)

    @cached_property
    def config_text(self) -> tuple[str, str]:
        """The text of config.json, and where it was found."""
        return self._text("config", "config.json")

    @cached_property
    def tokenizer_text(self) -> tuple[str, str]:
        """The text of tokenizer.json, and where it was found."""
        return self._text("tokenizer", "tokenizer.json")

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """What the files hold, by the names they use."""
        return {
            name: Entry(file, tuple(tensor.shape), tensor.dtype)
            for file in self.files
            for name, tensor in map_tensors(file).items()
        }

    @property
    def dtype(self) -> torch.dtype | None:
        """What most of its numbers are kept in; None where it has none."""
        numbers: Counter[torch.dtype] = Counter()
        for entry in self.entries.values():
            numbers[entry.dtype] += torch.Size(entry.shape).numel()
        return max(numbers, key=numbers.__getitem__, default=None)

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """The tensors of these names, one after the other and mapped, so that no copy of a file is ever held.

        A file is mapped anew every MAPPED_AT_ONCE bytes, because pages that were read count as this process's memory
        until their mapping goes.
        """
        mapped: dict[str, Tensor] = {}
        file, taken = None, 0
        for name in names:
            entry = self.entries[name]
            if entry.file != file or taken > MAPPED_AT_ONCE:
                mapped, file, taken = map_tensors(entry.file), entry.file, 0
            taken += entry.bytes
            yield name, mapped[name]

    def _text(self, key: str, file: str) -> tuple[str, str]:
        if key in self.metadata:
            return self.metadata[key], f"the {file} inside {self.path}"
        return read_text(self.folder / file), str(self.folder / file)


def find(path: str | Path) -> Path:
    """The file or folder that the user means: a text may name the embedded model, a Path is always a path.

    Raises UserError where there is none.
    """
    if isinstance(path, str) and path in (config.parent.name for config in ASSETS.glob("*/config.json")):
        return ASSETS / path
    found = Path(path).expanduser()
    if not found.exists():
        raise UserError(
            f"{path} does not exist; give a folder or a file with a Janus (nothing is downloaded), or 'janus-shapes'."
        )
    return found


def read_index(index: Path) -> dict[str, Path]:
    """The file of each tensor."""
    table = parse(read_text(index), str(index)).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(file, str) for file in table.values()):
        raise UserError(f"{index} is not an index of weights: it has no weight_map of files; download it again.")
    return {name: index.parent / file for name, file in table.items()}


def map_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a file, mapped: their bytes are read when they are used."""
    refuse_pointer(file)
    with explain(file):
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                names = opened.keys()
                return {name: opened.get_tensor(name) for name in names}
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    plain = isinstance(loaded, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in loaded.items()
    )
    if not plain:
        raise UserError(f"{file} does not hold a plain table of tensors; save the model's state_dict.")
    return loaded


@contextmanager
def explain(file: Path) -> Iterator[None]:
    """Turn what the readers raise about a file into one sentence."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file} is damaged or holds more than tensors, which is not read because a pickle can run code; "
            "download it again or take a .safetensors file."
        ) from error
    except (SafetensorError, RuntimeError, ValueError, KeyError, OSError, EOFError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{file} is damaged, incomplete or of an unknown format ({reason}); download it again."
        ) from error


def read_text(file: Path) -> str:
    """A text file's content."""
    if not file.is_file():
        raise UserError(
            f"{file.parent} has no {file.name}; download the whole folder of the model, not its weights alone."
        )
    refuse_pointer(file)
    with explain(file):
        return file.read_text(encoding="utf-8")


def parse(text: str, source: str) -> dict[str, Any]:
    """A JSON object; `source` is what errors call it."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{source} is not JSON ({error}); download it again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{source} is not a JSON object; download it again.")
    return content


def refuse_pointer(file: Path) -> None:
    """Refuse what git leaves in a file's place where git-lfs is not installed."""
    with explain(file), file.open("rb") as opened:
        start = opened.read(len(LFS_POINTER))
    if start == LFS_POINTER:
        raise UserError(f"{file} is only a git-lfs pointer to the real file; run `git lfs pull` in its folder.")
