"""A real ComfyUI of one's own: started on a folder that may be thrown away, spoken to over its API, ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

import websocket
from PIL import Image

PACK = Path(__file__).parents[2]
LAUNCH = Path(__file__).with_name("launch.py")
NAME = "ssd-janus"  # of the pack among the custom nodes
START = 600  # seconds a server may take to answer, on a machine that does other things as well
QUIET = 300  # seconds without any message after which a run has failed
FREEING = 2  # seconds until it has surely done so: it answers before it does, and never says when
PREVIEW_IMAGE = 1  # what a binary message begins with, and then four bytes of format
Prompt = dict[str, dict[str, Any]]


def checkout(variable: str = "COMFYUI_PATH") -> Path | None:
    """The ComfyUI to test with, which a variable of the environment names."""
    path = os.environ.get(variable)
    return Path(path) if path else None


@dataclass
class Run:
    """What came of a prompt.

    events: all messages to the browser, in order. previews: the pictures among them. outputs: what each node showed,
    by its id. end: the last event, "execution_success", "execution_error" or "execution_interrupted", and its data.
    seconds: that went by. worked: the same, or what the server had of the processor where that was less, on a machine
    that does other things as well.
    """

    prompt_id: str
    seconds: float = 0.0
    worked: float = 0.0
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    previews: list[Image.Image] = field(default_factory=list)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    end: tuple[str, dict[str, Any]] = ("", {})

    def told(self, kind: str) -> list[dict[str, Any]]:
        """The data of all events of a kind."""
        return [data for own, data in self.events if own == kind]


class Server:
    """ComfyUI with this pack alone, as a context: `with Server(checkout, folder) as server`."""

    def __init__(self, comfyui: Path, folder: Path) -> None:
        """folder: where its models, inputs and outputs lie; what is missing of it is made."""
        self.comfyui, self.folder = comfyui, folder
        self.python = os.environ.get("COMFYUI_PYTHON", sys.executable)
        self.log_file = folder / "server.log"
        self.share = 1.0  # of the processor, that its start was given
        self.client = uuid.uuid4().hex
        for name in ("models", "input", "output", "user", "temp", "custom_nodes"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        link = folder / "custom_nodes" / NAME
        if not link.exists():
            link.symlink_to(PACK, target_is_directory=True)

    def __enter__(self) -> Server:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        arguments = ["--cpu", "--disable-auto-launch", "--database-url", "sqlite:///:memory:"]
        arguments += ["--base-directory", str(self.folder), "--port", str(self.port), "--preview-method", "auto"]
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(  # noqa: S603  the python and the checkout that the tester names
                [self.python, str(LAUNCH), str(self.comfyui / "main.py"), *arguments],
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1"},
            )
        begun = time.monotonic()
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() - begun > START:
                self.stop()
                raise RuntimeError(f"ComfyUI did not start:\n{self.log()[-4000:]}")
            time.sleep(0.5)
        if self.says_what_it_holds():
            self.share = min(1.0, self.processor_seconds() / (time.monotonic() - begun))
        address = f"ws://127.0.0.1:{self.port}/ws?clientId={self.client}"
        self.socket = websocket.create_connection(address, timeout=QUIET)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.socket.close()
        self.stop()

    def stop(self) -> None:
        """End the process."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def log(self) -> str:
        """All it has written so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def answers(self) -> bool:
        try:
            self.get("/system_stats")
        except OSError:
            return False
        return True

    def get(self, path: str, **query: str) -> Any:
        """What it answers to a question, as JSON; bytes for pictures."""
        return self.ask(f"{path}?{urllib.parse.urlencode(query)}" if query else path)

    def post(self, path: str, body: Any) -> Any:
        return self.ask(path, json.dumps(body).encode())

    def ask(self, path: str, body: bytes | None = None) -> Any:
        """Raises RuntimeError, with what it says, where it refuses."""
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=QUIET) as answer:  # noqa: S310
                content, kind = answer.read(), answer.headers.get_content_type()
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()) from None
        if kind == "application/json":
            return json.loads(content) if content else None
        return content

    def queue(self, prompt: Prompt, workflow: dict[str, Any] | None = None) -> Run:
        """Put a prompt into the queue."""
        body = {"prompt": prompt, "client_id": self.client, "extra_data": {"extra_pnginfo": {"workflow": workflow}}}
        return Run(self.post("/prompt", body)["prompt_id"])

    def run(self, prompt: Prompt, workflow: dict[str, Any] | None = None) -> Run:
        """Run a prompt to its end, whatever that is."""
        return self.finish(self.queue(prompt, workflow))

    def finish(self, run: Run, until: str | None = None) -> Run:
        """Read what the browser is told until a run ends, or until an event of the kind `until`."""
        begun, used = time.monotonic(), self.processor_seconds()
        while run.end[0] == "":
            message = self.socket.recv()
            if isinstance(message, bytes):
                run.previews += preview(message)
                continue
            event = json.loads(message)
            kind, data = event["type"], event.get("data", {})
            if data.get("prompt_id", run.prompt_id) != run.prompt_id:
                continue
            run.events.append((kind, data))
            if kind in ("execution_success", "execution_error", "execution_interrupted"):
                run.end = (kind, data)
            if kind == until:
                return run
        run.seconds = time.monotonic() - begun
        run.worked = min(run.seconds, self.processor_seconds() - used)
        run.outputs = self.history(run.prompt_id)
        return run

    def history(self, prompt_id: str) -> dict[str, dict[str, Any]]:
        """What the nodes of a run showed; it is written down a moment after the browser is told of the end."""
        for _ in range(100):
            history: dict[str, Any] = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                outputs: dict[str, dict[str, Any]] = history[prompt_id]["outputs"]
                return outputs
            time.sleep(0.1)
        raise RuntimeError("The run does not come up in the history.")

    def pictures(self, run: Run) -> list[Image.Image]:
        """The pictures that a run saved or showed, in the order of its nodes."""
        files = [file for node in sorted(run.outputs, key=int) for file in run.outputs[node].get("images", [])]
        return [Image.open(BytesIO(self.get("/view", **file))).convert("RGB") for file in files]

    def forget(self) -> None:
        """Have it unload all models and drop all results, as the page's buttons do."""
        self.post("/free", {"unload_models": True, "free_memory": True})
        time.sleep(FREEING)

    def says_what_it_holds(self) -> bool:
        """Whether the system tells of processes, as Linux does."""
        return Path("/proc/self/status").exists()

    def processor_seconds(self) -> float:
        """What it has used of the processor, on a busy machine less than the time that went by. That time itself where
        the system does not say."""
        if not self.says_what_it_holds():
            return time.monotonic()
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def held(self) -> int:
        """Bytes of memory that the server's process has asked for, whether it has written to them yet or not."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmData:")]
        return int(line.split()[1]) * 1024


def preview(message: bytes) -> list[Image.Image]:
    """The picture of a binary message, if that is what it holds."""
    (kind,) = struct.unpack(">I", message[:4])
    return [Image.open(BytesIO(message[8:])).convert("RGB")] if kind == PREVIEW_IMAGE else []
