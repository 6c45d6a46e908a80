"""As much of ComfyUI's Python surface as the pack touches, and the pack loaded on top of it.

The real ComfyUI needs a server, torchvision and minutes; these few classes keep what the nodes say of themselves.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import torch

from tests.nodes import quant_ops

ROOT = Path(__file__).parents[2]
PACK = "ssd_janus_pack"


class Interrupted(BaseException):
    """What ComfyUI raises when the user stops a run."""


class Input:
    kind: str

    def __init__(self, name: str, **options: Any) -> None:
        self.id, self.options = name, options


class DynamicComboOption:
    def __init__(self, key: str, inputs: list[Input]) -> None:
        self.key, self.inputs = key, inputs


class Output:
    kind: str

    def __init__(self, **options: Any) -> None:
        self.options = options


def kind(name: str) -> type:
    """A type of links or widgets."""
    own = {
        "Input": type(f"{name}Input", (Input,), {"kind": name}),
        "Output": type(f"{name}Output", (Output,), {"kind": name}),
    }
    return type(name, (), own)


class Schema:
    def __init__(self, node_id: str, **parts: Any) -> None:
        self.node_id, self.parts = node_id, parts
        self.inputs: list[Input] = parts["inputs"]


class NodeOutput:
    def __init__(self, *args: Any, ui: Any = None) -> None:
        self.args, self.ui = args, ui


class ComfyNode:
    """Its node stands in a graph that was made while it ran, in place of the node "4:1"."""

    hidden = SimpleNamespace(
        unique_id="7",
        dynprompt=SimpleNamespace(get_display_node_id={"7": "4:1"}.__getitem__),
        extra_pnginfo={"workflow": {"id": "a graph", "nodes": []}},
    )


class ComfyExtension:
    pass


class PreviewText:
    def __init__(self, value: str) -> None:
        self.value = value


class ProgressBar:
    """Keeps what it was told."""

    told: list[tuple[int, int, Any]]

    def __init__(self, total: int, node_id: str | None = None) -> None:
        self.total, self.node_id = total, node_id
        type(self).told = []

    def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
        self.told.append((value, total or self.total, preview))


class PromptServer:
    """Keeps what it was to send: event, data and the client."""

    instance: ClassVar[PromptServer]
    client_id: str | None = "a browser"

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any, str | None]] = []

    def send_sync(self, event: str, data: Any, sid: str | None = None) -> None:
        self.sent.append((event, data, sid))


PromptServer.instance = PromptServer()


class ModelPatcher:
    def __init__(self, model: Any, load_device: torch.device, offload_device: torch.device) -> None:
        self.model, self.load_device, self.offload_device = model, load_device, offload_device


class Management(ModuleType):
    """comfy.model_management; `needed` is what was last asked for, `interrupt_after` counts down its checks."""

    needed = 0
    interrupt_after: int | None = None

    def get_torch_device(self) -> torch.device:
        return torch.device("cpu")

    unet_offload_device = get_torch_device

    def get_free_memory(self, device: torch.device) -> int:
        return 2**33

    def load_models_gpu(self, models: list[ModelPatcher], memory_required: int = 0) -> None:
        self.needed = memory_required
        for patcher in models:
            patcher.model.device = patcher.load_device  # as the real one does

    def throw_exception_if_processing_interrupted(self) -> None:
        if self.interrupt_after is not None:
            self.interrupt_after -= 1
            if self.interrupt_after < 0:
                raise Interrupted


def module(name: str, **parts: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(parts)
    return made


def load_pack(models: Path, version: str = "0.33.0") -> tuple[ModuleType, Management]:
    """The pack, imported by its path as ComfyUI does, beside a models folder; and the memory manager it talks to."""
    management = Management("comfy.model_management")
    paths: dict[str, list[str]] = {}
    combo = kind("Combo")
    io = SimpleNamespace(
        ComfyNode=ComfyNode,
        Schema=Schema,
        NodeOutput=NodeOutput,
        Custom=kind,
        Hidden=SimpleNamespace(unique_id="UNIQUE_ID", dynprompt="DYNPROMPT", extra_pnginfo="EXTRA_PNGINFO"),
        Combo=combo,
        DynamicCombo=type("DynamicCombo", (kind("DynamicCombo"),), {"Option": DynamicComboOption}),
        **{name: kind(name) for name in ("String", "Int", "Float", "Boolean", "Image", "Mask")},
    )
    stand_ins = {
        "comfy": module("comfy"),
        "comfy.model_management": management,
        "comfy.ops": quant_ops.module(),
        "comfy.model_patcher": module("comfy.model_patcher", ModelPatcher=ModelPatcher),
        "comfy.utils": module("comfy.utils", ProgressBar=ProgressBar),
        "comfy_api": module("comfy_api"),
        "comfy_api.latest": module(
            "comfy_api.latest", ComfyExtension=ComfyExtension, io=io, ui=SimpleNamespace(PreviewText=PreviewText)
        ),
        "comfyui_version": module("comfyui_version", __version__=version),
        "server": module("server", PromptServer=PromptServer),
        "folder_paths": module(
            "folder_paths",
            models_dir=str(models),
            add_model_folder_path=lambda name, path: paths.setdefault(name, []).append(path),
            get_folder_paths=lambda name: paths[name],
        ),
    }
    vars(stand_ins["comfy"]).update(model_management=management, ops=stand_ins["comfy.ops"])
    sys.modules.update(stand_ins)
    for name in [name for name in sys.modules if name.split(".")[0] == PACK]:
        del sys.modules[name]
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None
    assert spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = pack
    spec.loader.exec_module(pack)
    return pack, management
