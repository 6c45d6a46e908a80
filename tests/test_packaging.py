"""What ComfyUI's registry and ComfyUI-Manager are told, and what they are given."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.nodes import stand_in

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def packed() -> set[str]:
    """The files that `comfy node pack` takes: those that git has and .comfyignore does not name."""

    def git(*arguments: str) -> set[str]:
        listed = subprocess.run(["git", "ls-files", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603, S607
        return set(listed.stdout.splitlines())

    return git() - git("--cached", "--ignored", "--exclude-from=.comfyignore")


def test_the_zip_holds_what_the_pack_needs_and_no_more() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("what is packed is what git has, and this is no checkout")
    files = packed()
    assert {path.split("/")[0] for path in files} == {
        *("LICENSE", "README.md", "__init__.py", "pyproject.toml", "requirements.txt"),
        *("locales", "nodes", "ssd_core", "web", "workflows"),
    }
    needed = [path for folder in ("locales", "nodes", "ssd_core", "web", "workflows") for path in folder_files(folder)]
    assert set(needed) <= files


def folder_files(folder: str) -> list[str]:
    """The paths of a folder's files, without what Python leaves there."""
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return [path.relative_to(ROOT).as_posix() for path in files]


def test_a_wheel_holds_what_is_no_python() -> None:
    package = ROOT / "ssd_core"
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["ssd_core"]
    given = {path for pattern in patterns for path in package.glob(pattern)}
    needed = {ROOT / path for path in folder_files("ssd_core") if not path.endswith(".py")}
    assert package / "native" / "kernels.cpp" in needed
    assert needed <= given


def test_the_manager_installs_what_the_project_needs() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == PROJECT["project"]["dependencies"]


def test_the_registry_s_rules_are_kept() -> None:
    project, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    assert "comfyui" not in project["name"].lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["urls"]["Repository"].startswith("https://")
    assert not [need for need in project["dependencies"] if need.startswith("torch") or "==" in need]
    icon = comfy["Icon"].split("/main/")[1]
    assert (ROOT / icon).is_file()
    assert "web" not in comfy  # WEB_DIRECTORY says it; both would load every script twice


def test_an_old_comfyui_is_told_to_update(tmp_path: Path) -> None:
    oldest = PROJECT["tool"]["comfy"]["requires-comfyui"].removeprefix(">=")
    for version in (oldest, "0.33.0", "1.0.0", "0.19.0+local", "nightly"):
        pack, _ = stand_in.load_pack(tmp_path, version)
        assert asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
    for version in ("0.18.5", "0.3.77"):
        pack, _ = stand_in.load_pack(tmp_path, version)
        with pytest.raises(Exception, match=f"needs ComfyUI {oldest} or newer, and this is {version}"):
            asyncio.run(pack.comfy_entrypoint())
