"""The rows of a drawing: what each picture's prompt is, in the model's ids."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import UserError
from .models.base import ImageModel
from .sampling import Sampling

Prompt = str | Sequence[int]


def prompt_rows(
    model: ImageModel, prompts: Sequence[Prompt], images: int, negative: Prompt | None, sampling: Sampling
) -> list[list[int]]:
    """The ids of every row: each image's prompt, then, under guidance, what each image is led away from."""
    if isinstance(prompts, str) or not prompts:
        raise UserError("prompts is a list of at least one prompt, such as ['a red circle'].")
    if images < 1:
        raise UserError(f"images_per_prompt is at least 1, not {images}.")
    if negative is not None and not sampling.guided:
        raise UserError(
            "A negative prompt works through guidance, which 1 switches off; raise guidance or leave it out."
        )
    ids = [prompt_ids(model, prompt) for prompt in prompts for _ in range(images)]
    if not sampling.guided:
        return ids
    return ids + [model.unconditional(own) if negative is None else prompt_ids(model, negative) for own in ids]


def prompt_ids(model: ImageModel, prompt: Prompt) -> list[int]:
    """A prompt's ids; raises UserError for a list that cannot be a prompt."""
    if isinstance(prompt, str):
        return model.encode(prompt)
    ids = [int(token) for token in prompt]
    if len(ids) < 2 or not all(0 <= token < model.vocabulary for token in ids):
        raise UserError(
            f"A prompt given as token ids has at least 2 of them, each in 0..{model.vocabulary - 1}, "
            "the first begin-of-sentence, the last begin-of-image."
        )
    return ids
