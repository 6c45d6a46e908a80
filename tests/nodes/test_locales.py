"""The pack's words in each language, as ComfyUI's page looks them up: all that there is, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nodes.object_info import chosen, flat

ROOT = Path(__file__).parents[2]
LOCALES = ROOT / "locales"
SYNTAX = "{}@|"  # what the page would take for more than letters
CHINESE = re.compile("[\u4e00-\u9fff]")


def read(language: str, name: str) -> dict[str, Any]:
    words: dict[str, Any] = json.loads((LOCALES / language / name).read_text(encoding="utf-8"))
    return words


def words_of(node: dict[str, Any]) -> dict[str, Any]:
    """A node's words by the keys that the page looks for; a point in a name is an underscore there."""
    inputs = {name: words(name, [spec]) for name, spec in flat(node["input"]).items()}
    inner = {name.replace(".", "_"): words(name.split(".")[1], specs) for name, specs in chosen(node["input"]).items()}
    outputs = {str(place): {"name": name} for place, name in enumerate(node["output_name"])}
    return {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": inputs | inner,
        "outputs": outputs,
    }


def words(name: str, specs: list[Any]) -> dict[str, str]:
    """An input's name and its tooltip. Methods that share a parameter say the same of it: there is one place for it."""
    [tooltip] = {options["tooltip"] for _, options in specs}
    return {"name": name, "tooltip": tooltip}


def leaves(words: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """All texts, by their paths."""
    for key, value in words.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield path + key, value


def test_every_input_has_its_tooltip(info: dict[str, Any]) -> None:
    for name, node in info.items():
        all_specs = {own: [spec] for own, spec in flat(node["input"]).items()} | chosen(node["input"])
        for own, specs in all_specs.items():
            assert all(options.get("tooltip") for _, options in specs), (name, own)


def test_english_is_what_the_nodes_say(info: dict[str, Any]) -> None:
    said = dict(leaves({name: words_of(node) for name, node in info.items()}))
    written = dict(leaves(read("en", "nodeDefs.json")))
    differing = [
        f"{path}: {written.get(path)!r} should be {said.get(path)!r}"
        for path in sorted({*said, *written})
        if written.get(path) != said.get(path)
    ]
    assert not differing, "in locales/en/nodeDefs.json\n" + "\n".join(differing)


@pytest.mark.parametrize("name", ["main.json", "nodeDefs.json", "settings.json"])
def test_every_language_has_the_same_words(name: str) -> None:
    english = dict(leaves(read("en", name)))
    for language in (path.name for path in LOCALES.iterdir()):
        own = dict(leaves(read(language, name)))
        assert {*own} == {*english}, language
        for path, text in own.items():
            assert text.strip(), (language, path)
            assert not {*text} & {*SYNTAX}, (language, path)


@pytest.mark.parametrize("name", ["main.json", "nodeDefs.json", "settings.json"])
def test_chinese_is_chinese(name: str) -> None:
    english = dict(leaves(read("en", name)))
    for path, text in leaves(read("zh", name)):
        terms = len(english[path].split()) == 1 or english[path] == "SSD Janus"  # top_k, JSON and the like may stay
        assert CHINESE.search(text) or terms, path


def test_the_menu_and_the_settings_have_their_words(info: dict[str, Any]) -> None:
    main, settings = read("en", "main.json"), read("en", "settings.json")
    assert {*main["nodeCategories"]} == {node["category"] for node in info.values()}
    script = (ROOT / "web" / "settings.js").read_text(encoding="utf-8")
    ids = set(re.findall(r'= "(SSDJanus\.[\w.]+)"', script))
    assert {*settings} == {own.replace(".", "_") for own in ids}
    groups = re.findall(r'category: \["([^"]+)", "([^"]+)"', script)
    assert len(groups) == len(ids)
    assert {*main["settingsCategories"]} == {word for group in groups for word in group}
    assert {own["name"] for own in settings.values()} == set(re.findall(r'^    name: "([^"]+)"', script, re.MULTILINE))
