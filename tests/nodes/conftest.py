from __future__ import annotations

from typing import Any

import pytest

from tests.nodes import object_info


@pytest.fixture(scope="module")
def info(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What ComfyUI's server says of every node of the pack."""
    return object_info.object_info(tmp_path_factory.mktemp("models"))
