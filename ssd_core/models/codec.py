"""The picture codec of Janus: transformers' JanusVQVAE, alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def build_codec(vq: Mapping[str, Any]) -> Any:
    """A JanusVQVAE of these sizes without weights (on the meta device), in evaluation mode.

    vq: keyword arguments of transformers' JanusVQVAEConfig. Those of the neighbouring generation head
        (`projection_dim`, `image_token_embed_dim`, ...) make no difference.
    """
    # here, because importing transformers' models takes seconds that starting ComfyUI need not spend
    from transformers import JanusVQVAE, JanusVQVAEConfig

    with torch.device("meta"):
        return JanusVQVAE(JanusVQVAEConfig(**vq)).eval()
