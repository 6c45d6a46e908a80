"""Fetches a model from the hub: a program of its own, so that it can be ended at any moment.

    python fetch.py REPOSITORY FOLDER PATTERN...

It writes a line of JSON, {"total": bytes}, before it begins, and {"error": text, "full": bool} if it fails. It ends
when its standard input does, so with whoever started it. What was fetched stays, and the next call goes on from there.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from fnmatch import fnmatch
from typing import Any


def main(repository: str, folder: str, *patterns: str) -> int:
    threading.Thread(target=end_with_input, daemon=True).start()
    sys.stdout = sys.stderr  # what libraries print is no message
    try:
        from huggingface_hub import HfApi, snapshot_download

        found = HfApi().model_info(repository, files_metadata=True)
        wanted = [file for file in found.siblings or () if any(fnmatch(file.rfilename, one) for one in patterns)]
        say({"total": sum(file.size or 0 for file in wanted)})
        snapshot_download(repository, revision=found.sha, local_dir=folder, allow_patterns=list(patterns))
    except Exception as error:  # noqa: BLE001  whatever it is, it becomes a sentence in the other process
        text = (str(error) or type(error).__name__).strip().splitlines()[0]
        say({"error": text, "full": isinstance(error, OSError) and error.errno == errno.ENOSPC})
        return 1
    return 0


def end_with_input() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock this thread would still hold when Python ends
        pass
    os._exit(1)


def say(what: dict[str, Any]) -> None:
    print(json.dumps(what), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
