from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from ssd_core.cli.fields import parameters, with_options
from ssd_core.errors import UserError
from ssd_core.heads.headmap import HeadMap
from ssd_core.parameters import descriptions
from ssd_core.policies import METHODS, Keep, Policy
from ssd_core.sampling import Sampling


@dataclass(frozen=True)
class Fancy(Policy):
    """A new policy.

    width: how wide,
        said on two lines.
    every: tokens, or a whole row.
    eager: whether it hurries.
    """

    width: float | int = 0.5
    every: int | Literal["row", "column"] = "row"
    eager: bool | None = None
    share: float = 1.0

    def keeps(self, *_: object) -> Sequence[Sequence[Keep]]:
        raise NotImplementedError


@dataclass(frozen=True)
class Plain:
    """Another.

    share: of something.
    """

    width: int = 3
    share: float | None = None


def run(*args: str) -> dict[str, Any]:
    """What a command with the options of both receives."""
    received: dict[str, Any] = {}
    app = typer.Typer()

    @app.command()
    @with_options(options={"fancy": Fancy, "plain": Plain})
    def command(word: str, options: dict[str, Any], number: int = 1) -> None:
        received.update(options, word=word, number=number)

    result = CliRunner().invoke(app, ["hello", *args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return received


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], {}),
        (["--width", "115"], {"width": 115}),
        (["--width", "0.2"], {"width": 0.2}),
        (["--every", "12"], {"every": 12}),
        (["--every", "column"], {"every": "column"}),
        (["--eager"], {"eager": True}),
        (["--no-eager"], {"eager": False}),
        (["--number", "3"], {"number": 3}),
    ],
)
def test_a_command_receives_the_options_that_were_given(args: list[str], expected: dict[str, Any]) -> None:
    received = run(*args)
    assert received == {"word": "hello", "number": 1} | expected
    assert {type(value) for value in received.values()} == {str, int} | {type(value) for value in expected.values()}


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--width", "wide"], "--width takes a whole number or a number such as 0.2, not 'wide'."),
        (["--every", "tree"], "--every takes a whole number or 'row' or 'column', not 'tree'."),
    ],
)
def test_text_of_no_kind_is_refused(args: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        run(*args)
    assert str(refused.value) == sentence


def test_fields_of_one_name_are_one_option() -> None:
    found = parameters({"fancy": Fancy, "plain": Plain})
    assert list(found) == ["width", "every", "eager", "share"]
    assert found["width"].takers == found["share"].takers == ("fancy", "plain")
    assert found["every"].takers == ("fancy",)
    assert found["width"].kinds == (int, float)
    assert found["width"].about == "how wide, said on two lines; default 0.5"
    assert found["share"].about == "of something"  # from the first that says anything


def test_help_says_what_the_dataclass_says() -> None:
    app = typer.Typer()

    @app.command()
    @with_options(options={"fancy": Fancy})
    def command(options: dict[str, Any]) -> None: ...

    text = " ".join(CliRunner(env={"COLUMNS": "200"}).invoke(app, ["--help"]).output.split())
    assert "how wide, said on two lines; default 0.5 (fancy)" in text
    assert "INTEGER|row|column" in text
    assert "--no-eager" in text


@pytest.mark.parametrize("cls", [*METHODS.values(), Sampling])
def test_every_parameter_can_be_read_from_text(cls: Any) -> None:
    for name, parameter in parameters({"": cls}).items():
        assert parameter.annotation, name
    assert parameters({"": cls}).keys() == {field.name for field in fields(cls)}


@pytest.mark.parametrize("cls", [cls for cls in METHODS.values() if fields(cls)])  # type: ignore[arg-type]
def test_policies_describe_their_budget(cls: type) -> None:
    assert "slots per head" in descriptions(cls)["budget"]


def test_a_head_map_is_read_from_its_file(tmp_path: Any) -> None:
    import torch

    HeadMap(torch.full((2, 4), 0.25)).save(tmp_path / "map")
    [parameter] = [parameter for name, parameter in parameters(METHODS).items() if name == "head_map"]
    assert parameter.read(str(tmp_path / "map")).share.tolist() == [[0.25] * 4] * 2
    with pytest.raises(UserError, match="There is no head map"):
        parameter.read(str(tmp_path / "absent"))
