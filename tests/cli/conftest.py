from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.cli.terminal import Terminal
from tests.tiny import TinyModel, random_map, tiny


@pytest.fixture
def model() -> TinyModel:
    """4 x 4 tokens, 8 x 8 pixels."""
    return tiny()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, also where the tests were started to ignore it, as a shell starts them in its background."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


@pytest.fixture
def terminal(model: TinyModel, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A command line in a folder with the tiny model's head map, heads.safetensors; every checkpoint is that model."""
    folder = tmp_path_factory.mktemp("terminal")
    monkeypatch.chdir(folder)
    random_map(model.geometry).save("heads.safetensors")
    random_map(model.geometry, beyond=True).save("reach.safetensors")
    terminal = Terminal(model, folder)
    monkeypatch.setattr("ssd_core.cli.options.load", terminal.load)
    return terminal
