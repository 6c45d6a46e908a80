"""What small weights cost in quality, and what they save: pictures and distributions against the unrounded model's.

    python -m bench.weights

Each precision that the device can do draws the same prompts of combinations never trained on, with the same seeds and
the full cache, batch by batch in turn, and its pictures are judged by ShapesEval. On the first prompts it is also fed
right pictures, token by token and without guidance, and its distributions are compared. Writes
bench/results/weights.json and the table in docs/weights.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import ssd_core
from bench.arguments import count, told
from bench.quality.batches import Batch, batches
from bench.quality.summary import interval, overall
from bench.readme import put_between, table
from ssd_core.evaluate.fidelity import divergence, forced_logits
from ssd_core.evaluate.shapes import score
from ssd_core.memory import module_bytes, plan
from ssd_core.models.base import ImageModel
from ssd_core.models.small import possible_weights
from ssd_core.prompts import prompt_rows
from ssd_core.report import versions
from ssd_core.sampling import Sampling
from ssd_core.words import human

ROOT = Path(__file__).parents[1]
OUT, DOCUMENT = ROOT / "bench" / "results" / "weights.json", ROOT / "docs" / "weights.md"
ALONE = Sampling(guidance=1.0)
HEADER = [
    "weights",
    "decoder",
    "all weights",
    "ShapesEval",
    "to auto",
    "95 %",
    "KL a token",
    "largest of a picture",
    "tokens/s",
]


@dataclass
class Drawn:
    """What a precision has drawn: the task of each picture, whether it is right, and seconds of the token loop."""

    tasks: list[str] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    seconds: float = 0.0

    def draw(self, model: ImageModel, batch: Batch, guidance: float) -> None:
        result = ssd_core.generate(model, batch.prompts, seed=batch.seed, guidance=guidance)
        verdicts = score(list(result.images.numpy()), batch.prompts).verdicts
        self.tasks += [verdict.task for verdict in verdicts]
        self.right += [int(verdict.right) for verdict in verdicts]
        self.seconds += result.timing.prefill + result.timing.decode


@dataclass(frozen=True)
class Row:
    """decoder_bytes: but for its table of positions. difference: of ShapesEval to that of unrounded weights, with 95 %
    by a paired bootstrap over prompts. kl, largest_kl: the mean of all pictures, and the largest of one."""

    weights: str
    decoder_bytes: int
    weights_bytes: int
    shapes_eval: float
    difference: float
    interval: tuple[float, float]
    kl: float
    largest_kl: float
    tokens_per_second: float

    def cells(self) -> list[str]:
        low, high = self.interval
        return [
            self.weights,
            human(self.decoder_bytes),
            human(self.weights_bytes),
            f"{self.shapes_eval:.3f}",
            f"{self.difference:+.3f}",
            f"{low:+.3f} to {high:+.3f}",
            f"{self.kl:.2g}",
            f"{self.largest_kl:.2g}",
            f"{self.tokens_per_second:.0f}",
        ]


def logits(model: ImageModel, some: Sequence[Batch]) -> Tensor:
    """Of each token of right pictures, float32 [tokens, prompts, codebook]."""
    each = []
    for batch in some:
        rows = prompt_rows(model, batch.prompts, 1, None, ALONE)
        each.append(torch.stack(list(forced_logits(model, ssd_core.Full(), rows, batch.tokens))))
    return torch.cat(each, 1)


def row_of(weights: str, model: ImageModel, own: Drawn, plain: Drawn, kl: Tensor) -> Row:
    """kl: of each picture, in nats a token."""
    tasks, right = np.array(own.tasks), np.array(own.right)
    change = right - np.array(plain.right)
    return Row(
        weights,
        module_bytes(model.decoder) - model.decoder.rope.table.nbytes,
        plan(model).weights_bytes,
        overall(tasks, right),
        overall(tasks, change),
        interval(tasks, change),
        float(kl.mean()),
        float(kl.max()),
        len(right) * model.geometry.tokens / own.seconds,
    )


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench.weights", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="janus-shapes", help="one with the embedded model's picture codes")
    parser.add_argument("--prompts", type=count, default=600, help="that are drawn")
    parser.add_argument("--forced", type=count, default=16, help="prompts of which distributions are compared")
    parser.add_argument("--batch", type=count, default=16, help="prompts at once")
    parser.add_argument("--guidance", type=float, default=2.0, help="2 is the best for the embedded model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    return parser.parse_args(arguments)


def precisions(plain: ImageModel, given: argparse.Namespace) -> dict[str, ImageModel]:
    """By name: all that the device can do, and bfloat16, in which the processor multiplies with small weights."""
    models = {"auto": plain}
    if plain.dtype != torch.bfloat16:
        models["auto, bfloat16"] = ssd_core.load(given.model, given.device, "bf16")
    small = (weights for weights in possible_weights(plain.device, plain.dtype) if weights != "auto")
    return models | {
        weights: ssd_core.load(given.model, given.device, given.dtype, weights=weights) for weights in small
    }


def main(arguments: Sequence[str] | None = None) -> None:
    given = options(arguments)
    with told():
        plain = ssd_core.load(given.model, given.device, given.dtype)
        models = precisions(plain, given)
    reference, forced = logits(plain, some := batches(plain, given.forced, given.batch)), {}
    for weights, model in models.items():
        forced[weights] = divergence(reference, logits(model, some))
        print(f"{weights}: {forced[weights].mean():.2g} nats a token", flush=True)
    drawn = {weights: Drawn() for weights in models}
    for batch in batches(plain, given.prompts, given.batch):
        for weights, model in models.items():
            drawn[weights].draw(model, batch, given.guidance)
        print(f"{len(drawn['auto'].right)} pictures each", flush=True)
    rows = [row_of(weights, model, drawn[weights], drawn["auto"], forced[weights]) for weights, model in models.items()]
    settings = {
        "model": plain.name,
        "dtype": str(plain.dtype).removeprefix("torch."),
        "prompts": len(drawn["auto"].right),
        "forced": sum(len(batch.prompts) for batch in some),
        "batch": given.batch,
        "guidance": given.guidance,
        "threads": torch.get_num_threads(),
    }
    OUT.write_text(
        json.dumps(
            {"settings": settings, "versions": versions(plain.device), "rows": list(map(asdict, rows))}, indent=1
        )
        + "\n"
    )
    put_between(DOCUMENT, "weights", table(HEADER, [row.cells() for row in rows]))


if __name__ == "__main__":
    main()
