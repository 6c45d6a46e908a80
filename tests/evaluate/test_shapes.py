"""The scorer against rendered truth: right pictures are right, and whatever differs in one respect is wrong."""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from scipy.ndimage import gaussian_filter

from ssd_core.errors import UserError
from ssd_core.evaluate.captions import parse
from ssd_core.evaluate.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZE, TASKS, Scene, Thing, render, sample
from ssd_core.evaluate.shapes import ShapesScore, Verdict, held_out_prompts, judge, score, score_folder

Picture = NDArray[np.uint8]


def scenes(count: int, seed: int = 0) -> list[Scene]:
    """As many scenes of each task, every second one of a combination kept for evaluation."""
    rng = random.Random(seed)
    return [sample(rng, task=TASKS[i % 6], evaluation=i // 6 % 2 == 0) for i in range(count)]


def blurred(picture: Picture) -> Picture:
    return np.rint(gaussian_filter(picture.astype(float), (1, 1, 0))).astype(np.uint8)


def noisy(picture: Picture) -> Picture:
    noise = np.random.default_rng(int(picture.sum())).normal(0, 8, picture.shape)
    return np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("damage", "count"), [(np.asarray, 600), (lambda picture: noisy(blurred(picture)), 240)])
def test_rendered_scenes_are_right(damage: Callable[[Picture], Picture], count: int) -> None:
    truth = scenes(count)
    result = score([damage(render(scene)) for scene in truth], [scene.caption for scene in truth])
    assert set(result.accuracy) == set(TASKS)
    assert min(result.accuracy.values()) >= 0.99, [verdict for verdict in result.verdicts if not verdict.right]


def other(rng: random.Random, choices: Iterable[str], than: str) -> str:
    return rng.choice([choice for choice in choices if choice != than])


def wrong_colour(rng: random.Random, scene: Scene) -> Scene | None:
    if parse(scene.caption).objects[0].colour is None:
        return None
    first, *rest = scene.things
    return replace(scene, things=(replace(first, colour=other(rng, COLOURS, first.colour)), *rest))


def wrong_shape(rng: random.Random, scene: Scene) -> Scene:
    *rest, last = scene.things
    return replace(scene, things=(*rest, replace(last, shape=other(rng, SHAPES, last.shape))))


def one_missing(rng: random.Random, scene: Scene) -> Scene:
    return replace(scene, things=scene.things[1:])


def one_too_many(rng: random.Random, scene: Scene) -> Scene | None:
    taken = {(thing.top // 12, thing.left // 12) for thing in scene.things}
    if scene.task in ("single", "colours") or len(taken) == 4:
        return None
    row, column = next((row, column) for row in (0, 1) for column in (0, 1) if (row, column) not in taken)
    extra = replace(rng.choice(scene.things), top=12 * row, left=12 * column)
    return replace(scene, things=(*scene.things, extra))


def swapped_objects(rng: random.Random, scene: Scene) -> Scene | None:
    first, second, *_ = parse(scene.caption).objects * 2
    if scene.task != "position" or first == second:
        return None
    a, b = scene.things
    swapped = (replace(a, shape=b.shape, colour=b.colour), replace(b, shape=a.shape, colour=a.colour))
    return replace(scene, things=swapped)


def swapped_colours(rng: random.Random, scene: Scene) -> Scene | None:
    if scene.task != "attributes" or scene.things[0].colour == scene.things[1].colour:
        return None
    a, b = scene.things
    if a.shape == b.shape:
        return None
    return replace(scene, things=(replace(a, colour=b.colour), replace(b, colour=a.colour)))


def wrong_background(rng: random.Random, scene: Scene) -> Scene | None:
    if "background" not in scene.caption:
        return None
    return replace(scene, background=other(rng, BACKGROUNDS, scene.background))


@pytest.mark.parametrize(
    "alter",
    [
        wrong_colour,
        wrong_shape,
        one_missing,
        one_too_many,
        swapped_objects,
        swapped_colours,
        wrong_background,
    ],
)
def test_scenes_that_differ_in_one_respect_are_wrong(alter: Callable[[random.Random, Scene], Scene | None]) -> None:
    rng = random.Random(1)
    altered: list[Scene] = []
    while len(altered) < 100:
        scene = alter(rng, sample(rng, evaluation=rng.random() < 0.5))
        if scene is not None:
            altered.append(scene)
    taken_for_right = [scene for scene in altered if judge(blurred(render(scene)), scene.caption).right]
    assert len(taken_for_right) <= 1, taken_for_right


def blob(rng: np.random.Generator) -> Picture:
    """A blue splash with five to seven arms on white."""
    centre = np.arange(SIZE) - SIZE / 2
    angle = np.arctan2(centre[:, None], centre[None, :])
    arms = rng.integers(5, 8)
    edge = 16 * (1 + 0.4 * np.cos(arms * angle + rng.uniform(0, 6)) + 0.15 * np.cos(2 * angle + rng.uniform(0, 6)))
    covered = np.hypot(centre[:, None], centre[None, :]) < edge
    return np.where(covered[:, :, None], COLOURS["blue"], BACKGROUNDS["white"]).astype(np.uint8)


def noise(rng: np.random.Generator) -> Picture:
    return rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)


def noise_on_white(rng: np.random.Generator) -> Picture:
    return np.where(rng.random((SIZE, SIZE, 1)) < 0.4, noise(rng), 250).astype(np.uint8)


def blank(rng: np.random.Generator) -> Picture:
    return np.broadcast_to(np.array(rng.choice(list(BACKGROUNDS.values())), np.uint8), (SIZE, SIZE, 3))


@pytest.mark.parametrize("draw", [blob, noise, noise_on_white, blank])
def test_pictures_of_nothing_are_wrong(draw: Callable[[np.random.Generator], Picture]) -> None:
    rng = np.random.default_rng(0)
    for caption in [f"a {shape}" for shape in SHAPES] * 6 + held_out_prompts(24):
        assert not judge(draw(rng), caption).right


def picture(*things: tuple[str, str, int, int], background: str = "white") -> Picture:
    return render(Scene("", "", background, tuple(Thing(*thing, size=6) for thing in things)))


RED_RING, BLUE_RING = ("ring", "red", 2, 2), ("ring", "blue", 14, 2)
GREEN_SQUARE, BLUE_CROSS = ("square", "green", 14, 14), ("cross", "blue", 2, 14)
A_LITTLE_RIGHT = ("cross", "green", 14, 4)


@pytest.mark.parametrize(
    ("things", "caption", "reason"),
    [
        ([RED_RING], "a ring", ""),
        ([RED_RING], "a red ring on a white background", ""),
        ([RED_RING], "a red ring on a grey background", "expected a grey background, found white"),
        ([RED_RING], "a blue ring", "expected 1 blue ring, found 1 red ring"),
        ([RED_RING], "a square", "expected 1 square, found 1 ring"),
        ([], "a square", "expected 1 square, found nothing"),
        ([RED_RING, BLUE_RING], "two rings", ""),
        ([RED_RING, BLUE_RING], "two red rings", "expected 2 red rings, found 1 red ring and 1 blue ring"),
        ([RED_RING, BLUE_RING], "three rings", "expected 3 rings, found 2 rings"),
        ([RED_RING, BLUE_CROSS], "a ring", "expected 1 ring, found 1 ring and 1 cross"),
        ([RED_RING, GREEN_SQUARE], "a square and a ring", ""),
        ([RED_RING, GREEN_SQUARE], "a ring left of a square", ""),
        ([RED_RING, GREEN_SQUARE], "a ring above a square", ""),
        ([RED_RING, GREEN_SQUARE], "a ring below a square", "the ring is not below the square"),
        (
            [RED_RING, GREEN_SQUARE],
            "a red ring right of a green square",
            "the red ring is not right of the green square",
        ),
        ([RED_RING, A_LITTLE_RIGHT], "a ring above a cross", ""),
        ([RED_RING, A_LITTLE_RIGHT], "a ring left of a cross", "the ring is not left of the cross"),
        ([RED_RING, BLUE_RING], "a blue ring below a red ring", ""),
        ([RED_RING, BLUE_RING], "a ring below a ring", ""),
        ([RED_RING, BLUE_RING], "a ring left of a ring", "the ring is not left of the ring"),
    ],
)
def test_the_reason_says_what_is_wrong(things: list[tuple[str, str, int, int]], caption: str, reason: str) -> None:
    assert judge(picture(*things), caption) == Verdict(caption, parse(caption).task, reason)


def test_what_looks_like_nothing_is_named_odd() -> None:
    shown = picture(RED_RING, BLUE_RING)
    shown[20:, :16] = BACKGROUNDS["white"]
    shown[8:20, 8:20] = COLOURS["green"]
    assert judge(shown, "a red circle").reason.endswith("and 1 blue odd shape")
    assert "1 odd-coloured odd shape" in judge(shown, "a red circle").reason


def test_each_task_counts_the_same() -> None:
    result = ShapesScore(
        (
            Verdict("a ring", "single", ""),
            Verdict("a ring", "single", ""),
            Verdict("a ring", "single", "no plain background"),
            Verdict("a red ring", "colours", "no plain background"),
        )
    )
    assert result.accuracy == {"single": pytest.approx(2 / 3), "colours": 0}
    assert result.overall == pytest.approx(1 / 3)


def test_pictures_and_captions_must_pair_up() -> None:
    with pytest.raises(UserError, match="2 pictures cannot be scored with 1 captions"):
        score([picture(RED_RING)] * 2, ["a ring"])
    with pytest.raises(UserError, match="no pictures"):
        score([], [])


def test_held_out_prompts_are_spread_over_the_tasks_and_were_never_trained_on() -> None:
    prompts = held_out_prompts(120)
    assert Counter(parse(prompt).task for prompt in prompts) == dict.fromkeys(TASKS, 20)
    rng = random.Random(0)
    assert not {sample(rng).caption for _ in range(3000)} & set(prompts)


def test_held_out_prompts_repeat_only_what_is_exhausted() -> None:
    counts = Counter(held_out_prompts(600))
    for task in TASKS:
        often = [count for prompt, count in counts.items() if parse(prompt).task == task]
        assert max(often) - min(often) <= 1  # none again before all others
    assert max(count for prompt, count in counts.items() if parse(prompt).task in ("position", "attributes")) == 1


def test_held_out_prompts_hang_on_the_seed_alone() -> None:
    assert held_out_prompts(60) == held_out_prompts(120)[:60] == held_out_prompts(60, seed=0)
    assert held_out_prompts(60) != held_out_prompts(60, seed=1)


def save(path: Path, shown: Picture, prompt: str | None = None) -> None:
    text = PngImagePlugin.PngInfo()
    if prompt:
        text.add_text("prompt", prompt)
    Image.fromarray(shown).save(path, pnginfo=text)


def list_prompts(folder: Path, prompts: dict[str, str]) -> None:
    lines = [json.dumps({"file": file, "prompt": prompt}) for file, prompt in prompts.items()]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_a_folder_is_scored_by_its_pictures_own_prompts(tmp_path: Path) -> None:
    save(tmp_path / "b.png", picture(RED_RING), "a square")
    save(tmp_path / "a.png", picture(RED_RING), "a ring")
    result = score_folder(tmp_path)
    assert [(verdict.caption, verdict.right) for verdict in result.verdicts] == [("a ring", True), ("a square", False)]


def test_a_folders_list_goes_before_the_pictures_texts(tmp_path: Path) -> None:
    save(tmp_path / "a.png", picture(RED_RING), '{"3": {"class_type": "KSampler"}}')  # as ComfyUI saves
    save(tmp_path / "b.png", picture(RED_RING), "a ring")
    list_prompts(tmp_path, {"a.png": "a red ring"})
    assert [verdict.caption for verdict in score_folder(str(tmp_path)).verdicts] == ["a red ring", "a ring"]


def test_what_a_folder_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no PNG files"):
        score_folder(tmp_path)
    save(tmp_path / "a.png", picture(RED_RING))
    with pytest.raises(UserError, match=r"a\.png: .*no line in prompts\.jsonl"):
        score_folder(tmp_path)
    list_prompts(tmp_path, {"a.png": "a ring", "b.png": "a ring"})
    with pytest.raises(UserError, match=r"names b\.png, which is not in"):
        score_folder(tmp_path)
    list_prompts(tmp_path, {"a.png": "a dog"})
    with pytest.raises(UserError, match=r"a\.png: 'a dog' is no caption"):
        score_folder(tmp_path)
    (tmp_path / "prompts.jsonl").write_text('{"file": "a.png"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"Line 1 of prompts\.jsonl"):
        score_folder(tmp_path)


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a\.png cannot be read"):
        score_folder(tmp_path)


def test_a_list_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match=r"prompts\.jsonl"):
        score_folder(tmp_path)


def test_a_picture_may_end_in_capitals(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "a red circle")
    scene = Scene("colours", "a red circle", "white", (Thing("circle", "red", 8, 8, 8),))
    Image.fromarray(render(scene)).save(tmp_path / "A.PNG", "PNG", pnginfo=info)
    assert [verdict.right for verdict in score_folder(tmp_path).verdicts] == [True]
