"""What the pack's nodes pass to each other."""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "SSD Janus"

JanusModel = io.Custom("JANUS_MODEL")  # held.Held
KVPolicy = io.Custom("KV_POLICY")  # ssd_core.Policy
KVReport = io.Custom("KV_REPORT")  # dict of plain numbers, see ssd_core.report
JanusTokens = io.Custom("JANUS_TOKENS")  # int64 [n, grid tokens]
HeadMaps = io.Custom("HEAD_MAP")  # ssd_core.heads.HeadMap
