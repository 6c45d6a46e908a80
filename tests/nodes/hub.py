"""A stand-in for huggingface_hub, for the fetching program (nodes/hub) to import.

Environment variables say how it behaves. HUB: the folder that is "on the hub". HUB_DOES: "works", "slow", "offline",
"full" or "dies". HUB_LOG: a file that calls are noted in.
"""

from __future__ import annotations

import errno
import json
import os
import time
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

HUB, DOES, LOG = Path(os.environ["HUB"]), os.environ["HUB_DOES"], Path(os.environ["HUB_LOG"])
CHUNK = 2**16


def note(**what: object) -> None:
    with LOG.open("a") as log:
        log.write(json.dumps(what) + "\n")


class HfApi:
    def model_info(self, repo_id: str, files_metadata: bool = False) -> SimpleNamespace:
        note(pid=os.getpid(), repository=repo_id)
        if DOES == "offline":
            raise ConnectionError("Name or service not known\nand much more")
        if DOES == "dies":
            os._exit(3)
        files = [SimpleNamespace(rfilename=file.name, size=file.stat().st_size) for file in sorted(HUB.iterdir())]
        return SimpleNamespace(siblings=files, sha="abc")


def snapshot_download(repo_id: str, *, revision: str, local_dir: str, allow_patterns: list[str]) -> str:
    assert revision == "abc"
    print("Fetching files")  # noqa: T201  as libraries do
    for file in sorted(HUB.iterdir()):
        if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
            fetch(file, Path(local_dir))
    return local_dir


def fetch(file: Path, folder: Path) -> None:
    """Like the real one: into a hidden half, which is gone on with, and then to its place."""
    half = folder / ".cache" / f"{file.name}.incomplete"
    half.parent.mkdir(exist_ok=True)
    begun = half.stat().st_size if half.exists() else 0
    note(file=file.name, begun=begun)
    content = file.read_bytes()
    with half.open("ab") as opened:
        for at in range(begun, len(content), CHUNK):
            opened.write(content[at : at + CHUNK])
            opened.flush()
            if DOES == "slow":
                time.sleep(0.1)
            if DOES == "full":
                raise OSError(errno.ENOSPC, "No space left on device")
    half.rename(folder / file.name)
