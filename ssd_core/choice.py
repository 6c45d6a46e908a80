"""Which step draws: the plain one, a CUDA graph, or what torch.compile makes of it."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

import torch

from .cache.cache import SlotCache
from .errors import UserError
from .models.base import Geometry, ImageModel
from .policies import Policy
from .turn import Step, Turn

STEPS = ("auto", "plain", "graph", "compiled")


@dataclass(frozen=True)
class Choice:
    """name: of STEPS, but not auto. told: the same in words, with why auto did not take a graph where it might have."""

    name: str
    told: str


def choose_step(step: str, model: ImageModel, policy: Policy, rows: Sequence[Sequence[int]]) -> Choice:
    """What `step`, as `generate` takes it, comes to here. rows: the prompt ids of each row.

    Raises UserError for a word that is none of STEPS, and where a graph is asked for and cannot be.
    """
    check_step(step)
    if step in ("plain", "compiled"):
        return Choice(step, step)
    if step == "auto" and not takes_graphs(model.device):
        return Choice("plain", "plain")
    reason = obstacle(model, policy, {len(ids) for ids in rows})
    if reason is None:
        return Choice("graph", "graph")
    if step == "graph":
        raise UserError(f"No CUDA graph can hold the step here: {reason}; leave step at auto, or choose plain.")
    return Choice("plain", f"plain: {reason}")


def plans_graph(step: str, model: ImageModel, policy: Policy, rows: Sequence[Sequence[int]]) -> bool:
    """Whether to plan for a graph: "graph" does so for any device, "auto" for the model's own. Where the weights lie
    does not count: they may come later. Raises UserError for a word that is none of STEPS."""
    check_step(step)
    is_meant = step == "graph" or (step == "auto" and takes_graphs(model.device))
    return is_meant and is_fixed(policy, model.geometry, {len(ids) for ids in rows})


def check_step(step: str) -> None:
    """Raise UserError for a word that is none of STEPS."""
    if step not in STEPS:
        raise UserError(f"step is {', '.join(STEPS)}, not {step!r}; choose one of them.")


def takes_graphs(device: torch.device) -> bool:
    """Whether a device is CUDA's, or ROCm's, which torch calls the same."""
    return device.type == "cuda"


def obstacle(model: ImageModel, policy: Policy, prompts: Set[int]) -> str | None:
    """Why the step over slots of these prompts, given by their lengths, cannot be captured, as far as that is known
    before; None where nothing is."""
    if not takes_graphs(model.device):
        return f"the model computes on {model.device.type}"
    if not model.is_resident:
        return "weights are streamed"
    if not is_fixed(policy, model.geometry, prompts):
        return "its slots choose what to skip while they fill"
    return None


def is_fixed(policy: Policy, geometry: Geometry, prompts: Set[int]) -> bool:
    """Whether a step over the slots of these prompts is the same operations every time."""
    return not any(keep.attended for length in prompts for layer in policy.keeps(geometry, length) for keep in layer)


def begin(choice: Choice, turn: Turn, cache: SlotCache) -> Step:
    """The step of one drawing."""
    if choice.name == "compiled":
        from .compiled import CompiledStep  # the compiler takes seconds to import

        return CompiledStep(turn, cache)
    if choice.name == "graph":
        from .captured import CapturedStep

        return CapturedStep(turn, cache)
    return Step(turn, cache, choice.told)
