"""The pack in a real ComfyUI, over its API. Each test talks to the same server, which must outlive them all."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ssd_core.evaluate.shapes import judge
from ssd_core.heads.headmap import SHIPPED
from ssd_core.models.checkpoint.files import find
from tests import workflows
from tests.comfyui.checkpoints import HEAVY_BYTES
from tests.comfyui.server import NAME, Run, Server
from tests.nodes.object_info import flat

MEGABYTE = 2**20
PATIENCE = 60  # seconds

PLANNED = {"prompt": "a red circle", "negative": "", "guidance": 2.0}


def of_class(prompt: dict[str, Any], kind: str) -> list[str]:
    """The ids of all nodes of a class."""
    return [name for name, node in prompt.items() if node["class_type"] == kind]


def drawing(**inputs: Any) -> dict[str, Any]:
    """The prompt of "Text to image" with the sampler's inputs changed."""
    prompt = workflows.prompt("Text to image")
    [sampler] = of_class(prompt, "SSDJanusSampler")
    prompt[sampler]["inputs"] |= inputs
    return prompt


def succeeded(run: Run) -> Run:
    assert run.end[0] == "execution_success", run.end
    return run


def test_the_pack_loads_within_a_second(server: Server) -> None:
    log = server.log()
    [seconds] = re.findall(rf"([\d.]+) seconds(?: \(IMPORT FAILED\))?: \S*{NAME}", log)
    assert float(seconds) * server.share < 1
    assert not [line for line in log.splitlines() if "IMPORT FAILED" in line and NAME in line]


def test_the_stand_in_tells_of_the_nodes_what_the_server_tells(server: Server, info: dict[str, Any]) -> None:
    told = server.get("/object_info")
    assert {name for name in told if name.startswith("SSDJanus")} == {*info}
    for name, node in info.items():
        for part in node.keys() - {"input", "input_order"}:  # the server's have what it fills in itself as well
            assert told[name][part] == node[part], (name, part)
        for own, (kind, options) in flat(node["input"]).items():
            given = told[name]["input"]  # what is hidden, such as a whole prompt, may bear an input's name
            there = flat({need: inputs for need, inputs in given.items() if need != "hidden"})[own]
            assert there[0] == kind
            if kind not in ("COMBO", "COMFY_DYNAMICCOMBO_V3"):
                assert {part: there[1].get(part) for part in options} == options


def test_the_page_finds_workflows_words_and_help(server: Server) -> None:
    assert sorted(server.get("/workflow_templates")[NAME]) == workflows.NAMES
    for name in workflows.NAMES:
        address = f"/api/workflow_templates/{NAME}/{name}".replace(" ", "%20")
        assert server.get(f"{address}.json") == workflows.graph(name)
        assert server.get(f"{address}.jpg")[:2] == b"\xff\xd8"
    for language in ("en", "zh"):
        words = server.get("/i18n")[language]
        assert words["nodeDefs"]["SSDJanusSampler"]["display_name"]
        assert words["settings"]["SSDJanus_Meter_Rate"]["name"]
    assert b"## Inputs" in server.get(f"/extensions/{NAME}/docs/SSDJanusSampler.md")
    assert "## 输入".encode() in server.get(f"/extensions/{NAME}/docs/SSDJanusSampler/zh.md")


@pytest.mark.parametrize("name", workflows.NAMES)
def test_every_shared_workflow_runs(server: Server, name: str) -> None:
    server.forget()  # or a node with the inputs of another workflow's would not run
    prompt = workflows.prompt(name)
    run = succeeded(server.run(prompt, workflows.graph(name)))
    shown = server.pictures(run)
    assert len(shown) >= len(of_class(prompt, "SaveImage"))
    assert all(np.asarray(picture).std() > 1 for picture in shown)  # something is on each
    for node in of_class(prompt, "SSDJanusSampler"):
        [report] = run.outputs[node]["ssd_janus"]
        assert report["workflow"] == workflows.graph(name)["id"]
        assert 0 < report["memory"]["kv_bytes"] <= report["memory"]["kv_bytes_full"]


@pytest.mark.parametrize("name", workflows.NAMES)
def test_every_shared_workflow_runs_from_the_command_line(server: Server, name: str) -> None:
    graph = str(workflows.FOLDER / f"{name}.json")
    done = workflows.comfy_cli("run", "--wait", "--host", "127.0.0.1", "--port", str(server.port), "--workflow", graph)
    assert done.returncode == 0, done.stdout + done.stderr


def test_text_to_image_shows_what_its_prompt_says(server: Server) -> None:
    server.forget()
    prompt = drawing()
    run = succeeded(server.run(prompt))
    assert run.worked < 15
    [sampler], [readout] = of_class(prompt, "SSDJanusSampler"), of_class(prompt, "SSDJanusReadout")
    [picture] = server.pictures(run)
    verdict = judge(np.asarray(picture), prompt[sampler]["inputs"]["prompt"])
    assert verdict.right, verdict
    [report] = run.outputs[sampler]["ssd_janus"]
    [text] = run.outputs[readout]["text"]
    assert f"{report['memory']['kv_bytes_full'] / report['memory']['kv_bytes']:.1f} times fewer" in text


def test_a_quantized_file_draws_as_well_and_takes_half_the_memory(server: Server) -> None:
    bytes_of: dict[str, int] = {}
    for model in ("janus-shapes", "fp8"):
        prompt = drawing()
        [load], [sampler] = of_class(prompt, "SSDJanusLoad"), of_class(prompt, "SSDJanusSampler")
        prompt[load]["inputs"]["model"] = model
        server.forget()
        run = succeeded(server.run(prompt))
        [report], [picture] = run.outputs[sampler]["ssd_janus"], server.pictures(run)
        bytes_of[model] = report["memory"]["weights_bytes"]
        assert judge(np.asarray(picture), prompt[sampler]["inputs"]["prompt"]).right
    assert bytes_of["fp8"] < 0.5 * bytes_of["janus-shapes"]


def test_the_browser_sees_the_picture_grow_and_the_memory(server: Server) -> None:
    server.forget()
    prompt = drawing()
    [sampler] = of_class(prompt, "SSDJanusSampler")
    run = succeeded(server.run(prompt, {"id": "a graph"}))
    assert server.get(f"/api/jobs/{run.prompt_id}")["workflow_id"] == "a graph"  # see web/runs.js
    first, last = (np.asarray(run.previews[place], np.float32) for place in (0, -1))
    below = first[len(first) // 2 :]
    assert below.std() < 2  # nothing is drawn there yet
    assert abs(first - last).max() > 50
    bars = [data["nodes"][sampler]["value"] for data in run.told("progress_state") if sampler in data["nodes"]]
    assert bars == sorted(bars)
    assert bars[-1] == 24
    figures = run.told("ssd-janus.meter")
    assert {own["node"] for own in figures} == {sampler}
    assert len(figures) <= 10 * run.seconds + 2
    [report] = run.outputs[sampler]["ssd_janus"]
    assert all(own["memory"]["kv_bytes"] == report["memory"]["kv_bytes"] for own in figures)


def test_a_seed_draws_the_same_picture_again(server: Server) -> None:
    drawn = []
    for seed in (3, 3, 4):
        server.forget()
        run = succeeded(server.run(drawing(seed=seed)))
        assert not [name for data in run.told("execution_cached") for name in data["nodes"]]
        drawn.append(np.asarray(server.pictures(run)[0]))
    assert (drawn[0] == drawn[1]).all()
    assert not (drawn[0] == drawn[2]).all()


def test_an_interruption_gives_the_memory_back(server: Server) -> None:
    if not server.says_what_it_holds():
        pytest.skip("only Linux says what a process holds")
    succeeded(server.run(drawing()))
    before = server.held()
    prompt = drawing(images=48)
    [sampler] = of_class(prompt, "SSDJanusSampler")
    del prompt[sampler]["inputs"]["policy"]  # the full cache of 48 pictures, half a gigabyte
    run = server.finish(server.queue(prompt), until="ssd-janus.meter")
    assert server.held() > before + 300 * MEGABYTE
    server.post("/interrupt", {})
    run = server.finish(run)
    assert run.end[0] == "execution_interrupted"
    assert run.worked < 2
    wait_until(lambda: server.held() < before + 100 * MEGABYTE, "memory came back")
    succeeded(server.run(drawing(seed=5)))


def test_unloading_models_frees_them(server: Server) -> None:
    if not server.says_what_it_holds():
        pytest.skip("only Linux says what a process holds")
    server.forget()
    prompt = drawing()
    [load] = of_class(prompt, "SSDJanusLoad")
    prompt[load]["inputs"]["model"] = "heavy"
    before = server.held()
    succeeded(server.run(prompt))
    assert server.held() > before + HEAVY_BYTES * 0.9
    server.forget()
    wait_until(lambda: server.held() < before + HEAVY_BYTES * 0.2, "the model was freed")


@pytest.mark.parametrize(
    ("kind", "inputs", "said"),
    [
        ("SSDJanusLoad", {"model": "broken"}, "model.safetensors"),
        ("SSDJanusCompression", {"method.budget": "much"}, "budget takes"),
        ("SSDJanusCompression", {"method": "sdd"}, "none of full, window, streaming, "),
        ("SSDJanusSampler", {"guidance": 1.0, "negative": "a ring"}, "negative prompt works through guidance"),
    ],
)
def test_a_mistake_is_told_and_the_server_lives_on(
    server: Server, kind: str, inputs: dict[str, Any], said: str
) -> None:
    prompt = drawing()
    [node] = of_class(prompt, kind)
    prompt[node]["inputs"] |= inputs
    run = server.run(prompt)
    assert run.end[0] == "execution_error"
    assert run.end[1]["node_id"] == node
    assert run.end[1]["exception_type"].endswith("UserError")
    assert said in run.end[1]["exception_message"]
    succeeded(server.run(drawing(seed=6)))


def test_files_replaced_under_their_names_are_read_anew(server: Server) -> None:
    folder = server.folder / "models" / "janus"
    shutil.copytree(find("janus-shapes"), folder / "own")
    (folder / "heads").mkdir(exist_ok=True)
    shutil.copy(SHIPPED / "janus-shapes.safetensors", folder / "heads" / "own.safetensors")
    prompt = {
        "1": {"class_type": "SSDJanusLoad", "inputs": {"model": "own", "precision": "auto"}},
        "2": {"class_type": "SSDJanusPlan", "inputs": {"model": ["1", 0], "images": 1, "vram": 1.0} | PLANNED},
        "3": {"class_type": "SSDJanusHeads", "inputs": {"source": "load", "source.map": "own.safetensors", "tau": 0.3}},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 1]}},
    }

    def kept() -> set[str]:
        """The nodes that did not run again."""
        return {name for data in succeeded(server.run(prompt)).told("execution_cached") for name in data["nodes"]}

    assert kept() == set()
    assert kept() == {*prompt}
    os.utime(folder / "own" / "config.json", ns=(0, 1))
    assert kept() == {"3", "4"}
    os.utime(folder / "heads" / "own.safetensors", ns=(0, 1))
    assert kept() == {"1", "2"}


def test_nothing_outside_the_folders_is_loaded(server: Server) -> None:
    prompt = drawing()
    [load] = of_class(prompt, "SSDJanusLoad")
    prompt[load]["inputs"]["model"] = "../janus/heavy"
    with pytest.raises(RuntimeError, match="value_not_in_list"):
        server.run(prompt)


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Look again for a while: what the server does comes a moment after it has said so."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"not within {PATIENCE} s: {what}"
        time.sleep(0.2)
