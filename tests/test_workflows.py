"""The shared workflows fit the nodes as they are, without a ComfyUI. tests/comfyui runs them, tests/web opens them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ssd_core.evaluate.captions import parse
from tests import workflows
from tests.nodes.fits import VIRTUAL, as_prompt, faults

CORE = Path(__file__).parent / "web" / "core_nodes.json"


@pytest.fixture(scope="module")
def every(info: dict[str, Any]) -> dict[str, Any]:
    """What the server says of the pack's nodes and of those of ComfyUI's own that workflows may use."""
    core: dict[str, Any] = json.loads(CORE.read_text(encoding="utf-8"))
    return core | info


def test_all_six_are_there() -> None:
    assert workflows.NAMES == [
        "Batch of 8 on a small card",
        "Compare full, SSD and window",
        "Continue a picture downward",
        "Head map to policy",
        "Redraw under a mask",
        "Text to image",
    ]
    assert {path.stem for path in (workflows.FOLDER / "api").iterdir()} == {*workflows.NAMES}


@pytest.mark.parametrize("name", workflows.NAMES)
def test_every_input_fits_its_node(every: dict[str, Any], name: str) -> None:
    assert list(faults(workflows.prompt(name), every)) == []


@pytest.mark.parametrize("name", workflows.NAMES)
def test_the_graph_says_what_its_twin_says(every: dict[str, Any], name: str) -> None:
    twin = {own: {**node, "_meta": None} for own, node in workflows.prompt(name).items()}
    assert {own: {**node, "_meta": None} for own, node in as_prompt(workflows.graph(name), every).items()} == twin


@pytest.mark.parametrize("name", workflows.NAMES)
def test_a_workflow_explains_itself(name: str) -> None:
    graph = workflows.graph(name)
    [note] = [node for node in graph["nodes"] if node["type"] in VIRTUAL]
    [text] = note["widgets_values"]
    assert text.startswith("## ")
    assert "With Janus-Pro" in text
    assert "models/janus" in text


def test_no_two_workflows_are_taken_for_one() -> None:
    ids = {workflows.graph(name)["id"] for name in workflows.NAMES}
    assert len(ids) == len(workflows.NAMES)


@pytest.mark.parametrize("name", workflows.NAMES)
def test_a_workflow_shows_its_result(name: str) -> None:
    with Image.open(workflows.FOLDER / f"{name}.jpg") as thumbnail:
        assert thumbnail.format == "JPEG"
        assert 256 <= min(thumbnail.size) <= max(thumbnail.size) <= 1024


@pytest.mark.parametrize("name", workflows.NAMES)
def test_prompts_are_of_the_embedded_model_s_world(name: str) -> None:
    for node in workflows.prompt(name).values():
        if isinstance(text := node["inputs"].get("prompt"), str):
            parse(text)
        assert node["inputs"].get("guidance", 2) == 2


@pytest.mark.parametrize("name", workflows.NAMES)
def test_comfy_cli_finds_nothing_wrong(every: dict[str, Any], name: str, tmp_path: Path) -> None:
    described = tmp_path / "object_info.json"
    described.write_text(json.dumps(every), encoding="utf-8")
    prompt = str(workflows.FOLDER / "api" / f"{name}.json")
    done = workflows.comfy_cli("--json", "workflow", "validate", "--input", str(described), "--workflow", prompt)
    data = json.loads(done.stdout.splitlines()[-1])["data"]
    assert (data["errors"], data["warnings"]) == ([], [])


@pytest.mark.parametrize(
    ("kind", "own", "value", "said"),
    [
        ("SSDJanusCompression", "method", "sdd", "dropped in silence"),
        ("SSDJanusCompression", "method.bugdet", "0.2", "no input method.bugdet"),
        ("SSDJanusLoad", "precision", "maybe", "none of"),
        ("SSDJanusSampler", "seed", "x", "takes INT"),
        ("SSDJanusSampler", "seed", -1, "not in 0"),
        ("SSDJanusSampler", "policy", ["1", 0], "takes KV_POLICY, not JANUS_MODEL"),
        ("SSDJanusSampler", "policy", ["1", 1], "no output 1"),
        ("SSDJanusSampler", "nonsense", 1, "no input nonsense"),
        ("SaveImage", "images", "x", "takes a link"),
        ("SaveImage", "images", None, "needs images"),
    ],
)
def test_what_does_not_fit_is_noticed(every: dict[str, Any], kind: str, own: str, value: Any, said: str) -> None:
    prompt = workflows.prompt("Text to image")
    [inputs] = [node["inputs"] for node in prompt.values() if node["class_type"] == kind]
    inputs[own] = value
    if value is None:
        del inputs[own]
    assert said in "; ".join(faults(prompt, every))
