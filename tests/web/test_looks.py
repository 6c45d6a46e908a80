"""Whether everyone can read a meter: in each theme, in each language, by the keyboard and by ear."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.web.graphs import COMPRESSION, SAMPLER
from tests.web.meters import KEPT, drawing, play, read
from tests.web.recording import ROWS, Message

THEMES = ("dark", "light", "solarized", "arc", "nord", "github")
LEAST = 4.5  # WCAG 2.2, 1.4.3

# The contrast of each text with the meter's ground; the parts may be translucent.
CONTRASTS = """() => {
  const context = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true })
  const rgba = (colour) => {
    context.clearRect(0, 0, 1, 1)
    context.fillStyle = colour
    context.fillRect(0, 0, 1, 1)
    return [...context.getImageData(0, 0, 1, 1).data].map((part) => part / 255)
  }
  const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
  const contrasts = {}
  for (const meter of document.querySelectorAll('.ssd-janus-meter')) {
    const ground = rgba(getComputedStyle(meter).backgroundColor)
    for (const text of meter.querySelectorAll('.words *, .label, .figure, figcaption')) {
      if (![...text.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.data.trim())) continue
      if (!text.checkVisibility({ visibilityProperty: true })) continue
      let [r, g, b, strength] = rgba(getComputedStyle(text).color)
      for (let own = text; own !== meter; own = own.parentElement) strength *= getComputedStyle(own).opacity
      const seen = [r, g, b].map((part, i) => strength * part + (1 - strength) * ground[i])
      const [dark, light] = [luminance(seen), luminance(ground)].sort((a, b) => a - b)
      contrasts[`${text.className || text.tagName}: ${text.textContent}`] = (light + 0.05) / (dark + 0.05)
    }
  }
  return contrasts
}"""

# English words in what is seen and heard.
SAID = """() => [...document.querySelectorAll('.ssd-janus-meter, .ssd-janus-meter *')]
  .flatMap((part) => [part.textContent, part.ariaLabel, part.ariaValueText]).join(' ').match(/[a-z]{3,}/gi)"""
CUT = """() => [...document.querySelectorAll('.ssd-janus-meter :is(.state, .saving, .figure, figcaption)')]
  .filter((text) => text.scrollWidth > text.clientWidth + 1).map((text) => text.textContent)"""


@pytest.fixture
def themed(opened: Any) -> Iterator[Any]:
    yield opened
    opened.choose("Comfy.ColorPalette", "dark")


@pytest.mark.parametrize("theme", THEMES)
def test_every_text_can_be_read(themed: Any, run: list[Message], theme: str) -> None:
    play(themed, *run, run[0], *drawing(run)[: ROWS // 2])
    themed.choose("Comfy.ColorPalette", theme)
    themed.page.wait_for_timeout(200)  # the colours come with the next frames
    themed.screenshot(KEPT / f"{themed.name}-{theme}.png")
    contrasts = themed.page.evaluate(CONTRASTS)
    assert len(contrasts) > 10
    assert {text: contrast for text, contrast in contrasts.items() if contrast < LEAST} == {}
    assert themed.page.evaluate(CUT) == []


def test_a_meter_speaks_chinese(opened: Any, run: list[Message]) -> None:
    play(opened, *run)
    opened.choose("Comfy.Locale", "zh")  # the page loads its graph anew
    try:
        opened.page.wait_for_function("document.querySelectorAll('.ssd-janus-meter[lang=zh]').length === 4")
        meter = read(opened, SAMPLER)
        assert meter["title"].startswith(f"已绘制 {ROWS} 行 · ")
        assert list(meter["now"]) == ["权重", "缓存", "图片解码器"]
        assert meter["label"].startswith("KV 内存。")
        opened.screenshot(KEPT / f"{opened.name}-zh.png")
        said = opened.page.evaluate(SAID)
        assert set(said) <= {"KiB", "MiB", "GiB"}
    finally:
        opened.choose("Comfy.Locale", "en")
        opened.page.wait_for_function("document.querySelectorAll('.ssd-janus-meter[lang=en]').length === 4")


def test_a_meter_can_be_reached_and_has_a_name_for_every_part(opened: Any, run: list[Message]) -> None:
    play(opened, *run)
    meter = opened.page.get_by_role("group", name=read(opened, SAMPLER)["label"]).first
    meter.focus()
    assert meter.evaluate("meter => meter === document.activeElement && meter.tabIndex === 0")
    for name in ("Weights", "Cache", "Picture decoder"):
        assert meter.get_by_role("meter", name=name).get_attribute("aria-valuetext")
    assert meter.get_by_role("img").count() == 2
    for image in meter.get_by_role("img").all():
        assert image.get_attribute("aria-label")
    assert opened.page.get_by_role("group", name=read(opened, COMPRESSION)["label"]).get_by_role("img").count() == 1


def test_rows_are_not_read_aloud(opened: Any, run: list[Message]) -> None:
    """Neither by what is announced nor by the name of what has the focus; and what is read keeps its place."""
    told = drawing(run)
    play(opened, run[0], told[0])
    opened.page.evaluate("window.kept = [...document.querySelectorAll('[data-state=drawing] *')]")
    heard = set()
    for message in told[1:]:
        play(opened, message)
        opened.page.wait_for_timeout(110)
        meter = read(opened, SAMPLER)
        heard.add((meter["spoken"], meter["label"]))
    [(spoken, label)] = heard
    assert spoken == "Drawing."
    assert label.startswith("KV memory. Drawing. ")
    parts = ".state, .bar, .figure, [role=img], figcaption"
    assert opened.page.evaluate(
        "parts => kept.filter((part) => part.matches(parts)).every((part) => part.isConnected)", parts
    )
