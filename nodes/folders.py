"""Where checkpoints of Janus lie in ComfyUI's folders."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ..ssd_core.errors import UserError

EMBEDDED = "janus-shapes"
KIND = "janus"

for name in (KIND, "Janus-Pro"):  # other packs keep their Janus in the latter
    folder_paths.add_model_folder_path(KIND, str(Path(folder_paths.models_dir) / name))


def found() -> dict[str, Path]:
    """All checkpoints, by the names to show: folders with a config.json, and single files."""
    models: dict[str, Path] = {}
    for root in map(Path, folder_paths.get_folder_paths(KIND)):
        for path in sorted(root.glob("*")):
            if (path / "config.json").is_file() or path.suffix == ".safetensors":
                models.setdefault(path.name, path)
    return models


def names() -> list[str]:
    """What can be loaded, the embedded model first."""
    return [EMBEDDED, *found()]


def path_of(name: str) -> str:
    """The path of a name that was shown. Raises UserError for any other, so that no path leaves the folders."""
    if name == EMBEDDED:
        return EMBEDDED
    models = found()
    if name not in models:
        raise UserError(f"There is no model {name!r} in models/{KIND} any more; choose another in Load Janus-Pro.")
    return str(models[name])
