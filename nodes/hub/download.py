"""Models from the hub, fetched when a node asks for one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from ...ssd_core.errors import UserError
from ...ssd_core.models.checkpoint.files import Checkpoint
from ...ssd_core.words import human

# in transformers' layout, whose weights are safetensors: DeepSeek's own are pickles
REPOSITORIES = {
    "Janus-Pro-1B": "deepseek-community/Janus-Pro-1B",
    "Janus-Pro-7B": "deepseek-community/Janus-Pro-7B",
}
READ = ("config.json", "tokenizer.json", "model*.safetensors", "model.safetensors.index.json")
PROGRAM = Path(__file__).with_name("fetch.py")
PAUSE = 0.25  # seconds between two looks at how far it is

OnProgress = Callable[[int, int], object]
Check = Callable[[], object]


def complete(folder: Path) -> bool:
    """Whether a folder has all files of a model."""
    try:
        checkpoint = Checkpoint(folder)
        return bool(checkpoint.files and checkpoint.config_text and checkpoint.tokenizer_text)
    except UserError:
        return False


def download(name: str, folder: Path, on_progress: OnProgress, check: Check) -> None:
    """Fetch what is read of one of REPOSITORIES into a folder, and go on where an earlier call ended.

    on_progress: told (bytes there, bytes in all).
    check: called four times a second; what it raises ends the fetching and is passed on.

    Raises UserError where the hub cannot be reached or the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with program(REPOSITORIES[name], str(folder), *READ) as process:
        total = 0
        for told in messages(process, check):
            if "error" in told:
                raise refusal(name, folder, told)
            if "total" in told:
                total = told["total"]
                refuse_too_large(name, folder, total - size(folder))
            if total:
                on_progress(min(size(folder), total), total)
        if process.wait():
            raise refusal(name, folder, {"error": "the fetching program ended", "full": False})
        on_progress(total, total)
    if not complete(folder):
        raise UserError(f"{REPOSITORIES[name]} on the hub lacks files of a Janus; see what is in {folder}.")


@contextmanager
def program(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The fetching process, which ends with the block."""
    command = [sys.executable, str(PROGRAM), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            yield process
        finally:
            process.kill()


def messages(process: subprocess.Popen[str], check: Check) -> Iterator[dict[str, Any]]:
    """What the program says, one by one, and something empty whenever it has said nothing for a while."""
    lines: Queue[str | None] = Queue()

    def read() -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put(None)

    Thread(target=read, daemon=True).start()
    while True:
        check()
        try:
            line = lines.get(timeout=PAUSE)
        except Empty:
            yield {}
            continue
        if line is None:
            return
        yield json.loads(line)


def refuse_too_large(name: str, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{name} takes {human(needed)} more in {folder}, where {human(free)} are free; make room.")


def refusal(name: str, folder: Path, told: dict[str, Any]) -> UserError:
    """What a failed program says, as a sentence."""
    if told["full"]:
        return UserError(f"The disk of {folder} is full; make room and run again, what was fetched is kept.")
    return UserError(
        f"{name} could not be fetched from the hub ({told['error'].rstrip('.')}); see that this machine has a network "
        "and run again, what was fetched is kept."
    )


def size(folder: Path) -> int:
    """Bytes of what is in a folder, half-fetched files included."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a file that was fetched just now has another name
            total += path.stat().st_size if path.is_file() else 0
    return total
