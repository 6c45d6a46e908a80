from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
from typer.testing import CliRunner

import ssd_core
from ssd_core.cli import COMMANDS, app


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from ssd_core.cli import app;"
        "result = CliRunner().invoke(app, ['--help']); print(result.output);"
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert all(name in done.stdout and about in done.stdout for name, about in COMMANDS.items())


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "ssd_core"], capture_output=True, text=True, check=False)
    assert "Usage: ssd-janus" in done.stdout + done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_helps(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    assert f"Usage: ssd-janus {name}" in result.output
    assert import_module(f"ssd_core.cli.{name}").__doc__ == f"ssd-janus {name}"


def test_an_unknown_command_is_refused() -> None:
    assert CliRunner().invoke(app, ["paint"]).exit_code == 2


def test_the_public_names_are_those_of_the_api() -> None:
    api = import_module("ssd_core.api")
    assert all(getattr(ssd_core, name) is getattr(api, name) for name in api.__all__)
    with pytest.raises(AttributeError):
        getattr(ssd_core, "nonsense")  # noqa: B009
