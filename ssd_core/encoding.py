"""Pictures to tokens, with the model's own picture encoder."""

from __future__ import annotations

import torch
from PIL import ImageOps
from PIL.Image import Resampling
from torch import Tensor

from .errors import UserError
from .models.base import ImageModel
from .pictures import from_pil, to_pil
from .step import Check, checked


@torch.inference_mode()
def encode(model: ImageModel, images: Tensor, check: Check | None = None) -> Tensor:
    """The tokens of pictures, one picture at a time: int64 [n, grid tokens] on the processor.

    images: float [n, height, width, 3] in 0..1. Of another size than the model's, the centre of its proportions is
        taken and resized.
    check: called before each picture; what it raises is passed on.

    Raises UserError for what are no such pictures.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or not images.numel():
        raise UserError(
            f"Pictures are a table [pictures, height, width, 3], but these have the shape {list(images.shape)}."
        )
    if not (images.is_floating_point() and images.min() >= 0 and images.max() <= 1):  # nor where any is not a number
        raise UserError("The values of pictures lie in 0..1; divide those of a file by 255.")
    pictures = checked(images.split(1), check)
    return torch.cat([model.encode_image(fitted(picture, model.picture_size)).cpu() for picture in pictures])


def fitted(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture float [1, height, width, 3] cropped and resized to (height, width); one of that size as it is."""
    if picture.shape[1:3] == size:
        return picture
    [whole] = to_pil(picture.clamp(0, 1))
    height, width = size
    return from_pil(ImageOps.fit(whole, (width, height), Resampling.LANCZOS))[None]
