"""The attention kernel for the processor, in C++."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from ..errors import UserError
from ..native.build import MOST_DIM, WIDE, loaded
from ..rounding import rounded_up
from .cache import SlotCache
from .rank_kernel import rank_kernel_for
from .ranked import RankedSlots

ROOM = 16 * WIDE  # slots, or a multiple of it: a step that is compiled for some is so for a few more


class CppKernel:
    """The kernel for one drawing, and the room that its layers share. From now on its slots are ranked by one, too."""

    def __init__(self, cache: SlotCache, pairs: int, slots: int, scored: bool) -> None:
        """pairs: of each layer. slots: the most that a pair has. scored: whether any keeps scores, which makes no
        difference here: there is room for the weights of all slots.

        Raises UserError for heads that are too wide, but not on the meta device, where nothing is computed."""
        geometry = cache.geometry
        self.dtypes = cache.dtype, cache.kind or cache.dtype
        widest = rounded_up(slots, ROOM)
        self.sizes = [pairs, geometry.heads, geometry.kv_heads, geometry.head_dim, widest]
        self.room = torch.empty(torch.get_num_threads(), widest, dtype=torch.float32, device=cache.device)
        if geometry.head_dim > MOST_DIM and not self.room.is_meta:
            raise UserError(
                f"The attention kernel takes heads of {MOST_DIM} numbers at most, not of {geometry.head_dim}; "
                "draw with a plain step."
            )
        for own in chain(*cache.layers):
            if type(own) is RankedSlots:
                own.kernel = rank_kernel_for(own, self.dtypes)

    @property
    def nbytes(self) -> int:
        return self.room.nbytes

    @property
    def about(self) -> object:
        return self.dtypes, self.sizes

    def __call__(self, qkv: Tensor, answers: Tensor, table: Tensor, state: Tensor) -> None:
        """Store the newest token of every pair of a layer, and answer its queries.

        qkv [B, 1, heads + 2 * kv_heads, D] and answers [B, 1, heads, D], contiguous; table and state: see table.py.
        """
        if qkv.is_meta:  # nothing but memory is counted
            return
        if torch.compiler.is_compiling():
            attend_pairs(qkv, answers, table, state, self.room, *self.dtypes, self.sizes)
        else:
            run(qkv, answers, table, state, self.room, *self.dtypes, self.sizes)


def run(
    qkv: Tensor,
    answers: Tensor,
    table: Tensor,
    state: Tensor,
    room: Tensor,
    dtype: torch.dtype,
    stored: torch.dtype,
    sizes: Sequence[int],
) -> None:
    """The call itself. room: float32 [threads, slots, rounded up to whole vectors]; sizes: pairs, heads, kv_heads,
    head_dim and room for slots."""
    addresses = (part.data_ptr() for part in (qkv, answers, table, state, room))
    loaded(dtype, stored).attend_pairs(*addresses, *sizes, len(room))


# `run`, as an operator that torch.compile leaves as it is. It does not say that slots are written, too: nothing else in
# a step looks at these. Its name has the module's in it: ComfyUI's pack may be a second copy of the package, beside one
# that is installed, and torch forgets an operator when another takes its name.
attend_pairs = torch.library.custom_op(re.sub(r"\W", "_", __name__) + "::attend_pairs", run, mutates_args=("answers",))
