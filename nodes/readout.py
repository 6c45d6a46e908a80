from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from comfy_api.latest import io

from ..ssd_core.memory import Memory
from ..ssd_core.words import human, parts, slots
from .links import CATEGORY, KVReport
from .meter import shown

BAR = 24  # characters of the longest bar


class Readout(io.ComfyNode):
    """Says where the memory went."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSDJanusReadout",
            display_name="KV Memory Readout",
            category=CATEGORY,
            description="Where the memory of a drawing went: keys and values beside the full cache, weights, the rest.",
            search_aliases=["memory", "VRAM", "KV cache"],
            inputs=[KVReport.Input("report", tooltip="From the sampler.")],
            outputs=[io.String.Output(display_name="text"), io.String.Output(display_name="json")],
            hidden=[io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, report: dict[str, Any], **_: Any) -> io.NodeOutput:
        text = readout(report)
        return io.NodeOutput(text, json.dumps(report), ui=shown(cls.hidden, report, text))


def readout(report: dict[str, Any]) -> str:
    """A report as lines of text with bars."""
    memory = Memory(**{field.name: report["memory"][field.name] for field in fields(Memory)})
    sizes = {"keys and values in full": memory.kv_bytes_full}
    sizes |= {label: getattr(memory, part) for label, part in parts(memory).items()}
    longest = max(sizes.values())
    saved = memory.kv_bytes_full / memory.kv_bytes
    return "\n".join(
        [
            f"{report['model']}, {len(report['images'])} at once, on {report['versions']['device']}",
            f"{report['method']}: {settings_line(report['settings'])}",
            *sorted({image["prompt"] for image in report["images"]}),
            *(
                f"{label:<27}{'#' * round(BAR * size / longest):<{BAR}}{human(size):>11}"
                for label, size in sizes.items()
            ),
            f"{saved:.1f} times fewer keys and values than in full; {slots(memory)} slots a head",
            f"{report['tokens_per_second']:.0f} tokens/s, step {report['step']}",
        ]
    )


def settings_line(settings: dict[str, Any]) -> str:
    """What was set, in a line; a head map is too long for it."""
    plain = {name: value for name, value in settings.items() if value is not None and not isinstance(value, dict)}
    return ", ".join(f"{name} {value}" for name, value in plain.items())
