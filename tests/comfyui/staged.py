"""Small weights with a checkout's DynamicVRAM, as far as its Python goes: `python staged.py CHECKOUT`. Prints JSON.

The driver's part of it, comfy_aimdo's library, is replaced: it never has room on the card, so that each matrix is
brought there for each product. The card is torch's meta device.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from inside import begin, load_pack  # type: ignore[import-not-found]
from kept import CARD, movable, step_on_the_card  # type: ignore[import-not-found]

STAGED: Counter[int] = Counter()  # how often each place was asked for


class Room:
    """Places for matrices, which have addresses and hold nothing."""

    def __init__(self, *_: Any) -> None:
        self.end = 0

    def alloc(self, size: int) -> tuple[Any, int, int]:
        self.end += size
        return self, self.end - size, size

    def prioritize(self) -> None:
        pass

    def free_memory(self, _: float) -> int:
        return 0


class Buffer:
    """Pinned memory that there is none of."""

    def __init__(self, *_: Any) -> None:
        pass

    def truncate(self, *_: Any, **__: Any) -> None:
        pass


def ask(place: tuple[Any, int, int]) -> None:
    STAGED[place[1]] += 1


def main(checkout: str) -> None:
    kept = begin(checkout)  # noqa: F841
    import comfy.memory_management
    import comfy.model_management as management
    import comfy.pinned_memory
    import comfy_aimdo.host_buffer  # type: ignore[import-not-found]
    import comfy_aimdo.model_vbar as vbar  # type: ignore[import-not-found]

    comfy.memory_management.aimdo_enabled = True
    management.WINDOWS = True  # where ComfyUI 0.19 already did what 0.33 does everywhere
    management.pinned_hostbuf_size = lambda size: size
    comfy.pinned_memory.pin_memory = lambda *_, **__: False
    comfy.pinned_memory.get_pin = lambda *_, **__: None
    comfy_aimdo.host_buffer.HostBuffer = Buffer
    vbar.ModelVBAR, vbar.vbar_fault = Room, ask
    vbar.vbar_signature_compare = lambda *_: False
    load_pack()
    from ssd_janus.nodes import load  # type: ignore[import-not-found]

    with torch.inference_mode():
        choices = {weights: staged(weights) for weights in load.weights_here() if weights != "full"}
    print(json.dumps(choices), flush=True)  # noqa: T201


def staged(weights: str) -> dict[str, object]:
    """How often each matrix was brought to the card for a prompt and a step."""
    model, patcher = movable(weights, CARD, "ModelPatcherDynamic")
    patcher.partially_load(CARD)
    STAGED.clear()
    mixed = step_on_the_card(model)
    matrices = [own for layer in model.decoder.layers for own in (layer.qkv, layer.out, layer.gate_up, layer.down)]
    parts = [part for own in matrices for part in getattr(own, "parts", [own])]
    brought, places = [STAGED[part._v[1]] for part in parts], {part.weight.device for part in parts}
    return {"mixed": mixed, "brought": brought, "places": sorted(map(str, places))}


if __name__ == "__main__":
    main(sys.argv[1])
