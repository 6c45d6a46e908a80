"""A checkpoint in one file: weights, configuration and tokenizer together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import BinaryIO

import torch

from ...errors import UserError
from .files import Checkpoint
from .plan import Plan

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def save_single_file(source: str | Path, file: str | Path) -> None:
    """Write what drawing needs of a checkpoint, in any layout, into one safetensors file that `load` reads alone.

    The tensors bear transformers' names and keep their dtype; config.json and tokenizer.json stand as they are in the
    file's metadata, under `config` and `tokenizer`. One tensor is held at a time, and the file appears under its name
    only once it is whole. Raises UserError as `load` does.
    """
    checkpoint, file = Checkpoint(source), Path(file)
    plan = Plan(checkpoint)
    plan.check()
    names = {name: plan.pieces[name].name for name in checkpoint.entries if name in plan.pieces}
    if file.suffix != ".safetensors":
        raise UserError(f"{file} would not be known as a file of weights; give it a name that ends in .safetensors.")
    unfinished = file.with_suffix(".unfinished")
    try:
        with unfinished.open("wb") as opened:
            write(opened, checkpoint, names)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def write(opened: BinaryIO, checkpoint: Checkpoint, names: dict[str, str]) -> None:
    """Write a safetensors file: the length of its header, the header, and the tensors one behind the other."""
    header: dict[str, object] = {
        "__metadata__": {
            "format": "pt",
            "config": checkpoint.config_text[0],
            "tokenizer": checkpoint.tokenizer_text[0],
        }
    }
    end = 0
    for own, name in names.items():
        entry = checkpoint.entries[own]
        if entry.dtype not in DTYPES:
            raise UserError(
                f"{entry.file} holds the tensor {own} as {entry.dtype}, which is not packed; take other weights."
            )
        start, end = end, end + entry.bytes
        header[name] = {"dtype": DTYPES[entry.dtype], "shape": entry.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format asks for aligned tensors
    opened.write(len(text).to_bytes(8, "little") + text)
    opened.writelines(tensor.reshape(-1).view(torch.uint8).numpy().data for _, tensor in checkpoint.read(names))
