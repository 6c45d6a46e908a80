"""The loop: prompts in, pictures out."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .choice import begin, choose_step
from .clock import Clock, Timing
from .errors import OutOfMemoryError, is_out_of_memory
from .memory import Memory, counted, plan_rows
from .models.base import ImageModel
from .policies import Full, Policy
from .prompts import Prompt, prompt_rows
from .sampling import Sampling, streams
from .start import kept_tokens, stretch
from .step import Check, checked, prefill
from .tokens import UNDRAWN
from .turn import Step, Turn

OnRow = Callable[[int, Tensor, Memory, float | None], object]
GREY = 0.5  # what its place in the picture shows


@dataclass(frozen=True)
class Result:
    """Pictures and how they came about.

    images: float32 [n, height, width, 3] in 0..1, on the processor, prompt by prompt.
    tokens: int64 [n, grid tokens], on the processor; -1 where a stop came first, grey in the image.
    drawn: how many of the tokens were drawn; the others were kept from the start, or never came.
    seeds: the seed each image can be drawn with alone.
    step: which step drew: plain, kernel, graph or compiled, and in words why, where another one was meant.
    """

    images: Tensor
    tokens: Tensor
    drawn: int
    seeds: list[int]
    memory: Memory
    timing: Timing
    step: str

    @property
    def tokens_per_second(self) -> float:
        """Image tokens drawn a second from the first on, as on_row was told; guidance rows are not counted twice."""
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
    previews: bool = False,
    step: str = "auto",
    kv_dtype: str = "auto",
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
        int64 [n, m], memory as planned or, after a policy has planned anew, as counted, tokens drawn a second so far or
        None); a true return value stops the drawing, and what was drawn so far is returned.
    check: called before each token, or before some that are drawn within a quarter of a second, and between chunks of
        prompts and of pictures; what it raises ends the drawing and is passed on.
    previews: whether on_row paints a picture so far now and then, so that the memory it takes is counted.
    step: how a token is drawn. "plain": operation by operation. "kernel": so, but attention is one, in Triton on CUDA,
        and on the processor all layers are one, in C++. "graph": all of them as one CUDA graph, captured anew for each
        drawing. "compiled": through torch.compile, which needs a C++ compiler, and half a minute before the first token
        of a batch of new sizes. "auto": a graph on CUDA where it works, else with a kernel where one works, else
        plainly; `Result.step` says which it was. Tokens may differ in rare cases, where two are as likely but for
        rounding.
    kv_dtype: what keys and values are kept in: "auto" is what the model computes in; "int8" and "fp8" (e4m3) are a byte
        a number, and two bytes a key or value for its scale. A token is rounded when it is stored.

    Raises UserError for what cannot be drawn, and OutOfMemoryError, which is one, where memory runs out. Whatever
    ends it, the cache is given back.
    """
    sampling = Sampling(guidance, temperature, top_k, top_p, greedy)
    policy = (policy or Full()).fit(model)
    rows = prompt_rows(model, prompts, images_per_prompt, negative, sampling)
    images = len(prompts) * images_per_prompt
    seeds = [(seed + k) % 2**64 for k in range(images)]
    kept = kept_tokens(model.geometry, start, keep, images)
    choice = choose_step(step, model, policy, rows, kv_dtype)
    memory = plan_rows(model, policy, rows, sampling, previews, kv_dtype, choice.name)
    with explain_out_of_memory(memory, images):
        clock = Clock(model.device)
        cache = prefill(model, policy, rows, check, kv_dtype)
        clock.lap("prefill")
        try:
            turn = Turn(model, sampling, rows, uniform_numbers(model, seeds), kept)
            with closing(begin(choice, turn, cache)) as drawing:
                draw_tokens(drawing, memory, clock, on_row, check)
            tokens, told, memory = turn.tokens, drawing.told, counted(memory, cache)
            if not drawing.is_captured:
                memory = replace(memory, graph_bytes=0)
            del turn, drawing
        finally:
            cache.free()
        clock.lap("decode")
        pictures = paint(model, tokens, memory.pictures_at_once, check)
        clock.lap("pictures")
        return Result(pictures, tokens.cpu(), count_drawn(tokens, kept), seeds, memory, clock.timing, told)


def uniform_numbers(model: ImageModel, seeds: Sequence[int]) -> Tensor:
    """The random numbers of images, as `Turn` takes them."""
    return streams(seeds, model.geometry.tokens).T.contiguous().to(model.device)


def count_drawn(tokens: Tensor, kept: Tensor | None) -> int:
    """How many of the tokens int64 [n, m] were drawn; `kept` as `kept_tokens` gives it."""
    drawn = int((tokens != UNDRAWN).sum())
    return drawn if kept is None else drawn - int((kept[:, : tokens.shape[1]] != UNDRAWN).sum())


def draw_tokens(
    draw: Step, memory: Memory, clock: Clock, on_row: OnRow | None = None, check: Check | None = None
) -> None:
    """The token loop: turn by turn, until all is drawn or a stop comes.

    draw: who draws tokens. memory: as planned, for on_row.
    clock: its last lap is to be where the prompts are read.
    """
    turn, cache = draw.turn, draw.cache
    geometry, kept = turn.model.geometry, turn.kept
    columns = geometry.columns
    first, end = (0, geometry.tokens) if kept is None else stretch(geometry, kept)
    at = 0
    while at < end:
        if at == first > 0:
            clock.lap("prefill")
        if check:
            check()
        if at < first:
            turn.feed(cache)
            at += 1
        else:
            at += draw(min(end, at - at % columns + columns) - at)
        if at % columns == 0 and on_row:
            so_far, speed = turn.tokens[:, :at], None
            if at > first:
                clock.lap("decode")
                speed = count_drawn(so_far, kept) / clock.timing.decode
            with clock.paused():
                stop = on_row(at // columns - 1, so_far, counted(memory, cache), speed)
            if stop:
                break


def paint(model: ImageModel, tokens: Tensor, at_once: int = 1, check: Check | None = None) -> Tensor:
    """Pictures of tokens int64 [n, grid tokens], -1 where undrawn: float32 [n, height, width, 3] on the processor.

    at_once: how many are decoded together; each takes hundreds of megabytes at Janus-Pro's size.
    check: called before each of these chunks; what it raises is passed on.
    """
    undrawn = tokens == UNDRAWN
    chunks = checked(tokens.masked_fill(undrawn, 0).split(at_once), check)
    pictures = torch.cat([model.decode_image(chunk).cpu() for chunk in chunks])
    if undrawn.any():
        geometry, (height, width) = model.geometry, pictures.shape[1:3]
        cells = undrawn.view(-1, geometry.rows, geometry.columns).cpu()
        cells = cells.repeat_interleave(height // geometry.rows, 1).repeat_interleave(width // geometry.columns, 2)
        pictures[cells] = GREY
    return pictures


@contextmanager
def explain_out_of_memory(memory: Memory, images: int) -> Iterator[None]:
    """Turn torch's out-of-memory errors into a sentence that says what was needed."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # or what they hold would live as long as the sentence below
        host = f", and {memory.host_bytes / 2**30:.2f} GiB of the host's" if memory.host_bytes else ""
        raise OutOfMemoryError(
            f"Memory ran out: {images} images at once take {memory.peak_bytes / 2**30:.2f} GiB, "
            f"{memory.kv_bytes / 2**30:.2f} GiB of it for keys and values{host}; "
            "draw fewer at once or lower the budget."
        ) from None
