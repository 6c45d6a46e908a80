"""Train the embedded model to draw: captions in, picture codes out, cross-entropy on every image token.

    python -m train.tokens --out runs/shapes --pictures 40000

Nearly all codes of a picture follow from the codes before them. What the caption rules is a handful of choices, such as
the colour an object begins with, and they would hardly be heard. So these choices count once more (`choices_loss`).

Writes a checkpoint every few minutes and goes on from it when started again. The learning rate stays flat and falls to
zero over the last quarter, so `--pictures` may be raised or lowered between two starts.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import JanusForConditionalGeneration, PreTrainedTokenizerBase

from ssd_core.evaluate.scenes import BACKGROUNDS, GRID, sample

from . import codes
from .model import build
from .muon import Muon
from .text import BEGIN
from .text import build as build_tokenizer

UNCONDITIONAL = 0.1  # share of captions replaced by pads, for guidance
WARMUP = 50  # steps
CHOICES = 0.5  # weight of the choices that the caption rules, beside all tokens alike


class Captions:
    """Turns captions into prompt ids once each: the template and the pads of the unconditional prompt."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.begin = tokenizer.convert_tokens_to_ids(BEGIN)
        self.known: dict[str, list[int]] = {}

    def ids(self, caption: str) -> list[int]:
        if caption not in self.known:
            prompt = self.tokenizer(f"<|User|>: {caption}\n\n<|Assistant|>:").input_ids
            self.known[caption] = [*prompt, self.begin]
        return self.known[caption]


def batch(step: int, size: int, captions: Captions) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The batch of a step, the same whenever it is asked for: prompt ids [B, P] (padded on the right), prompt lengths
    [B], picture codes [B, 576]."""
    rng = random.Random(step)
    scenes = [sample(rng) for _ in range(size)]
    prompts = [list(captions.ids(scene.caption)) for scene in scenes]
    pad = captions.tokenizer.pad_token_id
    for prompt in prompts:
        if rng.random() < UNCONDITIONAL:
            prompt[1:-1] = [pad] * (len(prompt) - 2)
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    width = int(lengths.max())
    ids = torch.tensor([prompt + [pad] * (width - len(prompt)) for prompt in prompts])
    pictures = torch.from_numpy(np.stack([codes.encode(scene).reshape(-1) for scene in scenes]))
    return ids, lengths, pictures


def logits_of(
    model: JanusForConditionalGeneration, ids: torch.Tensor, lengths: torch.Tensor, pictures: torch.Tensor
) -> torch.Tensor:
    """The logits of the picture codes, float32 [B, 576, codebook]. Each row is prompt, picture, pads; what follows the
    picture is never seen by it, so no mask is needed."""
    text = model.model.language_model.embed_tokens(ids)
    image = model.prepare_embeddings_for_image_generation(pictures[:, :-1])
    x = torch.cat([text, torch.zeros_like(image)], 1)
    # where each image token of a row stands
    at = lengths[:, None] + torch.arange(image.shape[1], device=ids.device)
    x = x.scatter(1, at[:, :, None].expand(-1, -1, x.shape[-1]), image)
    hidden = model.model.language_model(inputs_embeds=x, use_cache=False).last_hidden_state
    at = torch.cat([lengths[:, None] - 1, at], 1)
    hidden = hidden.gather(1, at[:, :, None].expand(-1, -1, hidden.shape[-1]))
    return model.model.generation_head(hidden).float()


def choices_loss(logits: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """How well the choices are made that the caption rules: the first code, which is the background, and the codes
    where an object's outline comes out of it.

    The latter are judged among the codes of objects alone: whether an object begins here or later is chance, and
    counting that more often where it happens to begin would teach the model to begin too soon.
    """
    grounds = len(BACKGROUNDS)
    ground = pictures.view(-1, GRID, GRID) < grounds
    left = torch.nn.functional.pad(ground, (1, 0), value=True)[:, :, :-1]
    above = torch.nn.functional.pad(ground, (0, 0, 1, 0), value=True)[:, :-1]
    begins = (~ground & left & above).flatten(1)
    among_objects = cross_entropy(logits[begins][:, grounds:], pictures[begins] - grounds)
    return among_objects + 0.1 * cross_entropy(logits[:, 0], pictures[:, 0])


def optimizers(model: JanusForConditionalGeneration, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the network, AdamW for embeddings, output layer, norms and biases."""
    inner: list[torch.nn.Parameter] = []
    outer: list[torch.nn.Parameter] = []
    parts = (model.model.language_model, model.model.generation_embeddings, model.model.generation_aligner)
    for part in (*parts, model.model.generation_head):
        for name, weight in part.named_parameters():
            is_inner = weight.ndim == 2 and not any(key in name for key in ("embed", "vision_head", "fc1"))
            is_inner = is_inner and part is not model.model.generation_embeddings
            (inner if is_inner else outer).append(weight)
    return [
        Muon(inner, lr=rate),
        torch.optim.AdamW(outer, lr=rate / 8, betas=(0.9, 0.97), weight_decay=0.0),
    ]


def train(out: Path, start: Path | None, pictures: int, size: int, rate: float, minutes: float, device: str) -> None:
    """Train, or go on training, until `pictures` pictures were seen; keep everything in `out`. A training that is not
    yet under way there begins with the weights in the folder `start`, or with fresh ones."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(out)
    captions = Captions(tokenizer)
    model = build(tokenizer)
    if start:
        model.load_state_dict(JanusForConditionalGeneration.from_pretrained(start, dtype=torch.float32).state_dict())
    model.to(device)
    steppers = optimizers(model, rate)
    rates = [stepper.param_groups[0]["lr"] for stepper in steppers]
    checkpoint = out / "checkpoint.pt"
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        for stepper, saved in zip(steppers, state["optimizers"], strict=True):
            stepper.load_state_dict(saved)
        step = state["step"]

    def keep() -> None:
        state = {
            "model": model.state_dict(),
            "optimizers": [stepper.state_dict() for stepper in steppers],
            "step": step,
        }
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)

    steps = pictures // size
    bfloat16 = torch.autocast(device, torch.bfloat16, enabled=device != "cpu")
    begun = saved_at = time.monotonic()
    seen, total, chosen = 0, 0.0, 0.0
    while step < steps:
        factor = min(1.0, (step + 1) / WARMUP, (steps - step) / (steps * 0.25))
        for stepper, flat in zip(steppers, rates, strict=True):
            for group in stepper.param_groups:
                group["lr"] = flat * factor
        ids, lengths, targets = (part.to(device) for part in batch(step, size, captions))
        with bfloat16:
            logits = logits_of(model, ids, lengths, targets)
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
        choices = choices_loss(logits, targets)
        (loss + CHOICES * choices).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        step += 1
        seen += 1
        total += loss.item()
        chosen += choices.item()
        now = time.monotonic()
        if step % 25 == 0:
            line = {
                "step": step,
                "pictures": step * size,
                "loss": round(total / seen, 4),
                "choices": round(chosen / seen, 4),
                "pictures_per_second": round(seen * size / (now - begun), 2),
            }
            print(json.dumps(line), flush=True)
            seen, total, chosen, begun = 0, 0.0, 0.0, now
        if now - saved_at > minutes * 60:
            keep()
            saved_at = now
    keep()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/shapes"))
    parser.add_argument("--start", type=Path, help="a folder of weights to begin with, such as the shipped model's")
    parser.add_argument("--pictures", type=int, default=40_000, help="pictures to see in all")
    parser.add_argument("--batch", type=int, default=8, help="pictures a step")
    parser.add_argument("--rate", type=float, default=0.02, help="learning rate of the inner matrices")
    parser.add_argument("--minutes", type=float, default=5, help="minutes between checkpoints")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    train(given.out, given.start, given.pictures, given.batch, given.rate, given.minutes, given.device)


if __name__ == "__main__":
    main()
