"""What was drawn and how, as one object that JSON can hold."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from importlib.metadata import version
from typing import Any

import torch

from . import __version__
from .heads.headmap import HeadMap
from .loop import Result
from .models.base import ImageModel
from .policies import METHODS, Policy


def report(
    model: ImageModel, policy: Policy, drawing: Mapping[str, Any], prompts: Sequence[str], result: Result
) -> dict[str, Any]:
    """The whole of a run.

    policy: fitted to the model.
    drawing: what else `generate` was told, and what is to be known beside, as plain values.
    prompts: one for each image of the result.
    """
    return {
        "model": model.name,
        "method": method_of(policy),
        "settings": settings_of(model, policy, drawing),
        "images": [{"prompt": prompt, "seed": seed} for prompt, seed in zip(prompts, result.seeds, strict=True)],
        "memory": result.memory.as_dict(),
        "seconds": asdict(result.timing),
        "tokens_per_second": result.tokens_per_second,
        "step": result.step,
        "versions": versions(model.device),
    }


def method_of(policy: Policy) -> str:
    """The name of a policy's method; one that has none is called as its class is."""
    return next((name for name, cls in METHODS.items() if type(policy) is cls), type(policy).__name__)


def settings_of(model: ImageModel, policy: Policy, drawing: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides what is drawn, but for model, method and prompts."""
    kept = {"dtype": str(model.dtype).removeprefix("torch."), "weights": model.weights}
    return {**drawing, **policy_settings(policy), **kept}


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
