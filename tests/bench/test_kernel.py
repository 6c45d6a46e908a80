from __future__ import annotations

import pytest
import torch

from bench import kernel as command
from ssd_core.cache.cpp_kernel import CppKernel
from ssd_core.cache.kernel_cache import MakeKernel
from ssd_core.models.base import Geometry
from ssd_core.policies import H2O
from tests.cache.kernel_cases import needs_compiler

CPU = torch.device("cpu")


def check_the_bench(device: torch.device, make: MakeKernel) -> None:
    geometry = Geometry(3, 2, 1, 16, 2, 4, 9)
    policy = H2O(6, refresh=2)
    cache = command.filled(geometry, policy, 2, torch.float32, "int8", device, passes=1, prompt=3, turns=1)
    assert len(cache.layers) == 2
    (slots,) = cache.layers[0]
    measured = command.measure(cache, make, passes=1)
    assert slots.held == slots.keep.slots == 6
    assert measured.bytes == 2 * 6 * (2 * 16 + 2 * 2 + 2 * 4)  # of int8 keys and values, their scales, and scores twice
    assert min(measured.plain, measured.called) > 0
    assert (measured.in_graph is not None) == (device.type == "cuda")


@needs_compiler
def test_the_kernel_on_the_processor_is_measured() -> None:
    check_the_bench(CPU, CppKernel)


def test_rows_tell_the_last_path_by_what_it_moves() -> None:
    row = command.line(["tiny", "h2o"], command.Measured(3e-6, 2e-6, 1e-6, 5000), copy=1e10)
    assert row == "| tiny | h2o | 3.0 | 2.0 | 1.0 | 0.01 | 5 | 50% |"
    row = command.line(["tiny", "h2o"], command.Measured(3e-6, 2e-6, None, 8000), copy=1e10)
    assert row == "| tiny | h2o | 3.0 | 2.0 | 0.01 | 4 | 40% |"
    assert command.copied(CPU, 1000) > 0


def test_paths_take_turns() -> None:
    seen: list[int] = []
    passes = command.AT_ONCE + 2
    spent = command.seconds([lambda: seen.append(0), lambda: seen.append(1)], CPU, passes)
    assert seen == [0] * command.AT_ONCE + [1] * command.AT_ONCE + [0, 0, 1, 1]
    assert len(spent) == 2


@needs_compiler
def test_on_the_processor_the_table_has_no_graphs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(command, "geometry_of", lambda name: Geometry(2, 2, 1, 16, 4, 8, 9))
    monkeypatch.setitem(command.METHODS, "h2o 20 %", H2O(30, refresh=4))
    monkeypatch.setattr(command, "copied", lambda device: 1e10)
    command.main(["--models", "Janus-Pro-1B"])
    about, _, head, rule, *rows = capsys.readouterr().out.splitlines()
    assert "float32; a copy moves 10 GB/s" in about
    assert head == "| model | method | batch | kv dtype | plain us | kernel us | MB | GB/s | of a copy |"
    assert {each.count("|") for each in (head, rule, *rows)} == {10}
    wanted = [f"full | {batch} | {kv}" for batch in (1, 4) for kv in ("auto", "int8")]
    assert [row.split(" | ", 1)[1][: len(words)] for row, words in zip(rows, wanted, strict=False)] == wanted
    assert len(rows) == 8


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(command, "copied", lambda device: 1e10)
    with pytest.raises(SystemExit, match="torch sees no GPU here"):
        command.main(["--device", "cuda"])
    with pytest.raises(SystemExit):
        command.main(["--batches", "0"])
    assert "a number, 1 at least, not 0" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="leave them out on the processor"):
        command.main(["--splits", "2"])
    monkeypatch.setattr(command, "why_no_kernel", lambda *sizes: "no compiler")
    with pytest.raises(SystemExit, match=r"The kernel does not run here: no compiler\."):
        command.main([])


def test_janus_pro_has_its_published_sizes() -> None:
    geometry = command.geometry_of("Janus-Pro-7B")
    assert (geometry.layers, geometry.heads, geometry.kv_heads, geometry.head_dim) == (30, 32, 32, 128)
    assert geometry.tokens == 576
