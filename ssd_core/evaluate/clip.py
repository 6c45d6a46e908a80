"""CLIP score: how near a picture is to its prompt in the space of a CLIP model (arXiv 2104.08718).

A light proxy: it sees whether the right things are there, hardly whether they are as many and stand as the prompt says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError

from ..errors import UserError
from .gallery import Sheet

DEFAULT = "openai/clip-vit-base-patch32"  # the paper's
AT_ONCE = 32  # pictures that the model looks at together


@dataclass(frozen=True)
class Likeness:
    """How near a picture is to its prompt.

    cosine: in -1..1.
    cut: whether the prompt was longer than what CLIP reads.
    """

    file: str
    prompt: str
    task: str
    cosine: float
    cut: bool


@dataclass(frozen=True)
class ClipScore:
    """How near some pictures, in their order, are to their prompts."""

    likenesses: tuple[Likeness, ...]

    @property
    def overall(self) -> float:
        """The mean cosine of all pictures, times 100."""
        return mean(self.likenesses)

    @property
    def tasks(self) -> dict[str, float]:
        """The same for the pictures of each task, where they have one."""
        names = dict.fromkeys(likeness.task for likeness in self.likenesses if likeness.task)
        return {name: mean([likeness for likeness in self.likenesses if likeness.task == name]) for name in names}


def mean(likenesses: Sequence[Likeness]) -> float:
    """The mean cosine times 100."""
    return 100 * sum(likeness.cosine for likeness in likenesses) / len(likenesses)


class Clip:
    """A CLIP model with what makes its inputs."""

    def __init__(self, name: str = DEFAULT, device: torch.device | str = "cpu", download: bool = False) -> None:
        """Read a model's folder, or one by its hub name that was downloaded before.

        download: whether one that is not here may be fetched; without, the network is not touched.

        Raises UserError where there is none.
        """
        from transformers import AutoConfig, AutoTokenizer, CLIPModel, logging

        where = name if download or Path(name).exists() else downloaded(name)
        logging.disable_progress_bar()
        try:
            kind = AutoConfig.from_pretrained(where, trust_remote_code=False).model_type
            if kind != "clip":
                raise UserError(f"{name} is a model of the kind {kind}, not a CLIP model; name another --clip.")
            model, info = CLIPModel.from_pretrained(where, output_loading_info=True)
            self.tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
            self.processor = image_processor().from_pretrained(where)
        except UserError:
            raise
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason, done = str(error).strip().split("\n")[0].rstrip("."), "fetched" if download else "read"
            raise UserError(f"{name} cannot be {done} ({reason}); name another --clip.") from None
        if info["missing_keys"]:  # which transformers would fill with random numbers
            raise UserError(f"{name} lacks {len(info['missing_keys'])} of a CLIP model's tensors; name another --clip.")
        self.model = model.float().eval().to(device)
        self.limit = int(model.config.text_config.max_position_embeddings)

    @torch.inference_mode()
    def cosines(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """The cosine of each picture with its prompt, of which no more than `limit` tokens are read."""
        texts = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=self.limit, return_tensors="pt"
        ).to(self.model.device)
        pixels = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"].to(self.model.device)
        seen = self.model(input_ids=texts["input_ids"], attention_mask=texts["attention_mask"], pixel_values=pixels)
        return (seen.text_embeds * seen.image_embeds).sum(-1).tolist()

    def cuts(self, prompt: str) -> bool:
        """Whether a prompt is longer than what is read of it."""
        return len(self.tokenizer(prompt, verbose=False)["input_ids"]) > self.limit


def score(clip: Clip, sheets: Sequence[Sheet], on_sheets: Callable[[int], object] | None = None) -> ClipScore:
    """Compare each picture of some files with its prompt.

    on_sheets: called with how many files were looked at.
    """
    found: list[Likeness] = []
    step = max(1, AT_ONCE // max(sheet.pictures for sheet in sheets))
    for start in range(0, len(sheets), step):
        some = sheets[start : start + step]
        shown = [(sheet, *sheet.read()) for sheet in some]
        pairs = [(sheet, prompt, picture) for sheet, prompt, pictures in shown for picture in pictures]
        cosines = clip.cosines([picture for *_, picture in pairs], [prompt for _, prompt, _ in pairs])
        found += [
            Likeness(str(sheet.path), prompt, sheet.task, cosine, clip.cuts(prompt))
            for (sheet, prompt, _), cosine in zip(pairs, cosines, strict=True)
        ]
        if on_sheets:
            on_sheets(start + len(some))
    return ClipScore(tuple(found))


def image_processor() -> Any:
    """transformers' class that resizes with Pillow, as the first CLIP did; torchvision, which others want, is not
    needed here."""
    try:
        from transformers import CLIPImageProcessorPil
    except ImportError:  # before transformers 5
        from transformers import CLIPImageProcessor

        return CLIPImageProcessor
    return CLIPImageProcessorPil


def downloaded(name: str) -> str:
    """The folder that a model was once fetched into; raises UserError where it was not.

    Looked up here, because the hub's library goes to the network even where it is told to read local files only.
    """
    from huggingface_hub import try_to_load_from_cache

    try:
        config = try_to_load_from_cache(name, "config.json")
    except ValueError:  # no name that a model of the hub can have
        config = None
    if isinstance(config, str):
        return str(Path(config).parent)
    raise UserError(
        f"There is no CLIP model {name} on this machine; give --clip its folder, or --clip with its hub name and "
        "--download."
    )
