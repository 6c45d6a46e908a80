"""A picture of what methods give to each head: slots for the prompt, for the newest tokens, and for chosen ones.

python -m bench.slots --methods ssd reach --budgets 0.2 0.125 0.08 --out docs/reach-slots.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

import ssd_core
from bench.arguments import told
from bench.quality.render import percent
from bench.quality.ways import Way
from bench.svg import page, text
from ssd_core.errors import UserError
from ssd_core.models.base import Geometry, ImageModel
from ssd_core.policies import Keep, Policy, RankingPolicy, View

PROMPT = 14  # tokens, as many as a caption of two objects has
BAR, GAP, TALL = 8, 14, 120  # a head's width, what is between layers, and a panel's height, in pixels
COLOURS = {"prompt": "#aaaaaa", "newest": "#88ccee", "chosen": "#cc6677"}


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m bench.slots", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=["ssd", "reach"])
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.2, 0.125, 0.08])
    parser.add_argument("--model", default="janus-shapes")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with told():
        model = ssd_core.load(given.model)
        given.out.write_text(draw(model, given.methods, given.budgets), encoding="utf-8")


def draw(model: ImageModel, methods: Sequence[str], budgets: Sequence[float]) -> str:
    """An SVG with a panel for each method, left to right, at each budget, top to bottom."""
    geometry = model.geometry
    wide = geometry.layers * (geometry.kv_heads * BAR + GAP) + 60
    parts = []
    for down, budget in enumerate(budgets):
        policies = {method: Way(method, budget).policy().fit(model) for method in methods}
        heads = {method: split(policy, geometry) for method, policy in policies.items()}
        most = max(sum(head) for layers in heads.values() for layer in layers for head in layer)
        for across, (method, layers) in enumerate(heads.items()):
            left, top = 20 + across * wide, 60 + down * (TALL + 50)
            own = max(sum(head) for layer in layers for head in layer)
            parts.append(text(left, top - 8, f"{method}, {percent(budget)}; the most a head holds: {own} slots"))
            parts.extend(bars(layers, left, top, TALL / most))
    for number, (kind, colour) in enumerate(COLOURS.items()):
        parts.append(f'<rect x="{20 + 110 * number}" y="14" width="12" height="12" fill="{colour}"/>')
        parts.append(text(38 + 110 * number, 25, kind))
    return page("Slots of each head", 20 + len(methods) * wide, 60 + len(budgets) * (TALL + 50), parts)


Head = tuple[int, int, int]  # slots for the prompt, for the newest image tokens, and for chosen ones


def split(policy: Policy, geometry: Geometry) -> list[list[Head]]:
    """The slots of each head, [layers][kv_heads]; raises UserError where the method looks at more than attention."""
    return [[of_head(policy, keep, geometry) for keep in layer] for layer in policy.keeps(geometry, PROMPT)]


def of_head(policy: Policy, keep: Keep, geometry: Geometry) -> Head:
    free = keep.slots - keep.pinned
    if not (keep.ranked and isinstance(policy, RankingPolicy)):
        return keep.pinned, free, 0
    if policy.contents:
        raise UserError("Only methods that rank by attention alone can be drawn; choose h2o, ssd or reach.")
    nothing = torch.empty(1, keep.slots, 0)
    position = torch.arange(keep.slots, dtype=torch.int32)[None]
    score, queries = torch.zeros(1, keep.slots), torch.empty(1, 0, 1, 0)
    view = View(
        position, score, nothing, nothing, queries, keep.slots - 1, keep.pinned, keep.slots, geometry.columns, keep.role
    )
    newest = min(int((policy.priority(view) > 0).sum()), free)  # what was attended alike, but for being new
    return keep.pinned, newest, free - newest


def bars(layers: Sequence[Sequence[Head]], left: float, top: float, scale: float) -> Iterator[str]:
    """A bar for each head, layers apart."""
    for layer, own in enumerate(layers):
        for number, head in enumerate(own):
            x, y = left + layer * (len(own) * BAR + GAP) + number * BAR, top + TALL
            for colour, slots in zip(COLOURS.values(), head, strict=True):
                y -= slots * scale
                size = f'width="{BAR - 1}" height="{slots * scale:.1f}"'
                yield f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{colour}"/>'


if __name__ == "__main__":
    main()
