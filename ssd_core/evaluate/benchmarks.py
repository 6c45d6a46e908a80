"""The benchmarks whose folders can be drawn, and the pictures of any folder."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from .dpg import Dpg
from .folders import SETTINGS, stated
from .gallery import Sheet, sheets_of
from .geneval import GenEval

BENCHMARKS = {kind.name: kind for kind in (GenEval, Dpg)}


def pictures_of(folder: Path) -> tuple[list[Sheet], int]:
    """The pictures of a benchmark's folder as far as they are drawn, or of any other that `sheets_of` understands, and
    how many pictures there will be.

    Raises UserError where there are none.
    """
    about = stated(folder) if (folder / SETTINGS).exists() else None
    if about is None:
        sheets = sheets_of(folder)
        return sheets, len(sheets)
    if about["benchmark"] not in BENCHMARKS:
        raise UserError(f"{folder} is of the benchmark {about['benchmark']}, which is not known here.")
    sheets = BENCHMARKS[about["benchmark"]].sheets(folder, about["images"])
    if not sheets:
        raise UserError(f"No pictures are drawn in {folder} yet.")
    return sheets, about["prompts"] * about["images"]
