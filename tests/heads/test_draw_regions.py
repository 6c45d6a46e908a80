"""The pictures of where attention goes: what each head's part of them shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssd_core import UserError
from ssd_core.heads import HeadMap
from ssd_core.heads.colours import heat
from ssd_core.heads.draw_columns import draw_columns
from ssd_core.heads.draw_reach import draw_reach
from ssd_core.heads.draw_regions import COLOURS, FRAME, GAP, draw_regions
from ssd_core.heads.page import INK, MARGIN, NUMBERS, PAPER, Sheet, side_of
from ssd_core.heads.regions import REGIONS, Regions

SIZES = [(6, 6), (24, 16), (30, 32), (2, 5)]  # layers and heads
STEPS = 24


def some_regions(layers: int, heads: int, steps: int = STEPS) -> Regions:
    generator = torch.Generator().manual_seed(layers)
    share = torch.rand(layers, heads, steps, len(REGIONS), generator=generator) ** 3
    share[0, 0, 0] = torch.eye(len(REGIONS))[-1]  # so that the first chart's corner is of one colour
    columns = torch.rand(layers, heads, steps, steps, generator=generator) * 0.3
    newest, largest = torch.rand(2, layers, heads, steps, generator=generator) * steps**2
    queries = torch.full((steps,), steps)
    return Regions(share / share.sum(-1, keepdim=True), columns, newest, largest, queries)


def some_map(layers: int, heads: int, model: str = "tiny") -> HeadMap:
    return HeadMap(torch.rand(layers, heads, generator=torch.Generator().manual_seed(1)), {"model": model})


def top_of(pixels: np.ndarray, colours: list[tuple[int, int, int]]) -> int:
    """The first row whose pixel at the left edge of the heads has one of these colours."""
    column = pixels[:, MARGIN + NUMBERS]
    return int(np.any([(column == colour).all(-1) for colour in colours], 0).nonzero()[0][0])


@pytest.mark.parametrize(("layers", "heads"), SIZES)
def test_each_chart_stacks_its_shares_step_by_step(layers: int, heads: int) -> None:
    regions, head_map = some_regions(layers, heads), some_map(layers, heads)
    pixels = np.asarray(draw_regions(regions, head_map, 0.5))
    side = side_of(layers, heads, STEPS)
    top = top_of(pixels, list(COLOURS.values()))
    for layer, head in ((0, 0), (layers - 1, heads - 1), (1, 3)):
        y, x = top + layer * (side + GAP), MARGIN + NUMBERS + head * (side + GAP)
        for step in (0, 7, STEPS - 1):
            line = pixels[y : y + side, x + int((step + 0.5) * side / STEPS)][::-1]
            middles = regions.share[layer, head, step].cumsum(0) - regions.share[layer, head, step] / 2
            for place, region in enumerate(REGIONS):
                if regions.share[layer, head, step, place] * side > 3:  # what is thinner mixes with its neighbours
                    assert tuple(line[int(middles[place] * side)]) == COLOURS[region]


def test_semantic_heads_are_framed_and_no_others() -> None:
    regions, head_map = some_regions(6, 6), some_map(6, 6)
    for tau in (0.3, 0.7):
        pixels = np.asarray(draw_regions(regions, head_map, tau))
        top = top_of(pixels, list(COLOURS.values()))
        corners = pixels[top - FRAME :: 100, MARGIN + NUMBERS - FRAME :: 100][:6, :6]
        np.testing.assert_array_equal((corners == INK).all(-1), (head_map.share > tau).numpy())


def test_the_last_column_is_the_layer_s_mean() -> None:
    """Heads that differ in all, and in the mean half of each."""
    share = torch.zeros(1, 2, STEPS, len(REGIONS))
    share[0, 0, :, 0], share[0, 1, :, 5] = 1, 1
    steps = torch.ones(1, 2, STEPS)
    regions = Regions(share, steps[..., None], steps, steps, torch.full((STEPS,), STEPS))
    pixels = np.asarray(draw_regions(regions, HeadMap(torch.zeros(1, 2), {"model": "tiny"}), 0.3))
    top = top_of(pixels, [COLOURS["above"]])
    right = MARGIN + NUMBERS + 2 * 100 + 50
    line = pixels[top : top + 96, right]
    assert (line[:47] == COLOURS["prompt"]).all()
    assert (line[49:] == COLOURS["above"]).all()


@pytest.mark.parametrize(("layers", "heads"), SIZES)
def test_far_attention_is_light_where_it_falls(layers: int, heads: int) -> None:
    """One column of one head at some steps; everything else is dark."""
    columns = torch.zeros(layers, heads, STEPS, STEPS)
    columns[1, 3, 5:, 23] = 0.4
    regions = some_regions(layers, heads)
    pixels = np.asarray(draw_columns(replace(regions, columns=columns), "tiny"))
    side = side_of(layers, heads, STEPS)
    y, x = top_of(pixels, [tuple(heat(0.0))]) + side + 3, MARGIN + NUMBERS + 3 * (side + 3)
    cell, pitch = pixels[y : y + side, x : x + side], side // STEPS
    light = np.zeros((side, side), bool)
    light[round(5 * side / STEPS) :, round(23 * side / STEPS) :] = True
    np.testing.assert_array_equal(cell[::pitch, -1] == heat(1.0), light[::pitch, -1:].repeat(3, 1))
    assert (cell[:, : round(22 * side / STEPS)] == heat(0.0)).all()
    scale_free = pixels[:, : MARGIN + NUMBERS + heads * (side + 3)]
    assert abs(int((scale_free == heat(1.0)).all(-1).sum()) - int(light.sum())) <= 2 * side


def test_the_tables_say_how_many_tokens_hold_most() -> None:
    """Colours go by the count that even attention takes, figures stand where there is room."""
    regions = some_regions(6, 6)
    pixels = np.asarray(draw_reach(regions, "tiny"))
    even = 0.9 * (24 * 24 + 1) / 2
    top = top_of(pixels, [tuple(heat(min(float(regions.whole(regions.newest)[0, 0]) / even, 1)))])
    second = top + 6 * 52 + 5 * 19
    for y, steps in ((top, regions.newest), (second, regions.largest)):
        grid = pixels[y : y + 6 * 52, MARGIN + NUMBERS : MARGIN + NUMBERS + 6 * 52]
        squares = grid.reshape(6, 52, 6, 52, 3).swapaxes(1, 2)
        counts = regions.whole(steps)
        np.testing.assert_array_equal(squares[:, :, 3, 3], heat((counts / even).clamp(max=1).numpy()))
        inks = np.where((counts < even / 2)[..., None], PAPER, INK)
        far_off = np.abs(squares.astype(int) - inks[:, :, None, None]).max(-1)
        assert (far_off.min((-1, -2)) < 40).all()  # thin letters are a little mixed
        assert (far_off[:, :, 3, 3] > 60).all()


@pytest.mark.parametrize(("layers", "heads"), SIZES)
def test_nothing_leaves_the_sheet(layers: int, heads: int) -> None:
    regions, name = some_regions(layers, heads), "a-very-long-name-of-a-model " * 3
    pictures: list[Image.Image] = [
        draw_regions(regions, some_map(layers, heads, name), 0.5),
        draw_columns(regions, name),
        draw_reach(regions, name),
    ]
    for picture in pictures:
        border = np.asarray(picture)
        for edge in (border[:8], border[-8:], border[:, :8], border[:, -8:]):
            assert (edge == PAPER).all()


def test_a_threshold_that_is_no_share_is_refused() -> None:
    with pytest.raises(UserError, match="tau"):
        draw_regions(some_regions(2, 5), some_map(2, 5), 1.5)


def test_colours_of_columns_go_by_square_roots() -> None:
    columns = torch.zeros(1, 1, STEPS, STEPS)
    columns[0, 0, 0, :3] = torch.tensor([0.4, 0.1, 0.025])
    regions = some_regions(1, 1)
    pixels = np.asarray(draw_columns(replace(regions, columns=columns), "tiny"))
    line = pixels[top_of(pixels, [tuple(heat(1.0))]), MARGIN + NUMBERS :: 96 // STEPS]
    np.testing.assert_array_equal(line[:4], heat(np.array([1.0, 0.5, 0.25, 0.0])))


def test_the_figures_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The regions' means over all heads, and what the colours stand for."""
    written: list[str] = []
    plain = Sheet.text

    def text(self: Sheet, x: float, y: float, text: str, *how: Any) -> None:
        written.append(text)
        plain(self, x, y, text, *how)

    monkeypatch.setattr(Sheet, "text", text)
    regions = some_regions(3, 4)
    draw_regions(regions, some_map(3, 4), 0.4)
    means = regions.whole(regions.share).mean((0, 1))
    for place, region in enumerate(REGIONS):
        assert written[written.index(region) - 1] == f"{means[place]:.1%}"
    assert any("tau = 0.4" in line for line in written)
    written.clear()
    draw_columns(regions, "tiny")
    most = float(regions.columns.max())
    assert {"0", f"{most / 16:.2g}", f"{most / 4:.2g}", f"{most:.2g}"} <= set(written)
    written.clear()
    draw_reach(regions, "tiny")
    for name, steps in (("backward from the newest", regions.newest), ("largest first", regions.largest)):
        first = written.index(name) + 1
        assert written[first : first + 12] == [f"{count:.0f}" for count in regions.whole(steps).flatten().tolist()]
    assert {"0", "65", "130", "260"} <= set(written)
