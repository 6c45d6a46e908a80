"""Runs a checkout's main.py: `python launch.py CHECKOUT/main.py ARGUMENT...`, beside whatever torchvision there is.

A torchvision built for CUDA brings no operators to a torch built for the processor, and then does not even import. It
asks for two by name when it does; ComfyUI needs the package and, for this pack, neither of the two.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import torch

SCHEMA = "{}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def declare_missing_operators() -> torch.library.Library | None:
    """Declare what torchvision looks for, if it cannot bring it; the declaration lives as long as what is returned."""
    try:
        import torchvision  # type: ignore[import-not-found, import-untyped, unused-ignore]  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(SCHEMA.format(name))
        return library
    return None


if __name__ == "__main__":
    kept = declare_missing_operators()
    main, *arguments = sys.argv[1:]
    sys.path[0] = str(Path(main).parent)
    sys.argv = [main, *arguments]
    runpy.run_path(main, run_name="__main__")
