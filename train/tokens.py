"""Train the embedded model to draw: captions in, picture codes out, cross-entropy on every image token.

    python -m train.tokens --out runs/shapes --pictures 40000

Nearly all codes of a picture follow from the codes before them. What the caption rules is a handful of choices, such as
the colour an object begins with, and they would hardly be heard. So these choices count once more (`choices_loss`), and
every image token is asked what lies ahead (`foresight`).

Writes a checkpoint every few minutes and goes on from it when started again. The learning rate stays flat and falls to
zero over the last half, so `--pictures` may be raised or lowered between two starts.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import JanusForConditionalGeneration, PreTrainedTokenizerBase

from ssd_core.evaluate.scenes import BACKGROUNDS, GRID, sample

from . import codes, foresight
from .model import build
from .muon import Muon
from .text import BEGIN
from .text import build as build_tokenizer

LOSSES = ("loss", "choices", "foresight", "place", "guided")  # as they are printed
TWINS = 0.25  # share of a batch that draws scenes of the same batch again with pads for a caption, for guidance
GUIDED = 0.3  # weight of the cross-entropy under guidance
STRONGEST = 6.0  # guidance
WARMUP = 50  # steps
CHOICES = 0.5  # weight of the choices that the caption rules, beside all tokens alike
AHEAD = 0.1  # weight of foresight
PLACE = 0.1  # weight of rows and columns
READING = 0.2  # what the weights of choices and foresight fall to by the middle of the training, of 1
DECAY = 0.5  # share of the training, at its end, over which the learning rate falls to zero


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


def batch(step: int, size: int, captions: Captions) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The batch of a step, the same whenever it is asked for: prompt ids [B, P] (padded on the right), prompt lengths
    [B], picture codes [B, 576], what lies ahead [B, 576, 7]. The last rows are twins of the first."""
    rng = random.Random(step)
    twins = twins_of(size)
    scenes = [sample(rng) for _ in range(size - twins)]
    prompts = [captions.ids(scene.caption) for scene in scenes]
    pad = captions.tokenizer.pad_token_id
    prompts += [[prompt[0], *[pad] * (len(prompt) - 2), prompt[-1]] for prompt in prompts[:twins]]
    scenes += scenes[:twins]
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    width = int(lengths.max())
    ids = torch.tensor([prompt + [pad] * (width - len(prompt)) for prompt in prompts])
    pictures = [codes.encode(scene) for scene in scenes]
    ahead = np.stack([foresight.targets(scene, picture) for scene, picture in zip(scenes, pictures, strict=True)])
    return ids, lengths, torch.from_numpy(np.stack(pictures)).flatten(1), torch.from_numpy(ahead)


def twins_of(size: int) -> int:
    """How many rows of a batch are twins."""
    return max(1, round(TWINS * size))


def forward(
    model: JanusForConditionalGeneration, ids: torch.Tensor, lengths: torch.Tensor, pictures: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of the picture codes, float32 [B, 576, codebook], and what a middle layer knew before each,
    [B, 576, hidden]. Each row is prompt, picture, pads; what follows the picture is never seen by it, so no mask is
    needed."""
    text = model.model.language_model.embed_tokens(ids)
    image = model.prepare_embeddings_for_image_generation(pictures[:, :-1])
    x = torch.cat([text, torch.zeros_like(image)], 1)
    # where each image token of a row stands
    at = lengths[:, None] + torch.arange(image.shape[1], device=ids.device)
    x = x.scatter(1, at[:, :, None].expand(-1, -1, x.shape[-1]), image.to(x.dtype))
    layers = model.model.language_model(inputs_embeds=x, use_cache=False, output_hidden_states=True).hidden_states
    at = torch.cat([lengths[:, None] - 1, at], 1)[:, :, None].expand(-1, -1, x.shape[-1])
    return model.model.generation_head(layers[-1].gather(1, at)).float(), layers[foresight.LAYER].gather(1, at)


def free(pictures: torch.Tensor) -> torch.Tensor:
    """bool [B, 576]: where an object could begin, if it began at a cell with background to the left and above."""
    ground = pictures.view(-1, GRID, GRID) < len(BACKGROUNDS)
    left = torch.nn.functional.pad(ground, (1, 0), value=True)[:, :, :-1]
    above = torch.nn.functional.pad(ground, (0, 0, 1, 0), value=True)[:, :-1]
    return (left & above).flatten(1)


@cache
def places() -> torch.Tensor:
    """bool [576]: where objects of the scenes begin, the first token of each."""
    rng = random.Random(0)
    found = torch.zeros(GRID * GRID, dtype=torch.bool)
    for scene in (sample(rng) for _ in range(4000)):
        found[[begin for begin, _ in foresight.begins(scene, codes.encode(scene))]] = True
    return found


def choices_loss(logits: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """How well the choices are made that the caption rules: the first code, which is the background, and the codes
    where an object's outline comes out of it.

    The latter are judged among the codes of objects alone: whether an object begins here or later is chance, and
    counting that more often where it happens to begin would teach the model to begin too soon.
    """
    grounds = len(BACKGROUNDS)
    begins = free(pictures) & (pictures >= grounds)
    among_objects = cross_entropy(logits[begins][:, grounds:], pictures[begins] - grounds)
    return among_objects + 0.1 * cross_entropy(logits[:, 0], pictures[:, 0])


def guided_loss(logits: torch.Tensor, pictures: torch.Tensor, guidance: float) -> torch.Tensor:
    """Cross-entropy of the scenes that have twins, under guidance, where the caption rules nothing.

    Guidance magnifies every difference between the two rows, also where there should be none and the difference is
    only what either has not learned. A small model's pictures fall apart over it unless it learns that, too. Where an
    object may begin guidance is meant to make a difference: there the loss would teach the model to begin too late.
    """
    twins = twins_of(len(logits))
    guided = torch.lerp(logits[-twins:], logits[:twins], guidance)
    own = pictures[:twins]
    ruled = free(own) & places().to(own.device)
    return cross_entropy(guided[~ruled], own[~ruled])


def optimizers(
    model: JanusForConditionalGeneration, head: foresight.Foresight, rate: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the network, AdamW for embeddings, output layers, norms and biases."""
    inner: list[torch.nn.Parameter] = []
    outer: list[torch.nn.Parameter] = list(head.parameters())
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


def train(
    out: Path, start: Path | None, total: int, size: int, rate: float, minutes: float, device: str, bfloat16: bool
) -> None:
    """Train, or go on training, until `total` pictures were seen; keep everything in `out`. A training that is not
    yet under way there begins with the weights in the folder `start`, or with fresh ones."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(out)
    captions = Captions(tokenizer)
    model = build(tokenizer)
    if start:
        model.load_state_dict(JanusForConditionalGeneration.from_pretrained(start).float().state_dict())
    model.to(device)
    head = foresight.Foresight(model.config.text_config.hidden_size).to(device)
    steppers = optimizers(model, head, rate)
    rates = [stepper.param_groups[0]["lr"] for stepper in steppers]
    checkpoint = out / "checkpoint.pt"
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        head.load_state_dict(state["foresight"])
        for stepper, saved in zip(steppers, state["optimizers"], strict=True):
            stepper.load_state_dict(saved)
        step = state["step"]

    def keep() -> None:
        state = {
            "model": model.state_dict(),
            "foresight": head.state_dict(),
            "optimizers": [stepper.state_dict() for stepper in steppers],
            "step": step,
        }
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)

    steps = total // size
    autocast = torch.autocast(device, torch.bfloat16, enabled=bfloat16)
    begun = saved_at = time.monotonic()
    seen, sums = 0, torch.zeros(len(LOSSES))
    while step < steps:
        factor = min(1.0, (step + 1) / WARMUP, (steps - step) / (steps * DECAY))
        for stepper, flat in zip(steppers, rates, strict=True):
            for group in stepper.param_groups:
                group["lr"] = flat * factor
        ids, lengths, pictures, ahead = (part.to(device) for part in batch(step, size, captions))
        with autocast:
            logits, middle = forward(model, ids, lengths, pictures)
        loss = cross_entropy(logits.flatten(0, 1), pictures.flatten())
        choices = choices_loss(logits, pictures)
        expected, place = head.loss(middle, ahead)
        guided = guided_loss(logits, pictures, random.Random(step).uniform(1, STRONGEST))
        # First it learns to read, unless it begins with weights that can. Later the chance in choices would drown what
        # is left to learn of drawing.
        reading = READING if start else max(READING, 1 - 2 * step / steps)
        (loss + GUIDED * guided + PLACE * place + reading * (CHOICES * choices + AHEAD * expected)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        step += 1
        seen += 1
        sums += torch.stack([part.detach() for part in (loss, choices, expected, place, guided)]).cpu()
        now = time.monotonic()
        if step % 25 == 0:
            line = {
                "step": step,
                "pictures": step * size,
                **{name: round(float(sum_) / seen, 4) for name, sum_ in zip(LOSSES, sums, strict=True)},
                "pictures_per_second": round(seen * size / (now - begun), 2),
            }
            print(json.dumps(line), flush=True)
            seen, begun = 0, now
            sums.zero_()
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
    parser.add_argument("--rate", type=float, default=0.007, help="learning rate of the inner matrices")
    parser.add_argument("--minutes", type=float, default=5, help="minutes between checkpoints")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bfloat16", action="store_true", help="for GPUs and processors that have bfloat16 units")
    given = parser.parse_args()
    train(given.out, given.start, given.pictures, given.batch, given.rate, given.minutes, given.device, given.bfloat16)


if __name__ == "__main__":
    main()
