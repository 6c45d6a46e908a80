"""What a drawing starts from: tokens of pictures, of which some stay as they are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from .errors import UserError
from .models.base import Geometry
from .tokens import UNDRAWN, check_tokens

PAINTED = 0.5  # from which a pixel of a mask counts


def kept_tokens(geometry: Geometry, start: Tensor | None, keep: Tensor | None, images: int) -> Tensor | None:
    """The tokens that stay, -1 where one is to be drawn: int64 [images, grid tokens] on the processor.

    start, keep: as `generate` takes them. Without both, None. Raises UserError for what does not fit.
    """
    if start is None and keep is None:
        return None
    if start is None or keep is None:
        raise UserError("start and keep belong together: give the tokens of pictures and say which of them stay.")
    start, keep = start.cpu(), keep.cpu()
    check_tokens(geometry, start)
    if keep.dtype != torch.bool or keep.shape[-1:] != (geometry.tokens,) or keep.ndim > 2:
        raise UserError(
            f"keep is a table of bool, [{geometry.tokens}] or [{images}, {geometry.tokens}], "
            f"not {keep.dtype} {list(keep.shape)}."
        )
    for name, own in (("start", start), ("The mask of what stays", keep.reshape(-1, geometry.tokens))):
        if len(own) not in (1, images):
            raise UserError(f"{name} is for {len(own)} images, but {images} are drawn; give one for all, or {images}.")
    start, keep = start.expand(images, -1), keep.expand(images, -1)
    if (start[keep] == UNDRAWN).any():
        raise UserError("Some of the tokens to keep were never drawn; keep fewer, or start from a whole picture.")
    return start.where(keep, UNDRAWN)


def stretch(geometry: Geometry, kept: Tensor) -> tuple[int, int]:
    """The first token that some image draws, and the end of the last row in which one does.

    kept: as `kept_tokens` gives it. What comes before is fed and not drawn; what comes after need not even be fed.
    """
    [places] = (kept == UNDRAWN).any(0).nonzero(as_tuple=True)
    if not len(places):
        return 0, 0
    return int(places[0]), (int(places[-1]) // geometry.columns + 1) * geometry.columns


def keep_of(geometry: Geometry, rows: int = 0, mask: Tensor | None = None) -> Tensor:
    """Which tokens stay: the first `rows` rows, and whatever a mask leaves alone. For `generate`'s `keep`.

    mask: float [height, width] or [n, height, width] over the picture, of any size: a token is redrawn if a pixel of
        its cell is 0.5 or more. Of another shape than the picture's, its centre counts, as in `encode`.

    Returns bool [grid tokens], or [n, grid tokens] where there is a mask. Raises UserError for what does not fit, and
    where nothing would be drawn, or nothing stay.
    """
    if not 0 <= rows < geometry.rows:
        raise UserError(
            f"A picture has {geometry.rows} rows of tokens, so 0 to {geometry.rows - 1} can be kept, not {rows}."
        )
    first = torch.arange(geometry.tokens) < rows * geometry.columns
    keep = first if mask is None else first | ~painted(geometry, mask)
    if keep.all():
        raise UserError("All of the picture stays, so nothing is left to draw; paint the mask, or keep fewer rows.")
    if not keep.any():
        raise UserError("Nothing of the picture stays, so it has no effect; keep some rows, or paint less of the mask.")
    return keep


def painted(geometry: Geometry, mask: Tensor) -> Tensor:
    """Which cells of the grid a mask touches: bool [n, grid tokens]."""
    if mask.ndim not in (2, 3) or not mask.numel():
        raise UserError(
            f"A mask is a table [height, width], or several, but this one has the shape {list(mask.shape)}."
        )
    height, width = mask.shape[-2:]
    # the largest part in the middle that has the grid's proportions
    inner = min(height, max(1, round(width * geometry.rows / geometry.columns)))
    across = min(width, max(1, round(height * geometry.columns / geometry.rows)))
    top, left = (height - inner) // 2, (width - across) // 2
    middle = mask.cpu().float()[..., top : top + inner, left : left + across].reshape(-1, 1, inner, across)
    return adaptive_max_pool2d(middle, (geometry.rows, geometry.columns)).flatten(1) >= PAINTED
