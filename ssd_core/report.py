"""What was drawn and how, as one object that JSON can hold."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from . import __version__
from .heads.headmap import HeadMap
from .loop import Result
from .models.base import ImageModel
from .policies import Policy


def report(
    model: ImageModel,
    method: str,
    settings: Mapping[str, Any],
    prompts: Sequence[str],
    files: Sequence[Path],
    result: Result,
    load_seconds: float,
) -> dict[str, Any]:
    """The whole of a run.

    prompts, files: one for each image of the result.
    """
    images = zip(prompts, result.seeds, map(str, files), result.tokens.tolist(), strict=True)
    timing = result.timing
    return {
        "model": model.name,
        "method": method,
        "settings": dict(settings),
        "images": [
            {"prompt": prompt, "seed": seed, "file": file, "tokens": tokens} for prompt, seed, file, tokens in images
        ],
        "memory": result.memory.as_dict(),
        "seconds": {
            "load": load_seconds,
            "prefill": timing.prefill,
            "decode": timing.decode,
            "pictures": timing.pictures,
        },
        "tokens_per_second": result.tokens_per_second,
        "versions": versions(model.device),
    }


def policy_settings(policy: Policy) -> dict[str, Any]:
    """A policy's parameters; a head map by what it says of itself."""
    values = {field.name: getattr(policy, field.name) for field in fields(policy)}  # type: ignore[arg-type]
    return {name: value.about if isinstance(value, HeadMap) else value for name, value in values.items()}


def versions(device: torch.device) -> dict[str, str]:
    """What a run's figures depend on beside its settings."""
    on_cuda = device.type == "cuda"
    return {
        "ssd_core": __version__,
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if on_cuda else f"{device} ({platform.machine()})",
    }
