"""A checkpoint's tensors by common names, and what can be wrong with one."""

from __future__ import annotations

from ...errors import UserError
from .files import Checkpoint, Entry
from .names import naming_of


class Tensors:
    """A checkpoint's tensors by transformers' names, whatever it calls them itself."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.naming = naming_of(checkpoint.entries, str(checkpoint.path))

    def __contains__(self, name: str) -> bool:
        return self.naming.on_disk(name) in self.checkpoint.entries

    def entry(self, name: str) -> Entry:
        """What there is under this name; raises UserError where there is nothing."""
        own = self.naming.on_disk(name)
        if own not in self.checkpoint.entries:
            raise absent(self.checkpoint, own)
        return self.checkpoint.entries[own]

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """A tensor's shape, of this many dimensions; raises UserError where there is none such."""
        entry = self.entry(name)
        if len(entry.shape) != dimensions or 0 in entry.shape:
            raise misshapen(entry, self.naming.on_disk(name), f"one of {dimensions} dimensions")
        return entry.shape


def absent(checkpoint: Checkpoint, name: str, shape: tuple[int, ...] = ()) -> UserError:
    expected = f", expected in the shape {list(shape)}" if shape else ""
    return UserError(f"{checkpoint.path} lacks the tensor {name}{expected}; it is incomplete, so download it again.")


def misshapen(entry: Entry, name: str, expected: str) -> UserError:
    return UserError(
        f"{entry.file} holds the tensor {name} in the shape {list(entry.shape)}, where {expected} is expected; "
        "its weights and its config.json do not belong together."
    )
