"""Inputs that the sampler and the plan share, so that a plan asks for what is drawn."""

from __future__ import annotations

from comfy_api.latest import io

from ..ssd_core.cache.storage import KV_DTYPES


def prompt(tooltip: str) -> io.String.Input:
    return io.String.Input("prompt", multiline=True, default="a red circle and a blue ring", tooltip=tooltip)


def negative(tooltip: str) -> io.String.Input:
    return io.String.Input("negative", multiline=True, default="", tooltip=tooltip)


def guidance(tooltip: str) -> io.Float.Input:
    return io.Float.Input("guidance", default=5.0, min=0.0, max=100.0, step=0.1, tooltip=tooltip)


def images(default: int) -> io.Int.Input:
    return io.Int.Input("images", default=default, min=1, max=1024, tooltip="Pictures drawn at once.")


def kv_dtype(tooltip: str) -> io.Combo.Input:
    return io.Combo.Input("kv_dtype", options=list(KV_DTYPES), default="auto", optional=True, tooltip=tooltip)
