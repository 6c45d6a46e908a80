"""Which step draws: the plain one, one with a kernel, a CUDA graph, or what torch.compile makes of it."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

import torch

from .cache.cache import SlotCache
from .cache.kernel_cache import why_no_kernel
from .cache.storage import KV_DTYPES, check_kv_dtype
from .errors import UserError
from .models.base import Geometry, ImageModel
from .policies import Policy
from .turn import Step, Turn
from .turn_kernel import KernelStep

STEPS = ("auto", "plain", "kernel", "graph", "compiled")
REFUSED = {
    "kernel": "No kernel can do the step's attention here",
    "graph": "No CUDA graph can hold the step here",
    "compiled": "The step cannot be compiled here",
}


@dataclass(frozen=True)
class Choice:
    """name: of STEPS, but not auto. told: the same in words, with why auto did not take what it prefers."""

    name: str
    told: str


def choose_step(
    step: str, model: ImageModel, policy: Policy, rows: Sequence[Sequence[int]], kv_dtype: str = "auto"
) -> Choice:
    """What `step`, as `generate` takes it, comes to here. rows: the prompt ids of each row.

    Raises UserError for words that are none, and for a step that was asked for and cannot be.
    """
    check_step(step)
    check_kv_dtype(kv_dtype, model.device)
    prompts = {len(ids) for ids in rows}
    if step == "auto":
        first, why = None, ""
        for name in preferred(model.device):
            reason = obstacle(name, model, policy, prompts, kv_dtype)
            if reason is None:
                return Choice(name, name + why)
            first = first or reason
            why = f": {first}"
        return Choice("plain", "plain" + why)
    if reason := obstacle(step, model, policy, prompts, kv_dtype):
        raise UserError(f"{REFUSED[step]}: {reason}; leave step at auto, or choose plain.")
    return Choice(step, step)


def planned_step(step: str, model: ImageModel, policy: Policy, rows: Sequence[Sequence[int]]) -> str:
    """What to plan for: "graph" is one on any device, "auto" what is preferred on the model's own. Whether there is a
    compiler and where the weights lie does not count: that may change. Raises UserError for a word that is none of
    STEPS."""
    check_step(step)
    wanted = (*preferred(model.device), "plain")[0] if step == "auto" else step
    if wanted == "kernel" and wanted not in preferred(model.device):
        return "plain"
    return wanted if is_fixed(policy, model.geometry, {len(ids) for ids in rows}) else "plain"


def check_step(step: str) -> None:
    """Raise UserError for a word that is none of STEPS."""
    if step not in STEPS:
        raise UserError(f"step is {', '.join(STEPS)}, not {step!r}; choose one of them.")


def preferred(device: torch.device) -> tuple[str, ...]:
    """What auto tries on a device, the best first."""
    if takes_graphs(device):
        return "graph", "kernel"
    return ("kernel",) if device.type == "cpu" else ()


def takes_graphs(device: torch.device) -> bool:
    """Whether a device is CUDA's, or ROCm's, which torch calls the same."""
    return device.type == "cuda"


def obstacle(name: str, model: ImageModel, policy: Policy, prompts: Set[int], kv_dtype: str) -> str | None:
    """Why a step cannot be what is called so, over slots of these prompts, given by their lengths, as far as that is
    known before; None where nothing is."""
    if name == "plain":
        return None
    if name == "graph" and not takes_graphs(model.device):
        return f"the model computes on {model.device.type}"
    if name == "graph" and not model.is_resident:
        return "weights are streamed"
    if not is_fixed(policy, model.geometry, prompts):
        return "its slots choose what to skip while they fill"
    if name == "kernel":
        return why_no_kernel(model.device, model.geometry, model.dtype, KV_DTYPES[kv_dtype])
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
    if choice.name == "kernel":
        return KernelStep(turn, cache, choice.told)
    return Step(turn, cache, choice.told)
