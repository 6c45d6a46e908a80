"""Train the embedded model to draw: captions in, picture codes out, cross-entropy on the image tokens.

    python -m train.tokens --out runs/shapes --steps 12000

Nearly all codes of a picture follow from the codes before them. What the caption rules is a handful of choices, such as
the colour an object begins with, and they would hardly be heard. So the training first skims many pictures, with few
tokens of each (batches.py), counts these choices once more (losses.py), and asks the model what the caption says
(reading.py), what is there already (hindsight.py) and what lies ahead (foresight.py). Then it sees whole pictures. All
along most heads learn to look at what is near (spatial.py).

Writes a checkpoint every few minutes and goes on from it when started again. The learning rate stays flat and falls to
zero over the last four fifths; `--steps` may be raised or lowered between two starts.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import JanusForConditionalGeneration

from . import foresight, hindsight, reading, spatial
from .batches import LIGHTER, Batch, Captions, batch
from .losses import choices_loss, guided_loss
from .model import build
from .muon import Muon
from .questions import UNASKED, Questions
from .text import build as build_tokenizer

LOSSES = ("loss", "choices", "foresight", "place", "hindsight", "reading", "guided", "outside")  # as they are printed
READING = torch.tensor([1.0, 0.5, 1.0, 0.1, 0.3, 0.3, 0.3, 0.2])  # weights of the losses while pictures are skimmed
# And after that: the chance in choices would drown what is left to learn of drawing.
DRAWING = torch.tensor([1.0, 0.1, 0.05, 0.1, 0.05, 0.05, 0.3, 0.2])
STRONGEST = 6.0  # guidance
WARMUP = 50  # steps
DECAY = 0.8  # share of the training, at its end, over which the learning rate falls to zero


class Asked(NamedTuple):
    """The heads that ask."""

    ahead: Questions
    behind: Questions
    caption: Questions

    @classmethod
    def of(cls, hidden: int) -> Asked:
        return cls(*(Questions(hidden, asking.CLASSES) for asking in (foresight, hindsight, reading)))


class Known(NamedTuple):
    """What a model makes of a batch."""

    logits: Tensor  # of the tokens asked, float32 [B, K, codebook]
    ahead: Tensor  # what a middle layer knew before each, [B, K, hidden]
    behind: Tensor  # and an earlier one
    caption: Tensor  # what an early layer knew at the begin-of-image token, [B, hidden]
    outside: Tensor  # how much of the spatial heads' attention goes outside their window


def forward(model: JanusForConditionalGeneration, batch: Batch) -> Known:
    """Each row is prompt, picture, pads; what follows the picture is never seen by it, so no mask is needed."""
    text = model.model.language_model.embed_tokens(batch.ids)
    image = model.prepare_embeddings_for_image_generation(batch.before)
    x = torch.cat([text, torch.zeros_like(image)], 1)
    # where each image token of a row stands, and the position it has in the whole picture
    order = torch.arange(image.shape[1], device=image.device)
    at = batch.lengths[:, None] + order
    x = x.scatter(1, at[:, :, None].expand(-1, -1, x.shape[-1]), image.to(x.dtype))
    positions = torch.arange(x.shape[1], device=x.device).repeat(len(x), 1)
    positions = positions.scatter(1, at, batch.lengths[:, None] + batch.at[:, 1:] - 1)
    layers = model.model.language_model(
        inputs_embeds=x,
        position_ids=positions,
        # said, or else gaps between positions would be taken for the borders of packed sequences
        attention_mask=torch.ones_like(positions),
        use_cache=False,
        output_hidden_states=True,
    ).hidden_states
    at = torch.cat([batch.lengths[:, None] - 1, at], 1)[:, :, None].expand(-1, -1, x.shape[-1])
    return Known(
        logits=model.model.generation_head(layers[-1].gather(1, at)).float(),
        ahead=layers[foresight.LAYER].gather(1, at),
        behind=layers[hindsight.LAYER].gather(1, at),
        caption=layers[reading.LAYER].gather(1, at[:, :1])[:, 0],
        outside=spatial.outside(model.model.language_model, layers, positions, batch),
    )


def optimizers(
    model: JanusForConditionalGeneration, heads: torch.nn.Module, rate: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the network, AdamW for embeddings, output layers, norms and biases."""
    inner: list[torch.nn.Parameter] = []
    outer: list[torch.nn.Parameter] = list(heads.parameters())
    parts = (model.model.language_model, model.model.generation_embeddings, model.model.generation_aligner)
    for part in (*parts, model.model.generation_head):
        for name, weight in part.named_parameters():
            is_inner = weight.ndim == 2 and not any(key in name for key in ("embed", "vision_head", "fc1"))
            is_inner = is_inner and part is not model.model.generation_embeddings
            (inner if is_inner else outer).append(weight)
    return [
        Muon(inner, lr=rate, weight_decay=0.3),
        torch.optim.AdamW(outer, lr=rate / 8, betas=(0.9, 0.97), weight_decay=0.0),
    ]


def losses(model: JanusForConditionalGeneration, asked: Asked, batch: Batch, guidance: float) -> Tensor:
    """All losses of a batch, in the order of LOSSES."""
    known = forward(model, batch)
    told = batch.codes != UNASKED
    ahead = asked.ahead.losses(known.ahead[told], batch.ahead[told])
    return torch.stack(
        [
            cross_entropy(known.logits[told], batch.codes[told]),
            choices_loss(known.logits, batch),
            ahead[: -foresight.PLACES].mean(),
            ahead[-foresight.PLACES :].mean(),
            asked.behind.losses(known.behind[told], batch.behind[told]).mean(),
            asked.caption.losses(known.caption, batch.asked).mean(),
            guided_loss(known.logits, batch, guidance),
            known.outside,
        ]
    )


def train(
    out: Path,
    start: Path | None,
    steps: int,
    size: int,
    skim: float,
    rate: float,
    minutes: float,
    device: str,
    bfloat16: bool,
) -> None:
    """Train, or go on training, until `steps` steps were made; keep everything in `out`. A training that is not yet
    under way there begins with the weights in the folder `start`, or with fresh ones."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(out)
    captions = Captions(tokenizer)
    model = build(tokenizer)
    if start:
        model.load_state_dict(JanusForConditionalGeneration.from_pretrained(start).float().state_dict())
    asked = Asked.of(model.config.text_config.hidden_size)
    heads = torch.nn.ModuleList(asked).to(device)
    model.to(device)
    steppers = optimizers(model, heads, rate)
    rates = [stepper.param_groups[0]["lr"] for stepper in steppers]
    checkpoint = out / "checkpoint.pt"
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["questions"])
        for stepper, saved in zip(steppers, state["optimizers"], strict=True):
            stepper.load_state_dict(saved)
        step = state["step"]

    def keep() -> None:
        state = {
            "model": model.state_dict(),
            "questions": heads.state_dict(),
            "optimizers": [stepper.state_dict() for stepper in steppers],
            "step": step,
        }
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)

    begun = saved_at = time.monotonic()
    seen, pictures, sums = 0, 0, torch.zeros(len(LOSSES))
    while step < steps:
        factor = min(1.0, (step + 1) / WARMUP, (steps - step) / (steps * DECAY))
        for stepper, flat in zip(steppers, rates, strict=True):
            for group in stepper.param_groups:
                group["lr"] = flat * factor
        reads = step < skim * steps
        skimming = reads and step % 3 != 0  # in between, a whole batch keeps it from taking gaps for the rule
        part = batch(step, LIGHTER * size if skimming else size, captions, skim=skimming).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            each = losses(model, asked, part, random.Random(step).uniform(1, STRONGEST))
        (each @ (READING if reads else DRAWING).to(device)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        step += 1
        seen += 1
        pictures += len(part.ids)
        sums += each.detach().cpu()
        now = time.monotonic()
        if step % 25 == 0:
            line = {
                "step": step,
                **{name: round(float(sum_) / seen, 4) for name, sum_ in zip(LOSSES, sums, strict=True)},
                "pictures_per_second": round(pictures / (now - begun), 2),
            }
            print(json.dumps(line), flush=True)
            seen, pictures, begun = 0, 0, now
            sums.zero_()
        if now - saved_at > minutes * 60:
            keep()
            saved_at = now
    keep()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/shapes"))
    parser.add_argument("--start", type=Path, help="a folder of weights to begin with, such as the shipped model's")
    parser.add_argument("--steps", type=int, default=12_000, help="steps in all")
    parser.add_argument("--batch", type=int, default=8, help=f"pictures a step; skimmed ones {LIGHTER} times as many")
    parser.add_argument("--skim", type=float, default=0.6, help="share of the steps, at first, that mostly skim")
    parser.add_argument("--rate", type=float, default=0.007, help="learning rate of the inner matrices")
    parser.add_argument("--minutes", type=float, default=5, help="minutes between checkpoints")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bfloat16", action="store_true", help="for GPUs and processors that have bfloat16 units")
    given = parser.parse_args()
    train(
        given.out,
        given.start,
        given.steps,
        given.batch,
        given.skim,
        given.rate,
        given.minutes,
        given.device,
        given.bfloat16,
    )


if __name__ == "__main__":
    main()
