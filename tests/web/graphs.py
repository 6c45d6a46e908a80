"""Graphs as the page saves them."""

from __future__ import annotations

from typing import Any

GRAPH = "3f0c8a52-6a0e-4f58-9a3e-0d6b7a1f4c11"
SUBGRAPH = "8d1be0a4-55a4-4c0b-8a57-5f2d1f0c9e22"
LOAD, COMPRESSION, SAMPLER, READOUT, OTHER, INNER = "1", "2", "3", "4", "5", "6:7"  # as the server knows its nodes


def node(number: int, kind: str, x: int, y: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": kind,
        "pos": [x, y],
        "size": [320, 100],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {},
    }


def graph() -> dict[str, Any]:
    """Two samplers, one more in a subgraph, and every other node that shows figures."""
    inner = {
        "id": SUBGRAPH,
        "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": 7, "lastLinkId": 0, "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": "Drawing",
        "inputNode": {"id": -10, "bounding": [0, 0, 120, 60]},
        "outputNode": {"id": -20, "bounding": [900, 0, 120, 60]},
        "inputs": [],
        "outputs": [],
        "widgets": [],
        "nodes": [node(7, "SSDJanusSampler", 300, 60)],
        "groups": [],
        "links": [],
        "extra": {},
    }
    nodes = [
        node(1, "SSDJanusLoad", 40, 60),
        node(2, "SSDJanusCompression", 40, 240),
        node(3, "SSDJanusSampler", 440, 60),
        node(4, "SSDJanusReadout", 860, 60),
        node(5, "SSDJanusSampler", 1280, 60),
        node(6, SUBGRAPH, 860, 500),
    ]
    return {
        "id": GRAPH,
        "revision": 0,
        "last_node_id": 7,
        "last_link_id": 0,
        "nodes": nodes,
        "links": [],
        "groups": [],
        "definitions": {"subgraphs": [inner]},
        "config": {},
        "extra": {"ds": {"scale": 0.75, "offset": [60, 60]}},
        "version": 0.4,
    }
