"""The oldest ComfyUI that has what the nodes are made of, said before an import or a schema fails for lack of it.

0.19.0 brought has_intermediate_output; pyproject.toml tells ComfyUI-Manager the same.
"""

from __future__ import annotations

from comfyui_version import __version__

from ..ssd_core.errors import UserError

OLDEST = (0, 19, 0)


def check(version: str) -> None:
    """Raise UserError for the version of a ComfyUI that is too old; what cannot be read is taken for new."""
    numbers = version.split("+")[0].split(".")
    if all(number.isdigit() for number in numbers) and tuple(map(int, numbers)) < OLDEST:
        raise UserError(
            f"SSD Janus needs ComfyUI {'.'.join(map(str, OLDEST))} or newer, and this is {version}; update ComfyUI."
        )


check(__version__)
