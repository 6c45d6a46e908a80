"""What a picture's memory is spent on: counted from tensors while it runs, and planned before anything is allocated.

Planning runs the engine itself on torch's meta device, where tensors have shapes and no memory. So plan and run are the
same code, and a change to one cannot forget the other.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .cache.cache import SlotCache
from .cache.decoder_cache import DecoderCache, is_taken
from .cache.fixed import FixedCache
from .cache.kernel_cache import KernelCache, is_known, kernels_on
from .cache.masked import MaskedCache
from .cache.storage import check_kv_dtype
from .choice import planned_step
from .errors import UserError
from .models.base import Geometry, ImageModel
from .policies import Full, Policy
from .prompts import Prompt, prompt_rows
from .sampling import Sampling
from .step import prefill
from .turn import Turn
from .turn_kernel import TurnKernel, is_known_ending

# What was planned for a model. A plan takes a tenth of a second, and many drawings follow the same one.
PLANS: weakref.WeakKeyDictionary[ImageModel, dict[Hashable, Memory]] = weakref.WeakKeyDictionary()
MOST_PLANS = 64
SOME = 16  # images from which on all that a drawing takes grows evenly, or nearly


@dataclass(frozen=True)
class Memory:
    """Bytes, by what holds them, for a batch that draws together.

    kv_bytes: keys and values of all slots, scales included.
    kv_bytes_full: what a full cache of the same rows would hold, in the precision that the model computes in.
    bookkeeping_bytes: positions, attention scores, pair lists, and room for one layer's step.
    weights_bytes: everything of the model that drawing takes on its device.
    prefill_bytes, step_bytes, preview_bytes: the most that prompts, one turn of the loop with all that it goes by, or
        the decoding of a picture so far hold beside weights and cache; the latter is 0 where none is shown.
    picture_bytes: the most that the decoding of `pictures_at_once` pictures holds beside the weights.
    replan_bytes: the most that cache and work together hold beside the weights until a policy that plans anew has done
        so, while tokens move included; 0 for other policies.
    graph_bytes: what a captured step keeps between tokens: room for all that one turn makes, which stays allocated, and
        the masks of slots; 0 for other steps.
    peak_bytes: the most that is held at any time. The cache is freed before pictures are decoded.
    slots, attended: how many tokens each head of the first row holds, and how many of them it attends, at most,
        [layers][kv_heads].
    host_bytes: what the host's memory keeps instead of the device's, and no other figure counts: the prompt's
        embeddings where the model computes on a device, and tokens that a policy may call back.
    kv_bytes_by_row, kv_bytes_full_by_row: keys and values in filled slots once 0, 1, ... rows of the grid are drawn,
        and what a full cache would hold by then, [grid rows + 1].

    How a policy that plans anew will do so, nobody knows before. What is planned for keys, values and bookkeeping is
    then the most that it may come to; `counted` has what it came to.
    """

    kv_bytes: int
    kv_bytes_full: int
    bookkeeping_bytes: int
    weights_bytes: int
    prefill_bytes: int
    step_bytes: int
    preview_bytes: int
    picture_bytes: int
    pictures_at_once: int
    slots: list[list[int]]
    attended: list[list[int]]
    kv_bytes_by_row: list[int]
    kv_bytes_full_by_row: list[int]
    replan_bytes: int = 0
    host_bytes: int = 0
    graph_bytes: int = 0

    @property
    def drawing_bytes(self) -> int:
        """The most that is held until the cache is freed."""
        work = max(self.prefill_bytes, self.graph_bytes + max(self.step_bytes, self.preview_bytes))
        return self.weights_bytes + max(self.kv_bytes + self.bookkeeping_bytes + work, self.replan_bytes)

    @property
    def peak_bytes(self) -> int:
        return max(self.drawing_bytes, self.weights_bytes + self.picture_bytes)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON."""
        return asdict(self) | {"peak_bytes": self.peak_bytes}


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of tensors made and still alive while it is on, and remembers the most."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if id(storage) not in given and storage not in self._known:
                    self._known.add(storage)
                    self.live += storage.nbytes()
                    self.peak = max(self.peak, self.live)
                    weakref.finalize(storage, self._gone, storage.nbytes())
        return result

    def _gone(self, nbytes: int) -> None:
        self.live -= nbytes


def peak_bytes(run: Callable[[], Any]) -> int:
    """The most bytes that tensors made by `run` hold at any time."""
    with PeakBytes() as counter:
        run()
    return counter.peak


@torch.inference_mode()
def decoding_bytes(model: ImageModel) -> int:
    """The most that decoding one picture holds beside the weights, its tokens included."""
    skeleton = model.skeleton()
    shape = (1, model.geometry.tokens)
    return peak_bytes(lambda: skeleton.decode_image(torch.zeros(shape, dtype=torch.int64, device="meta")))


@torch.inference_mode()
def encoding_bytes(model: ImageModel) -> int:
    """The most that encoding one picture holds beside the weights, the picture included."""
    skeleton = model.skeleton()
    shape = (1, *model.picture_size, 3)
    return peak_bytes(lambda: skeleton.encode_image(torch.zeros(shape, device="meta")))


def module_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(part.nbytes for part in (*module.parameters(), *module.buffers()))


def full_bytes(geometry: Geometry, prompts: Sequence[int], dtype: torch.dtype, rows: int | None = None) -> int:
    """Bytes of keys and values that a full cache holds for prompts of these lengths, once `rows` rows of each picture
    are drawn, all by default."""
    tokens = sum(geometry.cached_tokens(prompt, rows) for prompt in prompts)
    return tokens * geometry.layers * geometry.kv_heads * geometry.head_dim * 2 * dtype.itemsize


def plan(
    model: ImageModel,
    policy: Policy | None = None,
    images: int = 1,
    prompt: Prompt | int = 24,
    guidance: float = 5.0,
    negative: Prompt | None = None,
    previews: bool = False,
    kv_dtype: str = "auto",
    step: str = "auto",
) -> Memory:
    """What `generate` will hold for `images` pictures of one prompt at once. Allocates nothing and reads no weight.

    prompt, negative, previews, kv_dtype: as `generate` takes them; the prompt may also be a mere count of tokens,
        template and begin-of-image token included.
    step: as `generate` takes it, but that "graph" plans for one on any device, if the policy allows it. It is not known
        here whether weights will be streamed; a plan with a graph is then somewhat too large.
    Raises UserError where the policy cannot work on this model, and for what `generate` would refuse.
    """
    sampling = Sampling(guidance)
    if not isinstance(prompt, int):
        rows = prompt_rows(model, [prompt], images, negative, sampling)
    elif images < 1 or prompt < 2:
        raise UserError(f"A plan takes at least 1 image and a prompt of at least 2 tokens, not {images} and {prompt}.")
    else:
        rows = [[0] * prompt] * images + [[1] * prompt] * (images if sampling.guided else 0)
    policy = (policy or Full()).fit(model)
    return plan_rows(model, policy, rows, sampling, previews, kv_dtype, planned_step(step, model, policy, rows))


def plan_rows(
    model: ImageModel,
    policy: Policy,
    rows: Sequence[Sequence[int]],
    sampling: Sampling,
    previews: bool = False,
    kv_dtype: str = "auto",
    step: str = "plain",
) -> Memory:
    """What drawing these rows will hold, for a policy that is fitted to the model.

    rows: the prompt ids of each row. step: of STEPS, but not auto."""
    check_kv_dtype(kv_dtype, model.device)
    lengths = tuple(map(len, rows)), tuple(sorted(len(ids) for ids in {tuple(ids) for ids in rows}))
    about = (policy, lengths, sampling, previews, kv_dtype, step, model.device, model.dtype)
    known = PLANS.setdefault(model, {})
    if about not in known:
        if len(known) == MOST_PLANS:
            known.clear()
        known[about] = _plan_rows(model, policy, rows, sampling, previews, kv_dtype, step)
    return known[about]


def _plan_rows(
    model: ImageModel,
    policy: Policy,
    rows: Sequence[Sequence[int]],
    sampling: Sampling,
    previews: bool,
    kv_dtype: str,
    step: str,
) -> Memory:
    skeleton, geometry = model.skeleton(), model.geometry
    on_host = sum(map(module_bytes, model.host_parts))
    images = len(rows) // sampling.rows_of_image
    lengths, drawn = [len(ids) for ids in rows], range(geometry.rows + 1)
    a_picture = decoding_bytes(model)
    preview_bytes = a_picture if previews else 0
    with torch.inference_mode(), PeakBytes() as counter:
        cache = prefill(skeleton, policy, rows, kv_dtype=kv_dtype)
        beside = counter.live - cache.bytes  # tables, counted among the weights, and what the host keeps
        prefilling, counter.peak = counter.peak, counter.live
        prefill_bytes = prefilling - counter.live
        by_row = [cache.filled_bytes(row * geometry.columns) for row in drawn]
        turn, fed = Turn(skeleton, sampling, rows, torch.empty(geometry.tokens, images, device="meta")), 0

        def draw(at: int) -> None:
            nonlocal fed
            cache.skip(at - fed)
            turn.draw(cache)
            fed = at + 1

        replan_bytes = 0
        for at in sorted({at for replan in cache.replans() for at in (replan - 1, replan)}):
            shown = counter.live - beside + preview_bytes
            draw(at)
            replan_bytes = max(replan_bytes, shown, max(prefilling, counter.peak) - beside)
            counter.peak = counter.live
        if step in ("kernel", "compiled"):  # the last step is the widest
            cache.skip(geometry.tokens - 1 - fed)
            fixed = fixed_for(model, skeleton, cache, sampling.rows_of_image)
            take = fixed_turn(model, turn, fixed, whole=step == "kernel")
            fixed.advance()
            take()
        else:
            draw(geometry.tokens - 1)
        kv_bytes, bookkeeping_bytes = cache.kv_bytes, cache.bookkeeping_bytes
        step_bytes = counter.peak - beside - cache.bytes
        graph_bytes = captured_bytes(turn, cache, counter) if step == "graph" else 0
        slots, attended = cache.slots_of_first_row(), cache.slots_of_first_row(attended=True)
    # as many pictures at once as fit into what the cache leaves free; on the processor, whose caches they would not fit
    # into together, one after the other is faster
    freed = 0 if model.device.type == "cpu" else kv_bytes + bookkeeping_bytes
    at_once = max(1, min(images, freed // a_picture))
    return Memory(
        kv_bytes=kv_bytes,
        kv_bytes_full=full_bytes(geometry, lengths, model.dtype),
        bookkeeping_bytes=bookkeeping_bytes,
        weights_bytes=module_bytes(skeleton) - on_host,
        prefill_bytes=prefill_bytes,
        step_bytes=step_bytes,
        preview_bytes=preview_bytes,
        picture_bytes=at_once * a_picture,
        pictures_at_once=at_once,
        slots=slots,
        attended=attended,
        kv_bytes_by_row=by_row,
        kv_bytes_full_by_row=[full_bytes(geometry, lengths, model.dtype, row) for row in drawn],
        replan_bytes=replan_bytes,
        host_bytes=on_host + cache.host_bytes,
        graph_bytes=graph_bytes,
    )


def captured_bytes(turn: Turn, cache: SlotCache, counter: PeakBytes) -> int:
    """What a captured turn keeps between tokens; `counter` is on, and the last token was drawn."""
    held = counter.live
    fixed = MaskedCache(cache)
    cache.skip(-1)
    fixed.advance()
    counter.peak = counter.live  # ranking is no part of a graph
    turn.draw(fixed)
    return counter.peak - held


def fixed_for(model: ImageModel, skeleton: ImageModel, cache: SlotCache, rows_of_image: int) -> FixedCache:
    """What a model's slots will be attended by, planned with its skeleton."""
    if model.device.type == "cpu" and is_known(cache):
        if is_taken(model.decoder) and is_taken(skeleton.decoder):
            return DecoderCache(cache, skeleton.decoder, rows_of_image)
        return KernelCache(cache, kernels_on(model.device)[0])
    return MaskedCache(cache)


def fixed_turn(model: ImageModel, turn: Turn, fixed: FixedCache, whole: bool) -> Callable[[], None]:
    """What takes a model's turns, planned with its skeleton's. whole: by a kernel for all of it, where there is one."""
    known = whole and all(is_known_ending(one, turn.sampling) for one in (model, turn.model))
    return TurnKernel(turn, fixed) if known and isinstance(fixed, DecoderCache) else partial(turn.draw, fixed)


def counted(planned: Memory, cache: SlotCache) -> Memory:
    """What was planned, but where a policy has planned anew for all rows, with what its cache holds since."""
    if not cache.replanned:
        return planned
    columns = cache.geometry.columns
    by_row = [cache.filled_bytes(row * columns) for row in range(len(planned.kv_bytes_by_row))]
    return replace(
        planned,
        kv_bytes=cache.kv_bytes,
        bookkeeping_bytes=cache.bookkeeping_bytes,
        slots=cache.slots_of_first_row(),
        attended=cache.slots_of_first_row(attended=True),
        kv_bytes_by_row=by_row,
    )


def largest_batch(
    model: ImageModel,
    policy: Policy | None,
    free_bytes: int,
    prompt: Prompt | int = 24,
    guidance: float = 5.0,
    negative: Prompt | None = None,
    previews: bool = False,
    kv_dtype: str = "auto",
    step: str = "auto",
) -> int:
    """The most images of one prompt that can be drawn at once in `free_bytes`, weights included; 0 if none. What is
    drawn is said as to `plan`."""

    def planned(images: int) -> Memory:
        return plan(model, policy, images, prompt, guidance, negative, previews, kv_dtype, step)

    if planned(1).peak_bytes > free_bytes:
        return 0
    # Painting takes no more than one picture, which fits, or what drawing took.
    return most_images(planned, free_bytes, most_images(growing(planned), free_bytes))


def growing(planned: Callable[[int], Memory], at: Sequence[int] = (SOME,)) -> Callable[[int], Memory]:
    """What so many images take if each part grows from these numbers of them on as it does there, which takes two plans
    each to know. A part is a maximum of sums over the images: it is never less, and often just that."""
    known = {images: (asdict(planned(images)), asdict(planned(images + 1))) for images in at}
    template = planned(at[0])

    def grown(images: int) -> Memory:
        lines = [
            {
                part: held + (images - first) * (more[part] - held)
                for part, held in some.items()
                if isinstance(held, int)
            }
            for first, (some, more) in known.items()
        ]
        return replace(template, **{part: max(line[part] for line in lines) for part in lines[0]})

    return grown


def most_images(planned: Callable[[int], Memory], free_bytes: int, images: int = 1) -> int:
    """How many images can be drawn in `free_bytes`, 1 at least. What drawing takes is a maximum of sums over the
    images, so that following its slope (Newton's method), from any number of them, ends at the answer."""
    while True:
        held, more = planned(images).drawing_bytes, planned(images + 1).drawing_bytes
        if free_bytes < more and (held <= free_bytes or images == 1):
            return images
        images = max(1, images + (free_bytes - held) // (more - held))
