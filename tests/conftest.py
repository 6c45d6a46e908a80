from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from hypothesis import settings

from tests.nodes import stand_in
from tests.nodes.object_info import object_info

# the same examples at every run where a failure must mean a change, new ones at every run elsewhere
settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("local", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="module")
def info(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What ComfyUI's server says of every node of the pack."""
    pack, _ = stand_in.load_pack(tmp_path_factory.mktemp("models"))
    nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
    return object_info([node.define_schema() for node in nodes])
