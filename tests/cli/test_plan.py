from __future__ import annotations

import pytest
import torch

from ssd_core import ADSA, Full, Window, largest_batch, plan
from ssd_core.errors import UserError
from ssd_core.memory import module_bytes
from ssd_core.models.known import known
from ssd_core.words import human
from tests.cli.terminal import Terminal, rows
from tests.models.small import save_official, save_transformers


@pytest.fixture
def planned(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal where what is planned for is the tiny model."""
    monkeypatch.setattr("ssd_core.cli.plan.empty", lambda *_: terminal.model)
    return terminal


@pytest.mark.parametrize(
    ("args", "settings"),
    [
        ((), {}),
        (("--images", 3), {"images": 3}),
        (("--prompt-tokens", 5), {"prompt": 5}),
        (("--guidance", 1), {"guidance": 1.0}),
    ],
)
def test_the_table_is_the_plan(planned: Terminal, args: tuple[object, ...], settings: dict[str, float]) -> None:
    shown = rows(planned.output("plan", "--method", "window", "--budget", 30, *args))
    expected = [plan(planned.model, policy, step="graph", **settings) for policy in (Window(30), Full())]  # type: ignore[arg-type]
    for label, part in {
        "weights": "weights_bytes",
        "keys and values": "kv_bytes",
        "their bookkeeping": "bookkeeping_bytes",
        "while prompts are read": "prefill_bytes",
        "while a token is drawn": "step_bytes",
        "its CUDA graph": "graph_bytes",
        "while pictures are decoded": "picture_bytes",
        "at most at once": "peak_bytes",
    }.items():
        assert shown[label] == [human(getattr(memory, part)) for memory in expected]
    assert shown["slots a head"] == [str(memory.slots[0][0]) for memory in expected]


def test_what_the_host_keeps_stands_by_itself(planned: Terminal) -> None:
    args = ("--method", "adsa", "--budget", 30, "--refresh", 2, "--recent", 2)
    shown = rows(planned.output("plan", *args, "--offload"))
    memory = plan(planned.model, ADSA(30, refresh=2, recent=2, offload=True))
    assert shown["beside it, on the host"] == [human(memory.host_bytes), human(0)]
    assert "beside it, on the host" not in rows(planned.output("plan", *args))


def test_the_step_decides_whether_a_graph_is_planned(planned: Terminal) -> None:
    shown = {step: rows(planned.output("plan", "--method", "full", "--step", step)) for step in ("auto", "plain")}
    assert "its CUDA graph" in shown["auto"]
    assert "its CUDA graph" not in shown["plain"]
    assert shown["plain"]["at most at once"] == [human(plan(planned.model, Full(), step="plain").peak_bytes)]
    assert "not 'fast'" in planned.refusal("plan", "--step", "fast")


def test_the_full_cache_stands_once(planned: Terminal) -> None:
    assert len(rows(planned.output("plan", "--method", "full"))["weights"]) == 1


def test_a_small_precision_is_the_method_s_and_not_the_full_cache_s(planned: Terminal) -> None:
    for method, policy in (("window", Window(30)), ("full", Full())):
        small = plan(planned.model, policy, kv_dtype="int8")
        budget = ("--budget", 30) if method == "window" else ()
        shown = rows(planned.output("plan", "--method", method, *budget, "--kv-dtype", "int8", "--vram", "1MB"))
        assert shown["keys and values"] == [human(small.kv_bytes), human(small.kv_bytes_full)]
        fit = [
            largest_batch(planned.model, own, 10**6, kv_dtype=k, step="graph")
            for own, k in ((policy, "int8"), (Full(), "auto"))
        ]
        assert shown["pictures that fit into 1MB"] == list(map(str, fit))
        assert fit[0] > fit[1]


def test_vram_asks_for_the_largest_batch(planned: Terminal) -> None:
    peak = plan(planned.model, Full(), images=20, step="graph").peak_bytes
    vram = f"{peak / 1000}KB"
    shown = rows(planned.output("plan", "--method", "window", "--budget", 30, "--vram", vram))
    expected = [str(largest_batch(planned.model, policy, peak, step="graph")) for policy in (Window(30), Full())]
    assert shown[f"pictures that fit into {vram}"] == expected
    assert int(expected[0]) > int(expected[1]) > 0


def test_no_weight_is_read(terminal: Terminal) -> None:
    sizes = rows(terminal.output("plan", "--model", save_official(terminal.folder / "small"), "--method", "full"))
    same = rows(terminal.output("plan", "--model", save_transformers(terminal.folder / "other"), "--method", "full"))
    assert sizes["keys and values"] == same["keys and values"]
    assert not terminal.loaded


def test_dtype_changes_the_plan(terminal: Terminal) -> None:
    small = save_transformers(terminal.folder / "small")
    shown = [
        rows(terminal.output("plan", "--model", small, "--method", "full", "--dtype", d)) for d in ("bf16", "fp32")
    ]
    assert shown[0]["keys and values"] != shown[1]["keys and values"]
    assert shown[0]["weights"] != shown[1]["weights"]
    assert rows(terminal.output("plan", "--model", small, "--method", "full", "--dtype", "auto")) == shown[0]


@pytest.mark.parametrize("name", ["small", "Janus-Pro-1B"])
def test_weights_change_the_plan(terminal: Terminal, name: str) -> None:
    save_transformers(terminal.folder / "small")
    whole, small = (
        rows(terminal.output("plan", "--model", name, "--method", "full", "--weights", weights))
        for weights in ("auto", "int8")
    )
    assert float(small["weights"][0].split()[0]) < float(whole["weights"][0].split()[0])
    assert small["keys and values"] == whole["keys and values"]


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("--vram", "much"), "--vram"),
        (("--vram", "8"), "--vram"),
        (("--images", 0), "1 image"),
        (("--method", "full", "--budget", 0.2), "--budget"),
        (("--dtype", "int8"), "int8"),
        (("--weights", "int2"), "auto, int8, int4, nf4"),
        (("--kv-dtype", "bf16"), "kv_dtype is auto, int8, fp8"),
        (("--model", "absent"), "absent"),
    ],
)
def test_mistakes_are_refused(terminal: Terminal, args: tuple[object, ...], word: str) -> None:
    assert word in terminal.refusal("plan", "--model", "Janus-Pro-1B", *args)


@pytest.mark.parametrize(
    ("name", "token", "gibibytes"), [("Janus-Pro-1B", 196_608, 2.90), ("Janus-Pro-7B", 491_520, 12.41)]
)
def test_known_models_have_their_published_sizes(name: str, token: int, gibibytes: float) -> None:
    model = known(name, torch.bfloat16, torch.bfloat16)
    geometry = model.geometry
    assert geometry.layers * geometry.kv_heads * geometry.head_dim * 2 * 2 == token
    assert module_bytes(model) / 2**30 == pytest.approx(gibibytes, abs=0.01)
    assert model.device.type == "meta"
    with pytest.raises(UserError, match="checkpoint"):
        model.encode("a red circle")


@pytest.mark.parametrize(("name", "text"), [("Janus-Pro-1B", "400 MiB"), ("Janus-Pro-7B", "800 MiB")])
def test_the_prompt_s_embeddings_take_nothing_of_the_device(terminal: Terminal, name: str, text: str) -> None:
    shown = rows(terminal.output("plan", "--model", name, "--method", "full"))
    assert shown["beside it, on the host"] == [text]
    device = module_bytes(known(name, torch.bfloat16, torch.bfloat16)) - 2 * 102400 * (2048 if "1B" in name else 4096)
    assert float(shown["weights"][0].split()[0]) == pytest.approx(device / 2**30, abs=0.01)


def test_known_models_can_be_planned(terminal: Terminal) -> None:
    shown = rows(terminal.output("plan", "--model", "Janus-Pro-1B", "--images", 4))
    compressed, full = shown["keys and values"]
    assert full == human(4 * 2 * 599 * 196_608)
    assert 0.19 < float(compressed.split()[0]) / float(full.split()[0]) <= 0.201
