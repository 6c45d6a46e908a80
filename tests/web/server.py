"""A stand-in for ComfyUI's server: it serves the real page and the pack's web folder, and plays messages to it."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

NONE_OF: dict[str, Any] = {  # what the page asks for and finds empty
    "features": {},
    "i18n": {},
    "node_replacements": {},
    "global_subgraphs": {},
    "workflow_templates": {},
    "experiment/models": [],
    "models": [],
    "embeddings": [],
    "jobs": {"jobs": [], "pagination": {"offset": 0, "limit": 200, "total": 0, "has_more": False}},
    "queue": {"queue_running": [], "queue_pending": []},
    "history": {},
    "userdata": [],
    "prompt": {"exec_info": {"queue_remaining": 0}},
    "users": {"storage": "server", "migrated": True},
    "system_stats": {
        "system": {"os": "linux", "python_version": "3", "comfyui_version": "0.33.0", "argv": [], "ram_total": 1},
        "devices": [],
    },
}


class Server:
    """Runs in a thread of its own; `play` sends to the pages that are open."""

    def __init__(self, page: Path, extension: Path, nodes: dict[str, Any]) -> None:
        """page: the folder of the frontend. extension: the pack's web folder. nodes: /object_info."""
        self.page, self.extension, self.nodes = page, extension, nodes
        self.settings: dict[str, Any] = {"Comfy.TutorialCompleted": True}  # or a dialog covers everything
        self.graphs: dict[str, str] = {}  # of the prompts, by their ids
        self.sockets: list[web.WebSocketResponse] = []
        self.loop = asyncio.new_event_loop()
        started: Future[str] = Future()
        self.thread = threading.Thread(target=self.run, args=[started], daemon=True)
        self.thread.start()
        self.address = started.result(timeout=30)

    def run(self, started: Future[str]) -> None:
        async def start() -> None:
            runner = web.AppRunner(self.application(), shutdown_timeout=0)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            started.set_result(f"http://{host}:{port}")

        self.loop.run_until_complete(start())
        self.loop.run_forever()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()

    def application(self) -> web.Application:
        application = web.Application()
        routes = application.router
        scripts = [f"/extensions/ssd-janus/{path.name}" for path in sorted(self.extension.glob("*.js"))]
        answers = NONE_OF | {"object_info": self.nodes, "extensions": scripts}
        for prefix in ("", "/api"):
            for name, answer in answers.items():
                routes.add_get(f"{prefix}/{name}", self.tell(answer))
            routes.add_get(f"{prefix}/jobs/{{id}}", self.job)
            routes.add_get(f"{prefix}/settings", self.tell(self.settings))
            routes.add_post(f"{prefix}/settings", self.set_all)
            routes.add_post(f"{prefix}/settings/{{id}}", self.set_one)
            routes.add_get(f"{prefix}/ws", self.socket)
        routes.add_get("/", self.index)
        routes.add_static("/extensions/ssd-janus", self.extension)
        routes.add_static("/", self.page)
        return application

    @staticmethod
    def tell(answer: Any) -> Any:
        async def respond(request: web.Request) -> web.Response:
            return web.json_response(answer)

        return respond

    async def index(self, request: web.Request) -> web.FileResponse:
        return web.FileResponse(self.page / "index.html")

    async def job(self, request: web.Request) -> web.Response:
        job = request.match_info["id"]
        if job not in self.graphs:
            return web.json_response({"error": "Job not found"}, status=404)
        return web.json_response({"id": job, "workflow_id": self.graphs[job]})

    async def set_all(self, request: web.Request) -> web.Response:
        self.settings.update(await request.json())
        return web.Response()

    async def set_one(self, request: web.Request) -> web.Response:
        self.settings[request.match_info["id"]] = await request.json()
        return web.Response()

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"type": "status", "data": {"status": NONE_OF["prompt"], "sid": "a browser"}})
        self.sockets.append(socket)
        async for message in socket:
            if message.type == WSMsgType.ERROR:
                break
        self.sockets.remove(socket)
        return socket

    def play(self, kind: str, data: dict[str, Any]) -> None:
        """Send a message as ComfyUI does."""

        async def send() -> None:
            for socket in self.sockets:
                await socket.send_str(json.dumps({"type": kind, "data": data}, allow_nan=False))

        asyncio.run_coroutine_threadsafe(send(), self.loop).result(timeout=30)

    def hang_up(self) -> None:
        """Close the connections, as a server that dies does."""

        async def close() -> None:
            for socket in list(self.sockets):
                await socket.close()

        asyncio.run_coroutine_threadsafe(close(), self.loop).result(timeout=30)
