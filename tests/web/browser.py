"""The real page in a real Chromium."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, Route

from tests.web.server import Server

SWITCHES = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
VIEW: Any = {"width": 1600, "height": 900}
PATIENCE = 90_000  # milliseconds; the page loads hundreds of files, on whatever machine this is
READY = "!!(window.app?.extensionManager && window.LiteGraph?.registered_node_types.SSDJanusSampler)"


def chromium() -> str | None:
    """Where Chromium is."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def launch(playwright: Playwright) -> Browser:
    return playwright.chromium.launch(executable_path=chromium(), args=SWITCHES.split())


class Tab:
    """A page of the browser with ComfyUI in it."""

    def __init__(self, browser: Browser, server: Server, name: str) -> None:
        self.server, self.name = server, name
        self.page: Page = browser.new_page(viewport=VIEW)
        self.page.set_default_timeout(PATIENCE)
        self.page.route(lambda address: not address.startswith((server.address, "ws://127.0.0.1")), self.refuse)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self.hear)
        self.open()

    @staticmethod
    def refuse(route: Route) -> None:
        route.abort()

    def hear(self, message: ConsoleMessage) -> None:
        """The page catches what an extension throws, and writes it to the console."""
        if message.type in ("error", "warning") and "ssd-janus" in f"{message.text} {message.location['url']}":
            self.errors.append(message.text)

    def open(self) -> None:
        """Load the page, or load it again."""
        self.page.goto(self.server.address)
        self.page.wait_for_function(READY)

    def load(self, graph: dict[str, Any]) -> None:
        self.page.evaluate("graph => app.loadGraphData(graph)", graph)

    def choose(self, setting: str, value: Any) -> None:
        """Change one of the page's settings."""
        self.page.evaluate("([id, value]) => app.extensionManager.setting.set(id, value)", [setting, value])

    def meters(self, state: str | None = None) -> Any:
        """The meters on the screen, of one state or all."""
        return self.page.locator(".ssd-janus-meter" + (f'[data-state="{state}"]' if state else ""))

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)
