"""The nodes of the pack, one a file. Each is thin: widgets in, one call of the engine, outputs out."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import oldest  # noqa: F401  before what an old ComfyUI lacks is imported
from .compression import Compression
from .decode import Decode
from .encode import Encode
from .heads import Heads
from .load import Load
from .plan import Plan
from .readout import Readout
from .sampler import Sampler


class Pack(ComfyExtension):
    """All nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [Load, Compression, Heads, Sampler, Readout, Plan, Encode, Decode]
