"""What a checkpoint is, without reading its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from ...errors import UserError
from ..base import Geometry
from ..tokenizer import JanusTokenizer
from .files import Checkpoint, Entry
from .plan import Plan
from .sizes import check_family
from .tensors import Tensors

T = TypeVar("T")
PARTS = {  # what the names of each part's tensors start with in transformers
    "decoder": ("model.language_model.layers.", "model.language_model.norm."),
    "prompt embeddings": ("model.language_model.embed_tokens.",),
    "image embeddings": ("model.generation_embeddings.", "model.generation_aligner."),
    "image head": ("model.generation_head.",),
    "picture codec": ("model.vqmodel.",),
}


@dataclass(frozen=True)
class Part:
    """Tensors that belong together: how many there are, their bytes on disk, and the names of those that are absent.

    missing is None where nothing says what should be there: no index, and no weights from which the sizes can be told.
    """

    tensors: int
    bytes: int
    missing: tuple[str, ...] | None = None


@dataclass
class Inspection:
    """What was found under a path; None and empty where it could not be told.

    family: config.json's model_type.
    layout: 'official', 'transformers' or 'single file'.
    dtype: of the weights on disk, joined by commas if there are several.
    bytes: of all tensors on disk.
    parts: what drawing needs, by name; unneeded: what it does without.
    ids: how many the tokenizer has.
    problems: what keeps it from being loaded, a sentence each.
    """

    path: Path
    family: str | None = None
    layout: str | None = None
    geometry: Geometry | None = None
    dtype: str | None = None
    bytes: int = 0
    parts: dict[str, Part] = field(default_factory=dict)
    unneeded: dict[str, Part] = field(default_factory=dict)
    ids: int | None = None
    problems: list[str] = field(default_factory=list)

    def attempt(self, step: Callable[[], T]) -> T | None:
        """What a step of reading gives; None, and a problem noted, where it fails."""
        try:
            return step()
        except UserError as error:
            if str(error) not in self.problems:
                self.problems.append(str(error))
            return None


def inspect(path: str | Path) -> Inspection:
    """Say what a checkpoint is, and what it lacks, from its headers alone.

    Raises UserError only where there is nothing at all.
    """
    checkpoint = Checkpoint(path, partial=True)
    found = Inspection(checkpoint.path)
    config = found.attempt(lambda: checkpoint.config)
    if config is not None:
        found.family = config.get("model_type")
        found.attempt(lambda: check_family(config, checkpoint.config_text[1]))
    tokenizer = found.attempt(lambda: JanusTokenizer(*checkpoint.tokenizer_text))
    found.ids = tokenizer.size if tokenizer else None
    found.attempt(lambda: Checkpoint(path).files)
    tensors = found.attempt(lambda: Tensors(checkpoint))
    if tensors:
        describe(found, checkpoint, tensors)
    return found


def describe(found: Inspection, checkpoint: Checkpoint, tensors: Tensors) -> None:
    """Fill in what the tensors tell."""
    own_name, entries = tensors.naming.on_disk, checkpoint.entries
    found.bytes = sum(entry.bytes for entry in entries.values())
    found.dtype = ", ".join(sorted({str(entry.dtype).removeprefix("torch.") for entry in entries.values()}))
    found.layout = "single file" if "config" in checkpoint.metadata else tensors.naming.layout
    found.unneeded = {prefix.rstrip("."): part(entries, prefix) for prefix in tensors.naming.unneeded}
    plan = found.attempt(lambda: Plan(checkpoint))
    if plan:
        found.geometry = plan.model.geometry
        found.attempt(plan.check)
    expected = [name for name in (plan.pieces if plan else checkpoint.index) if not tensors.naming.is_unneeded(name)]
    needed = {name: entry for name, entry in entries.items() if not tensors.naming.is_unneeded(name)}
    for name, prefixes in PARTS.items():
        own = tuple(own_name(prefix) for prefix in prefixes)
        missing = tuple(tensor for tensor in expected if tensor.startswith(own) and tensor not in entries)
        found.parts[name] = replace(part(needed, *own), missing=missing if expected else None)


def part(entries: Mapping[str, Entry], *prefixes: str) -> Part:
    """Those of the tensors whose names start so."""
    own = [entry for name, entry in entries.items() if name.startswith(prefixes)]
    return Part(len(own), sum(entry.bytes for entry in own))
