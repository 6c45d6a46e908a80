from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ssd_core import ADSA, SSD, Full, UserError, clock, encode, generate, loop
from ssd_core.cache import storage
from ssd_core.cache.attention import attend_slots
from ssd_core.cache.cache import PromptCache, SlotCache
from ssd_core.errors import OutOfMemoryError
from ssd_core.loop import GREY, paint
from ssd_core.memory import PeakBytes
from ssd_core.step import prefill
from ssd_core.tokens import UNDRAWN
from tests.table import HEADS, OUT_OF_MEMORY, WARM, check_sentence, model_of, tensors_of
from tests.tiny import TinyModel


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        ({"prompts": "a red circle"}, "prompts is a list"),
        ({"prompts": []}, "prompts is a list"),
        ({"images_per_prompt": 0}, "images_per_prompt is at least 1, not 0"),
        ({"guidance": 1.0, "negative": "blurry"}, "raise guidance or leave it out"),
        ({"prompts": [[0]]}, "at least 2"),
        ({"prompts": [[0, 40]]}, r"each in 0\.\.39"),
        ({"prompts": [[0, -1, 2]]}, r"each in 0\.\.39"),
        ({"negative": [0]}, "at least 2"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments: dict[str, Any], about: str) -> None:
    with pytest.raises(UserError, match=about) as refusal:
        generate(model_of(), **({"prompts": ["ab"]} | arguments))
    check_sentence(refusal.value)


def test_a_prompt_may_be_given_as_its_ids() -> None:
    model = model_of()
    by_ids = generate(model, [model.encode("abc")], negative=model.encode("x")).tokens
    assert by_ids.equal(generate(model, ["abc"], negative="x").tokens)
    assert not by_ids.equal(generate(model, ["abc"]).tokens)


def test_each_parameter_changes_the_picture() -> None:
    model = model_of()
    changes: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        {"guidance": 3.0},
        {"temperature": 4.0},
        {"top_k": 2},
        {"top_p": 0.7},
        {"temperature": 1.0, "greedy": True},
        {"negative": "xyz"},
        {"kv_dtype": "fp8"},
        {"policy": SSD(7, literal=True, head_map=HEADS)},
    ]
    usual = {"temperature": WARM, "guidance": 2.0}
    drawn = [generate(model, ["abc"], **(usual | change)).tokens[0] for change in changes]
    assert len({tuple(tokens.tolist()) for tokens in drawn}) == len(changes)


def test_what_comes_back() -> None:
    model = model_of()
    drawn = generate(model, ["ab", "c"], images_per_prompt=2)
    assert drawn.tokens.shape == (4, model.geometry.tokens)
    assert drawn.images.shape == (4, 6, 8, 3)
    assert drawn.images.dtype is torch.float32
    assert drawn.images.equal(model.decode_image(drawn.tokens))
    seconds = drawn.timing.decode
    assert drawn.tokens_per_second == pytest.approx(4 * model.geometry.tokens / seconds)
    stopped = generate(model, ["ab"], on_row=lambda *_: True)
    assert stopped.tokens_per_second == pytest.approx(model.geometry.columns / stopped.timing.decode)


@pytest.mark.parametrize("at_once", [1, 2, 3, 9])
def test_pictures_are_the_same_in_any_chunks(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, chunks = model_of(), list[int]()
    tokens = torch.randint(20, (5, model.geometry.tokens), generator=torch.Generator().manual_seed(0))
    whole, plain = model.decode_image(tokens), TinyModel.decode_image

    def decode(self: TinyModel, part: Tensor) -> Tensor:
        chunks.append(len(part))
        return plain(self, part)

    monkeypatch.setattr(TinyModel, "decode_image", decode)
    assert paint(model, tokens, at_once).equal(whole)
    assert max(chunks) == min(at_once, 5)
    tokens[1, 6:] = UNDRAWN
    pictures = paint(model, tokens, at_once)
    assert pictures[[0, 2, 3, 4]].equal(whole[[0, 2, 3, 4]])
    # 6 tokens are a row of 4, and 2 of the next
    expected = whole[1].clone()
    expected[2:4, 4:] = expected[4:] = GREY
    assert pictures[1].equal(expected)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["CUDA", "MPS", "Linux", "Windows"])
@pytest.mark.parametrize("where", ["prefill", "step"])
def test_running_out_of_memory_is_explained_and_gives_everything_back(
    where: str, error: RuntimeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tensors = model_of(), list[weakref.ref[Tensor]]()
    plain_fill, answers = SlotCache.fill, 0

    def fill(cache: SlotCache, length: int, prompts: PromptCache, prompt_of_row: dict[int, int]) -> None:
        plain_fill(cache, length, prompts, prompt_of_row)
        if prompts.keys[0].device.type != "meta":
            tensors.extend(weakref.ref(part) for layer in cache.layers for own in layer for part in tensors_of(own))
            if where == "prefill":
                raise error

    def attend(q: Tensor, keys: Tensor, values: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        nonlocal answers
        answers += q.device.type != "meta"
        if where == "step" and answers > 9:
            raise error
        return attend_slots(q, keys, values, *rest)

    monkeypatch.setattr(SlotCache, "fill", fill)
    monkeypatch.setattr(storage, "attend_slots", attend)
    with pytest.raises(
        OutOfMemoryError, match=r"2 images at once take .* GiB, .* draw fewer at once or lower"
    ) as refusal:
        generate(model, ["ab"], SSD(12, head_map=HEADS), images_per_prompt=2, step="plain")
    check_sentence(refusal.value)
    assert tensors
    gc.collect()
    # though the refusal, and with it the first error and its traceback, is still held
    assert all(tensor() is None for tensor in tensors)


def test_running_out_of_memory_tells_the_host_s_part(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OUT_OF_MEMORY[0]

    monkeypatch.setattr(loop, "prefill", fail)
    policy = ADSA(9, refresh=2, recent=2, offload=True)
    with pytest.raises(
        OutOfMemoryError, match=r"GiB of it for keys and values, and 0.00 GiB of the host's;"
    ) as refusal:
        generate(model_of(), ["ab"], policy)
    check_sentence(refusal.value)


def test_other_errors_pass_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(loop, "prefill", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        generate(model_of(), ["ab"])


def test_the_speed_is_that_of_drawing_and_the_same_all_along(monkeypatch: pytest.MonkeyPatch) -> None:
    model, now = model_of(), 0.0
    columns, tokens = model.geometry.columns, model.geometry.tokens
    told: list[float | None] = []

    def check() -> None:
        nonlocal now
        now += 1.0

    def on_row(*given: Any) -> None:
        nonlocal now
        now += 100.0  # making previews, say
        told.append(given[3])

    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now))
    start, keep = torch.zeros(1, tokens, dtype=torch.int64), torch.arange(tokens) < columns
    drawn = generate(model, ["ab"], images_per_prompt=2, start=start, keep=keep, on_row=on_row, check=check)
    # a second before the prompts, one each token, one before each picture
    assert drawn.timing == clock.Timing(1 + columns, tokens - columns, 2)
    assert told == [None, 2.0, 2.0]
    assert drawn.tokens_per_second == 2.0


def test_prompts_and_pictures_are_checked_chunk_by_chunk() -> None:
    model, calls = model_of(), list[None]()
    images = torch.rand(3, *model.picture_size, 3)

    def check() -> None:
        calls.append(None)

    paint(model, torch.zeros(5, model.geometry.tokens, dtype=torch.int64), 2, check)
    assert len(calls) == 3
    encode(model, images, check)
    assert len(calls) == 6
    with torch.inference_mode():
        prefill(model, Full(), [[0, 1, 2], [0, 2], [0, 3]], check)
    assert len(calls) == 8


def test_what_the_check_raises_ends_the_drawing_and_gives_the_cache_back() -> None:
    class StopError(BaseException):
        """As ComfyUI's interruption: no Exception."""

    model, calls = model_of(), 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise StopError

    with PeakBytes() as counter, pytest.raises(StopError):
        generate(model, ["ab"], check=check)
    gc.collect()
    assert counter.live == 0
    assert calls == 6
