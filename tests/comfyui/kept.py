"""Small weights in a checkout's own hands: `python kept.py CHECKOUT FOLDER`, a folder of quantized copies of the
embedded model. Prints JSON: what each copy and each choice of the loader comes to, and what happens where ComfyUI
loads only a part.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).parent))
from inside import begin, load_pack  # type: ignore[import-not-found]

CARD, PROCESSOR = torch.device("meta"), torch.device("cpu")
PROMPT = "a red circle"
ROWS = 4  # of a picture that are drawn
HOT = 50.0  # a temperature at which tokens differ whatever the model thinks


class Mixing(TorchDispatchMode):
    """Notes operators that compute with tensors of several devices, which a card would refuse, and products with small
    matrices, some of which the meta device takes no operator for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def watch(self, kind: Any) -> None:
        """Have a kind of small layer say when it multiplies across devices."""
        multiply = kind.multiply

        def watched(own: Any, x: Tensor, weight: Tensor, scales: Tensor) -> Any:
            if {weight.device, scales.device} != {x.device}:
                self.found.add(kind.__name__)
            return multiply(own, x, weight, scales)

        kind.multiply = watched

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [own for own in tree_leaves((args, kwargs or {})) if isinstance(own, Tensor) and own.ndim]
        if len({own.device for own in given}) > 1 and "copy" not in str(func):
            self.found.add(str(func))
        return func(*args, **(kwargs or {}))


def main(checkout: str, folder: str) -> None:
    kept = begin(checkout)  # noqa: F841
    load_pack()
    from ssd_janus.nodes import load, quantized  # type: ignore[import-not-found]

    choices = load.weights_here()
    works = [name for kept, name in quantized.FORMATS.items() if quantized.works(kept, PROCESSOR, torch.float32)]
    with torch.inference_mode():
        copies = {copy.name: of_copy(str(copy)) for copy in sorted(Path(folder).iterdir())}
        choice = {weights: of_choice(weights) for weights in choices if weights not in ("auto", "full")}
    print(json.dumps({"choices": choices, "works": works, "copies": copies, "choice": choice}))  # noqa: T201


def of_copy(path: str) -> dict[str, object]:
    """A quantized copy as it is, beside itself in full and the embedded model."""
    from ssd_janus.ssd_core.memory import module_bytes  # type: ignore[import-not-found]

    own, full = held(path, "auto"), held(path, "full")
    plain, tokens = embedded()
    return {
        "bytes": own.patcher.model_size(),
        "bytes in full": full.patcher.model_size(),
        "counted": module_bytes(own.model.decoder),
        "planned": module_bytes(own.model.skeleton().decoder),
        "kl to full": divergence(full.model, own.model, tokens),
        "kl to plain": divergence(plain, own.model, tokens),
        "drawn as in full": share(drawn(own.model, HOT), drawn(full.model, HOT)),
        "drawn as plain": share(drawn(own.model), tokens),
        "different tokens": len({*drawn(full.model, HOT)[0].tolist()}),
    }


def of_choice(weights: str) -> dict[str, object]:
    """The embedded model with its weights kept so, where ComfyUI loads half of it onto a card, and half of it onto
    the processor, whose results can be looked at."""
    plain, tokens = embedded()
    model, patcher = movable(weights, CARD)
    half = patcher.model_size() // 2
    patcher.partially_load(CARD, half)
    mixed = step_on_the_card(model)
    places = [part.device.type for part in model.decoder.parameters()]
    on_the_card = patcher.loaded_size()
    patcher.partially_load(CARD, patcher.model_size())
    wholly = sorted({part.device.type for part in model.decoder.parameters()})
    here, loaded = movable(weights, PROCESSOR)
    before = drawn(here, HOT)
    loaded.partially_load(PROCESSOR, half)
    return {
        "bytes": patcher.model_size(),
        "mixed": mixed,
        "on the card": on_the_card,
        "wholly": wholly,
        "places": sorted({*places}),
        "kl to plain": divergence(plain, here, tokens),
        "partly as wholly": share(drawn(here, HOT), before),
        "drawn as plain": share(drawn(here), tokens),
    }


def step_on_the_card(model: Any) -> list[str]:
    """What computes with tensors of several devices in a prompt and a step, where a model is to compute on the card."""
    from ssd_janus import ssd_core  # type: ignore[import-not-found]
    from ssd_janus.ssd_core.models.small import SMALL  # type: ignore[import-not-found]
    from ssd_janus.ssd_core.step import prefill, step  # type: ignore[import-not-found]

    model.computes_on = CARD
    ids = model.encode(PROMPT)
    x, positions = torch.empty(1, model.shape.decoder.hidden, device=CARD), torch.tensor([[len(ids) - 1]], device=CARD)
    with Mixing() as mixing:
        if model.weights in SMALL:
            mixing.watch(SMALL[model.weights])
        logits = step(model, prefill(model, ssd_core.Full(), [ids]), x, positions)
    assert logits.device == CARD
    return sorted(mixing.found)


@cache
def embedded() -> tuple[Any, Tensor]:
    """The embedded model, and what it draws."""
    model = held("janus-shapes", "auto").model
    return model, drawn(model)


def held(path: str, weights: str) -> Any:
    from ssd_janus.nodes.held import Held  # type: ignore[import-not-found]

    own = Held(path, "fp32", weights)
    own.on_device(0)
    return own


def movable(weights: str, device: torch.device, kind: str = "ModelPatcher") -> tuple[Any, Any]:
    """A model as for a card, made on the processor all the same, and what moves its decoder there."""
    import comfy.model_patcher
    from ssd_janus.nodes import layers, quantized
    from ssd_janus.ssd_core.models.checkpoint import load  # type: ignore[import-not-found]

    kinds = quantized.kinds(weights, PROCESSOR, torch.float32)
    model = load("janus-shapes", PROCESSOR, "fp32", layers, weights=weights, computes_on=PROCESSOR, kinds=kinds)
    layers.adopt(model)
    patcher = getattr(comfy.model_patcher, kind)
    return model, patcher(model.decoder, load_device=device, offload_device=PROCESSOR)


def drawn(model: Any, temperature: float = 1.0) -> Tensor:
    """Tokens of a picture's first rows, [1, tokens]."""
    from ssd_janus import ssd_core

    told = {"temperature": temperature, "guidance": 1.0, "on_row": lambda row, *_: row + 1 == ROWS}
    result = ssd_core.generate(model, [PROMPT], **told)
    tokens: Tensor = result.tokens[:, : ROWS * model.geometry.columns]
    return tokens


def share(tokens: Tensor, others: Tensor) -> float:
    return float((tokens == others).float().mean())


def divergence(reference: Any, other: Any, tokens: Tensor) -> float:
    """KL in nats a token, after the same tokens."""
    from ssd_janus import ssd_core
    from ssd_janus.ssd_core.evaluate import fidelity  # type: ignore[import-not-found]

    rows = [reference.encode(PROMPT)]
    each = [list(fidelity.forced_logits(own, ssd_core.Full(), rows, tokens)) for own in (reference, other)]
    return float(fidelity.divergence(*each))


if __name__ == "__main__":
    main(*sys.argv[1:])
