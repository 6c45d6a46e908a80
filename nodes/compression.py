from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..ssd_core.heads import HeadMap
from ..ssd_core.memory import plan
from ..ssd_core.policies import METHODS
from ..ssd_core.words import human, slots
from .fields import chosen, options, policy_of
from .held import Held
from .links import CATEGORY, HeadMaps, JanusModel, KVPolicy
from .meter import shown


class Compression(io.ComfyNode):
    """Chooses how the cache is kept small."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSDJanusCompression",
            display_name="KV Compression",
            category=CATEGORY,
            description="How the keys and values of each attention head are kept small while a picture is drawn.",
            search_aliases=["SSD", "cache", "budget", "StreamingLLM", "window", "H2O", "SnapKV", "LineAR", "ADSA"],
            inputs=[
                io.DynamicCombo.Input(
                    "method",
                    options=options(),
                    tooltip="ssd keeps a window in spatial heads and what is attended most in semantic ones; reach as"
                    " many tokens as each head looks back and, in heads that look far, what was attended most"
                    " of late; window the newest tokens; streaming the first and the newest; h2o the newest "
                    "and what was attended most so far; snapkv a window and what its queries attend most; "
                    "line-ar the first image tokens, recent rows and what the last row attends most; adsa "
                    "recent rows and what differs most; headkv a window and, in heads that each picture finds"
                    " to look far, the history; diagonal half of the picture, of which it attends a budget; "
                    "full everything.",
                ),
                HeadMaps.Input(
                    "head_map",
                    optional=True,
                    tooltip="Which heads are semantic, for methods that ask; without one, what is known of the model.",
                ),
                JanusModel.Input(
                    "model", optional=True, tooltip="With a model, the node shows the slots a head and the bytes."
                ),
            ],
            outputs=[KVPolicy.Output(display_name="policy")],
            hidden=[io.Hidden.extra_pnginfo],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls,
        method: dict[str, Any] | None = None,
        head_map: HeadMap | None = None,
        model: Held | None = None,
        **_: Any,
    ) -> io.NodeOutput:
        given = chosen(method, "method", METHODS)
        if head_map is not None:
            given = given | {"head_map": head_map}
        policy = policy_of(given)
        if model is None:  # or what another policy took would stay in the node
            return io.NodeOutput(policy, ui=shown(cls.hidden, {"memory": None}))
        memory = plan(model.model, policy)
        most = "at most " if memory.replan_bytes else ""
        text = (
            f"{most}{slots(memory)} slots a head\n"
            f"{most}{human(memory.kv_bytes)} for a picture, of {human(memory.kv_bytes_full)} in full"
        )
        return io.NodeOutput(policy, ui=shown(cls.hidden, {"memory": memory.as_dict()}, text))
