"""The loop: prompts in, pictures out."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .cache.cache import SlotCache
from .errors import OutOfMemoryError, UserError
from .memory import Memory, plan_rows
from .models.base import ImageModel
from .policies import Full, Policy
from .sampling import Sampling, streams
from .start import kept_tokens, stretch
from .step import feed, image_embedder, prefill, step
from .tokens import UNDRAWN

Prompt = str | Sequence[int]
OnRow = Callable[[int, Tensor, Memory], object]
Check = Callable[[], object]
GREY = 0.5  # what its place in the picture shows
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")  # CUDA and MPS, Windows, Linux


@dataclass(frozen=True)
class Timing:
    """Seconds of each part."""

    prefill: float
    decode: float
    pictures: float


@dataclass(frozen=True)
class Result:
    """Pictures and how they came about.

    images: float32 [n, height, width, 3] in 0..1, on the processor, prompt by prompt.
    tokens: int64 [n, grid tokens], on the processor; -1 where a stop came first, grey in the image.
    drawn: how many of the tokens were drawn; the others were kept from the start, or never came.
    seeds: the seed each image can be drawn with alone.
    """

    images: Tensor
    tokens: Tensor
    drawn: int
    seeds: list[int]
    memory: Memory
    timing: Timing

    @property
    def tokens_per_second(self) -> float:
        """Image tokens drawn a second of the loop; guidance rows are not counted twice."""
        return self.drawn / self.timing.decode


@torch.inference_mode()
def generate(
    model: ImageModel,
    prompts: Sequence[Prompt],
    policy: Policy | None = None,
    images_per_prompt: int = 1,
    seed: int = 0,
    guidance: float = 5.0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    greedy: bool = False,
    negative: Prompt | None = None,
    start: Tensor | None = None,
    keep: Tensor | None = None,
    on_row: OnRow | None = None,
    check: Check | None = None,
) -> Result:
    """Draw `images_per_prompt` pictures of each prompt, all at once.

    prompts: strings, or lists of token ids (begin-of-sentence first, begin-of-image last; the template is then the
        caller's business).
    policy: how the cache is kept small; None keeps everything.
    seed: image k is drawn with seed + k, whatever is drawn beside it.
    guidance: 1 draws from the prompt alone, one row an image instead of two.
    negative: what guidance leads away from, instead of nothing.
    start: tokens of pictures to begin with, int64 [n, grid tokens], or [1, grid tokens] for all.
    keep: which of these stay as they are, bool [grid tokens] or [n, grid tokens]; the others are drawn in raster order,
        each with the random number of its own place, and see only what comes before them.
    on_row: called after each row of the grid, up to the last in which something is drawn, with (row, tokens so far
        int64 [n, m], memory); a true return value stops the drawing, and what was drawn so far is returned.
    check: called before each token; what it raises ends the drawing and is passed on.

    Raises UserError for what cannot be drawn, and OutOfMemoryError, which is one, where memory runs out. Whatever
    ends it, the cache is given back.
    """
    sampling = Sampling(guidance, temperature, top_k, top_p, greedy)
    policy = (policy or Full()).fit(model)
    rows = prompt_rows(model, prompts, images_per_prompt, negative, sampling)
    images = len(prompts) * images_per_prompt
    seeds = [(seed + k) % 2**64 for k in range(images)]
    kept = kept_tokens(model.geometry, start, keep, images)
    memory = plan_rows(model, policy, rows, sampling)
    with explain_out_of_memory(memory, images):
        clock = Clock(model.device)
        cache = prefill(model, policy, rows)
        prefilled = clock.lap()
        try:
            tokens = draw_tokens(model, cache, rows, seeds, sampling, memory, on_row, check, kept)
        finally:
            cache.free()
        decoded = clock.lap()
        pictures = paint(model, tokens, memory.pictures_at_once)
        drawn = count(tokens) - (0 if kept is None else count(kept))
        return Result(pictures, tokens.cpu(), drawn, seeds, memory, Timing(prefilled, decoded, clock.lap()))


def count(tokens: Tensor) -> int:
    """How many tokens there are."""
    return int((tokens != UNDRAWN).sum())


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


def draw_tokens(
    model: ImageModel,
    cache: SlotCache,
    rows: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    memory: Memory,
    on_row: OnRow | None = None,
    check: Check | None = None,
    kept: Tensor | None = None,
) -> Tensor:
    """The token loop: int64 [images, grid tokens].

    kept: tokens that stay, int64 [images, grid tokens], -1 where one is to be drawn.
    """
    geometry, device = model.geometry, model.device
    columns = geometry.columns
    uniform = streams(seeds, geometry.tokens).T.contiguous().to(device)
    embed_image = image_embedder(model)
    if kept is None:
        tokens = torch.full((len(seeds), geometry.tokens), UNDRAWN, dtype=torch.int64, device=device)
        first, end, stays = 0, geometry.tokens, None
    else:
        tokens = kept.to(device, copy=True)
        (first, end), stays = stretch(geometry, kept), (tokens != UNDRAWN).T.contiguous()
    positions = torch.tensor([[len(ids) - 1] for ids in rows], device=device)
    x = model.embed_text(torch.tensor([ids[-1:] for ids in rows]))[:, 0]
    for at in range(end):
        if check:
            check()
        if at < first:
            feed(model, cache, x, positions)
            token = tokens[:, at]
        else:
            token = sampling.next_tokens(step(model, cache, x, positions), uniform[at])
            if stays is not None:
                torch.where(stays[at], tokens[:, at], token, out=token)
            tokens[:, at] = token
        if (at + 1) % columns == 0 and on_row and on_row(at // columns, tokens[:, : at + 1], memory):
            break
        x = embed_image(token)
        x = torch.cat([x, x]) if sampling.guided else x
        positions += 1
    return tokens


def paint(model: ImageModel, tokens: Tensor, at_once: int = 1) -> Tensor:
    """Pictures of tokens int64 [n, grid tokens], -1 where undrawn: float32 [n, height, width, 3] on the processor.

    at_once: how many are decoded together; each takes hundreds of megabytes at Janus-Pro's size.
    """
    undrawn = tokens == UNDRAWN
    pictures = torch.cat([model.decode_image(part).cpu() for part in tokens.masked_fill(undrawn, 0).split(at_once)])
    if undrawn.any():
        geometry, (height, width) = model.geometry, pictures.shape[1:3]
        cells = undrawn.view(-1, geometry.rows, geometry.columns).cpu()
        cells = cells.repeat_interleave(height // geometry.rows, 1).repeat_interleave(width // geometry.columns, 2)
        pictures[cells] = GREY
    return pictures


@dataclass
class Clock:
    """Seconds between laps, with the device's work done."""

    device: torch.device
    last: float = field(default_factory=time.perf_counter)

    def lap(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        before, self.last = self.last, time.perf_counter()
        return self.last - before


@contextmanager
def explain_out_of_memory(memory: Memory, images: int) -> Iterator[None]:
    """Turn torch's out-of-memory errors into a sentence that says what was needed."""
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error) for sign in OUT_OF_MEMORY):
            raise
        traceback.clear_frames(error.__traceback__)  # or what they hold would live as long as the sentence below
        raise OutOfMemoryError(
            f"Memory ran out: {images} images at once take {memory.peak_bytes / 2**30:.2f} GiB, "
            f"{memory.kv_bytes / 2**30:.2f} GiB of it for keys and values; draw fewer at once or lower the budget."
        ) from None
