"""Train the picture codec: the VQ model's decoder learns to draw the fixed codes (codes.py), its encoder to name them.

    python -m train.pictures --out runs/shapes --pictures 5000

Most of the training sees windows of a picture, where small steps are cheap; the last part sees whole pictures, as the
norms do in use. Writes `pictures.pt` every few minutes and goes on from it when started again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch.nn import functional
from transformers.models.janus.modeling_janus import JanusVQVAE

from ssd_core.evaluate.scenes import BACKGROUNDS, COLOURS, GRID

from .canvas import batch, held_out
from .model import build
from .muon import Muon
from .steady import steady
from .text import build as build_tokenizer

WINDOW = 12  # cells along each side of a window
WHOLE = 0.4  # share of the training, at its end, that sees whole pictures while the learning rate falls to zero
WARMUP = 30  # steps
SQUARED = 4.0  # weight of the squared error beside the absolute one: it rules the edges, the absolute one the colours
NAMING = 0.1  # weight of the encoder's loss: it trains the code vectors too, and shall not rule them
SHARPNESS = 20.0  # of the cosine between the encoder's vector and the code's, where the encoder's loss meets it


def draw(vqmodel: JanusVQVAE, codes: torch.Tensor) -> torch.Tensor:
    """What the decoder makes of codes [B, side, side]: [B, 3, side * 4, side * 4]. As vqmodel.decode, for any side."""
    vectors = functional.normalize(vqmodel.quantize.embedding(codes), dim=-1)
    return vqmodel.decoder(vqmodel.post_quant_conv(vectors.permute(0, 3, 1, 2)))


def similarity(vqmodel: JanusVQVAE, pixels: torch.Tensor) -> torch.Tensor:
    """The cosine of each cell's vector from the encoder with each code's: [B, side, side, 512]."""
    vectors = functional.normalize(vqmodel.quant_conv(vqmodel.encoder(pixels)), dim=1)
    return vectors.permute(0, 2, 3, 1) @ functional.normalize(vqmodel.quantize.embedding.weight, dim=-1).T


def optimizers(vqmodel: JanusVQVAE, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the convolutions inside the networks, AdamW for what is next to pixels or codes, norms and biases."""
    inner: list[torch.nn.Parameter] = []
    outer: list[torch.nn.Parameter] = []
    for name, weight in vqmodel.named_parameters():
        is_inner = weight.ndim == 4 and not any(key in name for key in ("conv_out", "encoder.conv_in", "quant_conv"))
        (inner if is_inner else outer).append(weight)
    return [
        Muon(inner, lr=rate),
        torch.optim.AdamW(outer, lr=rate / 8, betas=(0.9, 0.95), weight_decay=0.0),
    ]


@torch.no_grad()
def measure(vqmodel: JanusVQVAE, device: str, count: int = 120) -> dict[str, float]:
    """The codec on held-out scenes: PSNR of the drawn pictures in dB, share of codes that the encoder names right (all,
    and those of edges), and the largest error of a pixel two pixels or more away from every edge, in 255ths."""
    squared, error, right, edge = [], [], [], []
    for codes, pixels in zip(*(part.split(8) for part in held_out(count)), strict=True):
        codes, pixels = codes.to(device), pixels.to(device)
        drawn = vqmodel.decode(codes.flatten(1)).clamp(-1, 1)
        difference = (drawn - pixels) / 2
        squared.append((difference**2).mean((1, 2, 3)))
        lightest, darkest = functional.max_pool2d(pixels, 5, 1, 2), -functional.max_pool2d(-pixels, 5, 1, 2)
        error.append((difference.abs() * (lightest == darkest)).amax((1, 2, 3)) * 255)
        _, _, named = vqmodel.quantize(vqmodel.quant_conv(vqmodel.encoder(pixels)))  # as vqmodel.encode
        right.append(named.view_as(codes) == codes)
        edge.append(codes >= len(BACKGROUNDS) + len(COLOURS))
    hit, colour = torch.cat(right), torch.cat(error)
    return {
        "psnr": -10 * torch.cat(squared).mean().log10().item(),
        "accuracy": hit.float().mean().item(),
        "edge_accuracy": hit[torch.cat(edge)].float().mean().item(),
        "colour_error": colour.max().item(),
        "median_colour_error": colour.median().item(),
    }


def rounded(line: dict[str, float]) -> str:
    return json.dumps({key: round(value, 4) for key, value in line.items()})


def train(out: Path, pictures: int, rate: float, minutes: float, device: str) -> None:
    """Train, or go on training, until `pictures` pictures' worth of pixels were seen; keep everything in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    vqmodel = build(build_tokenizer()).model.vqmodel.to(device, memory_format=torch.channels_last)
    steppers = optimizers(vqmodel, rate)
    rates = [stepper.param_groups[0]["lr"] for stepper in steppers]
    checkpoint = out / "pictures.pt"
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        vqmodel.load_state_dict(state["vqmodel"])
        for stepper, saved in zip(steppers, state["optimizers"], strict=True):
            stepper.load_state_dict(saved)
        step = state["step"]
    else:
        codes, pixels = (part.to(device) for part in batch(0, 8))
        steady(vqmodel, lambda: (draw(vqmodel, codes), similarity(vqmodel, pixels)))

    def keep() -> None:
        state = {
            "vqmodel": vqmodel.state_dict(),
            "optimizers": [stepper.state_dict() for stepper in steppers],
            "step": step,
        }
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)

    begun = saved_at = time.monotonic()
    seen, sums = 0, {"loss": 0.0, "error": 0.0, "accuracy": 0.0}
    while step < pictures:
        left = (pictures - step) / pictures
        for stepper, flat in zip(steppers, rates, strict=True):
            for group in stepper.param_groups:
                group["lr"] = flat * min(1.0, (step + 1) / WARMUP, left / WHOLE)
        codes, pixels = batch(step, 1) if left <= WHOLE else batch(step, (GRID // WINDOW) ** 2, WINDOW)
        codes, pixels = codes.to(device), pixels.to(device)
        error = draw(vqmodel, codes) - pixels
        cosine = similarity(vqmodel, pixels)
        naming = functional.cross_entropy(SHARPNESS * cosine.flatten(0, 2), codes.flatten())
        loss = error.abs().mean() + SQUARED * error.square().mean() + NAMING * naming
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vqmodel.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        with torch.no_grad():  # decode() normalizes the code vectors, encode() does not: at unit length both agree
            weight = vqmodel.quantize.embedding.weight
            weight.copy_(functional.normalize(weight, dim=-1))
        step += 1
        seen += 1
        sums["loss"] += loss.item()
        sums["error"] += error.square().mean().item() / 4
        sums["accuracy"] += (cosine.argmax(-1) == codes).float().mean().item()
        now = time.monotonic()
        if step % 100 == 0:
            means = {key: value / seen for key, value in sums.items()}
            means["psnr"] = -10 * torch.tensor(means.pop("error")).log10().item()
            print(rounded({"pictures": step, **means, "pictures_per_second": seen / (now - begun)}), flush=True)
            seen, sums, begun = 0, dict.fromkeys(sums, 0.0), now
        if now - saved_at > minutes * 60:
            keep()
            saved_at = now
    keep()
    print(rounded({"pictures": step, **measure(vqmodel, device)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/shapes"))
    parser.add_argument("--pictures", type=int, default=5_000, help="pictures to see in all; one a step")
    parser.add_argument("--rate", type=float, default=0.02, help="learning rate of the inner convolutions")
    parser.add_argument("--minutes", type=float, default=4, help="minutes between checkpoints")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    train(given.out, given.pictures, given.rate, given.minutes, given.device)


if __name__ == "__main__":
    main()
