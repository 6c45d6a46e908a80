"""Where checkpoints of Janus and maps of their heads lie in ComfyUI's folders."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

import folder_paths

from ..ssd_core.errors import UserError
from ..ssd_core.heads.headmap import SHIPPED, HeadMap
from .hub import REPOSITORIES

EMBEDDED = "janus-shapes"
KIND = "janus"
MAPS = "janus_heads"
DOWNLOADS = {f"download {name}": name for name in REPOSITORIES}

for name in (KIND, "Janus-Pro"):  # other packs keep their Janus in the latter
    folder_paths.add_model_folder_path(KIND, str(Path(folder_paths.models_dir) / name))
folder_paths.add_model_folder_path(MAPS, str(Path(folder_paths.models_dir) / KIND / "heads"))


def found() -> dict[str, Path]:
    """All checkpoints, by the names to show: folders with a config.json, and single files."""
    models: dict[str, Path] = {}
    for root in map(Path, folder_paths.get_folder_paths(KIND)):
        for path in sorted(root.glob("*")):
            if (path / "config.json").is_file() or path.suffix == ".safetensors":
                models.setdefault(path.name, path)
    return models


def names() -> list[str]:
    """What can be loaded: the embedded model, what is on the disk, and what can be fetched."""
    return [EMBEDDED, *found(), *DOWNLOADS]


def folder_for(name: str) -> Path:
    """Where a model of this name is, or where it is to be fetched to."""
    return found().get(name, Path(folder_paths.get_folder_paths(KIND)[0]) / name)


def path_of(name: str) -> str:
    """The path of a name that was shown. Raises UserError for any other, so that no path leaves the folders."""
    if name == EMBEDDED:
        return EMBEDDED
    models = found()
    if name not in models:
        raise UserError(f"There is no model {name!r} in models/{KIND} any more; choose another in Load Janus-Pro.")
    return str(models[name])


def fingerprint(path: Path | None) -> str:
    """What changes when a model or a head map is replaced under its name: a digest of its files' sizes and times, and
    nothing that would tell of the machine, as ComfyUI writes it into pictures. "" where there is no file."""
    if path is None:
        return ""
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        seen = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.is_file()]
    except OSError:  # it goes while we look
        return ""
    return sha256(repr(seen).encode()).hexdigest() if seen else ""


def maps() -> dict[str, Path]:
    """All head maps, by the names to show: those of the pack, and files of the user's."""
    known = {path.stem: path for path in sorted(SHIPPED.glob("*.safetensors"))}
    for root in map(Path, folder_paths.get_folder_paths(MAPS)):
        for path in sorted(root.glob("*.safetensors")):
            known.setdefault(path.name, path)
    return known


def map_of(name: str) -> Path:
    """The path of a head map that was shown. Raises UserError for any other."""
    known = maps()
    if name not in known:
        raise UserError(f"There is no head map {name!r} in models/{KIND}/heads any more; choose another in Head Map.")
    return known[name]


def check_name(name: str) -> None:
    """Raise UserError for what no head map can be kept by, so that no path leaves the folders."""
    if not re.fullmatch(r"\w[\w .-]*", name):
        raise UserError(f"A head map's name is letters, digits, spaces, dots and dashes, not {name!r}.")


def keep(head_map: HeadMap, name: str) -> None:
    """Write a head map under a name that `check_name` lets pass, with the next number where that holds another map;
    nothing is ever overwritten. A map that is there already is not written again."""
    folder = Path(folder_paths.get_folder_paths(MAPS)[0])
    folder.mkdir(parents=True, exist_ok=True)
    path, number = folder / f"{name}.safetensors", 1
    while path.exists():
        if holds(path, head_map):
            return
        number += 1
        path = folder / f"{name}-{number}.safetensors"
    head_map.save(path)


def holds(path: Path, head_map: HeadMap) -> bool:
    """Whether a file is this very map."""
    try:
        kept = HeadMap.load(path)
    except UserError:
        return False
    return kept.about == head_map.about and kept.share.equal(head_map.share)
