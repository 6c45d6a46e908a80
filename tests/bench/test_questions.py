"""The variants of SSD that only the measuring knows."""

from __future__ import annotations

import torch

from bench.quality import questions
from bench.quality.questions import OnlineTypes, SharedScores
from ssd_core import SSD, generate
from ssd_core.cache.ranked import RankedSlots
from ssd_core.prompts import prompt_rows
from ssd_core.sampling import Sampling
from ssd_core.step import ImageEmbedder, feed, prefill
from tests.table import HEADS, WARM
from tests.tiny import TinyModel, random_map, tiny
from tests.views import view_of


def positions(policy: SSD, model: TinyModel, tokens: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of each group of ranked slots, what the conditional rows hold in the end and what the others do."""
    rows = prompt_rows(model, ["abc"], len(tokens), None, Sampling(3.0))
    with torch.inference_mode():
        cache = prefill(model, policy, rows)
        embed = ImageEmbedder(model)
        x = model.embed_text(torch.tensor([ids[-1:] for ids in rows]))[:, 0]
        for at in range(tokens.shape[1]):
            feed(model, cache, x, torch.full((len(rows), 1), len(rows[0]) - 1 + at))
            x = embed(tokens[:, at].repeat(2))
        ranked = [slots for layer in cache.layers for slots in layer if isinstance(slots, RankedSlots)]
        return [tuple(slots.positions().sort(1).values.chunk(2)) for slots in ranked]  # type: ignore[misc]


def test_rows_that_share_scores_hold_the_same_tokens() -> None:
    model = tiny(rows=6, columns=4)
    tokens = generate(model, ["abc"], SSD(12, head_map=HEADS), 2, guidance=3.0, temperature=WARM).tokens
    shared = positions(SharedScores(12, refresh=1, recent=0, head_map=HEADS), model, tokens)
    own = positions(SSD(12, refresh=1, recent=0, head_map=HEADS), model, tokens)
    assert all(conditional.equal(other) for conditional, other in shared)
    assert not all(conditional.equal(other) for conditional, other in own)
    assert any(not one[0].equal(other[0]) for one, other in zip(shared, own, strict=True))


def test_a_head_is_semantic_online_if_its_queries_look_beyond_the_neighbourhood() -> None:
    policy = OnlineTypes(12, head_map=HEADS)
    position, pinned, columns = list(range(12)), 2, 2  # the neighbourhood is the newest 4 image tokens
    for seen, kind in ((11, 0), (9, 0), (6, 1), (3, 1)):
        keys = [[9.0 * (place == seen)] for place in position]
        view = view_of(position, keys=keys, queries=[[[1.0]]], columns=columns, pinned=pinned)
        assert policy.choose(view).tolist() == [kind], seen
    evenly = view_of(position, keys=[[0.0]] * 12, queries=[[[1.0]]], columns=columns, pinned=pinned)  # 6 of 10 outside
    assert policy.choose(evenly).tolist() == [1]
    assert OnlineTypes(12, tau=0.7, head_map=HEADS).choose(evenly).tolist() == [0]


def test_typed_heads_have_the_slots_of_their_type_in_the_map() -> None:
    model = tiny(rows=8, columns=4)
    policy = OnlineTypes(14, refresh=2, head_map=random_map(model.geometry))
    sizes = {keep for layer in SSD(14, head_map=policy.head_map).keeps(model.geometry, 4) for keep in layer}
    result = generate(model, ["ab"], policy, temperature=WARM)
    held = {slots for layer in result.memory.slots for slots in layer}
    assert held <= {keep.slots for keep in sizes}
    assert len(held) == 2
    assert max(held) < questions.TYPED_AFTER * 4 + 4  # slots really shrank
