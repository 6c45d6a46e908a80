"""Draws with a model in the hands of a checkout's memory manager: `python placed.py CHECKOUT`. Prints JSON.

The manager is that of an NVIDIA card with DynamicVRAM, as far as the processor goes: layers are made as they are then,
the weights stay where they are, and the card is torch's meta device, which knows where a result would lie.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from inside import begin, load_pack  # type: ignore[import-not-found]

CARD, PROCESSOR = torch.device("meta"), torch.device("cpu")


def main(checkout: str) -> None:
    kept = begin(checkout)  # noqa: F841
    import comfy.memory_management
    import comfy.model_management

    comfy.memory_management.aimdo_enabled = True
    comfy.model_management.WINDOWS = True  # where ComfyUI 0.19 already did what 0.33 does everywhere
    comfy.model_management.get_torch_device = lambda: CARD
    load_pack()
    print(json.dumps(seen()))  # noqa: T201


@torch.inference_mode()
def seen() -> dict[str, object]:
    """Where a model computes while its weights lie on the processor, and what it draws there."""
    from ssd_janus import ssd_core  # type: ignore[import-not-found]
    from ssd_janus.nodes.held import Held  # type: ignore[import-not-found]
    from ssd_janus.ssd_core.step import prefill, step  # type: ignore[import-not-found]

    held = Held("janus-shapes", "fp32")
    model = held.model
    rows = [model.encode("a red circle")]
    cache = prefill(model, ssd_core.Full(), rows)
    embedded = model.embed_text(torch.tensor([rows[0][-1:]]))[:, 0]
    logits = step(model, cache, embedded, torch.tensor([[len(rows[0]) - 1]], device=CARD))
    picture = model.decode_image(torch.zeros(1, model.geometry.tokens, dtype=torch.int64))
    computed = {
        "keys": cache.layers[0][0].kv,
        "logits": logits,
        "picture": picture,
        "tokens": model.encode_image(torch.zeros(1, *model.picture_size, 3)),
    }
    moved = {id(part) for part in held.patcher.model.parameters()}
    model.computes_on = PROCESSOR
    plain = ssd_core.load("janus-shapes", "cpu", "fp32")

    def drawn(own: Any) -> list[int]:
        """A row of tokens, hot enough that they differ."""
        result = ssd_core.generate(own, ["a red circle"], temperature=50.0, on_row=lambda *_: True)
        return list(result.tokens[0, : own.geometry.columns].tolist())

    return {
        "computed": {name: str(tensor.device) for name, tensor in computed.items()},
        "weights": sorted({str(part.device) for part in model.parameters()}),
        "not moved": [name for name, part in model.named_parameters() if id(part) not in moved],
        "drawn": drawn(model),
        "drawn by the engine's own layers": drawn(plain),
    }


if __name__ == "__main__":
    main(sys.argv[1])
