"""How the kernel in C++ is compiled and kept, with scripts in the compiler's place and with the compiler itself."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from ssd_core.cache.kernel_cache import failure, why_no_kernel
from ssd_core.errors import UserError
from ssd_core.models.base import Geometry
from ssd_core.native import build
from ssd_core.native.build import compiled, compiler, folder, loaded, openmp_among
from tests.cache.kernel_cases import needs_compiler
from tests.table import check_sentence

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="takes Linux: elsewhere there is no such kernel")
FAILS = "echo In file included from here: >&2; echo 'kernel.cpp:7:1: error: not for you' >&2; echo more >&2; exit 1"
WRITES = 'for last; do :; done; echo "$@" > "$last"'  # no library, but a file where it would be
CPU, SMALL = torch.device("cpu"), Geometry(1, 2, 2, 16, 1, 3, 1)
FakeCompiler = Callable[[str], Path]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for compiled kernels in which there are none, and nothing is known of earlier ones."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    loaded.cache_clear()
    failure.cache_clear()
    yield tmp_path / "cache" / "ssd-janus"
    loaded.cache_clear()
    failure.cache_clear()


@pytest.fixture
def fake(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    """Makes CXX name a script with these lines; what it was called with stands in the file that comes back."""

    def make(lines: str) -> Path:
        script, calls = tmp_path / "fake c++", tmp_path / "calls"
        script.write_text(f"#!/bin/sh\necho \"$*\" >> '{calls}'\n{lines}\n")
        script.chmod(0o700)
        monkeypatch.setenv("CXX", f"'{script}' -fake")
        return calls

    return make


def told() -> str:
    """What the user reads."""
    with pytest.raises(UserError) as e:
        loaded(torch.float32, torch.float32)
    check_sentence(e.value)
    return str(e.value)


def test_a_compiler_is_called_once(fake: FakeCompiler, home: Path) -> None:
    calls = fake(WRITES)
    library = compiled("Float", "Int8")
    assert library.parent == home
    assert re.fullmatch(r"kernels-float-int8-[0-9a-f]{16}\.so", library.name)
    assert library == compiled("Float", "Int8")
    (call,) = calls.read_text().splitlines()
    assert call.startswith("-fake ")
    assert call.endswith(library.name)
    for word in (*build.FLAGS, "-DNUMBER=Float", "-DSTORED=Int8", str(build.SOURCE)):
        assert f" {word} " in call
    assert [*home.iterdir()] == [library]  # and nothing beside it


def test_what_the_library_depends_on_is_in_its_name(
    fake: FakeCompiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake(WRITES)
    changed = tmp_path / "changed.cpp"
    changed.write_text(build.SOURCE.read_text() + "// changed\n")
    same = tmp_path / "same.cpp"
    same.write_text(changed.read_text() + "// once more\n")
    libraries = [compiled("Float", "Float"), compiled("Float", "Int8"), compiled("Float16", "Int8")]
    for name, value in (
        ("processor", lambda: "another one"),
        ("FLAGS", (*build.FLAGS, "-g")),
        ("openmp", list),
        ("SOURCE", changed),
    ):
        monkeypatch.setattr(build, name, value)
        libraries.append(compiled("Float", "Float"))
    changed.write_text(same.read_text())
    libraries.append(compiled("Float", "Float"))
    monkeypatch.setenv("CXX", os.environ["CXX"] + " -more")
    libraries.append(compiled("Float", "Float"))
    assert len({*libraries}) == 9
    assert all(library.exists() for library in libraries)


def test_the_folder_is_the_users_alone(fake: FakeCompiler, home: Path) -> None:
    fake(WRITES)
    compiled("Float", "Float")
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_where_the_folder_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/else")
    assert folder() == Path("/somewhere/else/ssd-janus")
    for nothing in ("", "not/absolute"):
        monkeypatch.setenv("XDG_CACHE_HOME", nothing)
        assert folder() == Path("/home/someone/.cache/ssd-janus")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert folder() == Path("/home/someone/.cache/ssd-janus")


def test_threads_at_once_are_harmless(fake: FakeCompiler, home: Path) -> None:
    """One of them may find a whole library, or none, but never a part."""
    calls = fake(f'{WRITES}; sleep 0.3; echo whole >> "$last"')
    with ThreadPoolExecutor(4) as pool:
        libraries = {*pool.map(lambda _: compiled("Float", "Float").read_text()[-7:], range(4))}
    assert libraries == {"\nwhole\n"}
    assert len(calls.read_text().splitlines()) > 1
    assert len([*home.iterdir()]) == 1


@needs_compiler
def test_processes_at_once_are_harmless_and_share_the_threads_of_torch(home: Path) -> None:
    code = (
        "import torch; from pathlib import Path; from ssd_core.native.build import loaded;"
        "torch.ones(100000).sum(); print(loaded(torch.float32, torch.int8).decode.__name__);"
        "maps = Path('/proc/self/maps').read_text().split();"
        "print(len({word for word in maps if Path(word).name.startswith(('libgomp', 'libomp', 'libiomp'))}))"
    )
    root = Path(__file__).parents[2]
    both = [
        subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True)  # noqa: S603
        for _ in range(2)
    ]
    assert [process.communicate()[0] for process in both] == ["decode\n1\n"] * 2
    assert len([*home.iterdir()]) == 1


@needs_compiler
def test_the_compiler_that_there_is_makes_a_kernel_that_works(home: Path) -> None:
    assert why_no_kernel(CPU, SMALL, torch.float32) is None
    (library,) = home.iterdir()
    made = library.stat().st_mtime_ns
    loaded.cache_clear()
    failure.cache_clear()
    assert why_no_kernel(CPU, SMALL, torch.float32) is None
    assert library.stat().st_mtime_ns == made


def test_the_first_compiler_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="takes a C\\+\\+ compiler; install g\\+\\+"):
        compiler()
    for name in ("c++", "g++"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o700)
        assert compiler() == [str(tmp_path / name)]
    monkeypatch.setenv("CXX", "ccache 'my g++' -m64")
    assert compiler() == ["ccache", "my g++", "-m64"]


def without_compiler(fake: FakeCompiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def without_the_named_one(fake: FakeCompiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")


def without_permission(fake: FakeCompiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(FAILS)
    (tmp_path / "fake c++").chmod(0o600)


def with_half_a_quotation(fake: FakeCompiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "'g++")


def with_errors(fake: FakeCompiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(FAILS)


def with_errors_in_german(fake: FakeCompiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    fake('[ "$LC_ALL" = C ] || { echo "kernel.cpp:7:1: Fehler: nicht für dich" >&2; exit 1; }\n' + FAILS)


def with_bytes(fake: FakeCompiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake("printf '\\377: error: what is that\\n' >&2; exit 1")


def with_other_words(fake: FakeCompiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake("echo >&2; echo 'ld: cannot find -lgomp' >&2; exit 2")


def in_silence(fake: FakeCompiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake("exit 3")


def without_a_result(fake: FakeCompiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake("exit 0")


def with_another_result(fake: FakeCompiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(WRITES)


def without_a_folder(fake: FakeCompiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(WRITES)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))


def without_linux(fake: FakeCompiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(WRITES)
    monkeypatch.setattr(Path, "exists", lambda self: False)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (without_compiler, r"The attention kernel takes a C\+\+ compiler; install g\+\+\."),
        (
            without_the_named_one,
            r"The C\+\+ compiler /nowhere/g\+\+ cannot be run \(No such file or directory\); install g\+\+, .*",
        ),
        (
            without_permission,
            r"The C\+\+ compiler .*/fake c\+\+ cannot be run \(Permission denied\); install g\+\+, .*",
        ),
        (
            with_half_a_quotation,
            r"CXX, \"'g\+\+\", is no command \(No closing quotation\); let it name a C\+\+ compiler\.",
        ),
        (
            with_errors,
            r".*/fake c\+\+ does not compile the attention kernel \(kernel\.cpp:7:1: error: not for you\); install .*",
        ),
        (
            with_errors_in_german,
            r".* does not compile the attention kernel \(kernel\.cpp:7:1: error: not for you\); .*",
        ),
        (with_bytes, r".* does not compile the attention kernel \(.: error: what is that\); install another g\+\+, .*"),
        (with_other_words, r".* does not compile the attention kernel \(ld: cannot find -lgomp\); install another .*"),
        (in_silence, r".* does not compile the attention kernel \(it says nothing\); install another .*"),
        (without_a_result, r"The attention kernel cannot be kept in .*/ssd-janus \(No such file or directory\); .*"),
        (with_another_result, r"The compiled attention kernel cannot be loaded \(.*\.so: .*\); delete that file, .*"),
        (without_a_folder, r"The attention kernel cannot be kept in .*/file/ssd-janus \(Not a directory\); let XDG_.*"),
        (without_linux, r"The attention kernel is for Linux; elsewhere steps go without it\."),
    ],
)
def test_whatever_fails_is_one_sentence_and_one_warning(
    broken: Callable[[FakeCompiler, pytest.MonkeyPatch, Path], None],
    sentence: str,
    fake: FakeCompiler,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken(fake, monkeypatch, tmp_path)
    assert re.fullmatch(sentence, said := told())
    for _ in range(2):
        reason = why_no_kernel(CPU, SMALL, torch.float32)
        assert reason == said.rstrip(".")
    assert caplog.messages == [f"The attention kernel does not run on cpu, and is done without: {reason}"]


def test_a_processor_is_told_by_what_it_can_do() -> None:
    lines = build.processor().splitlines()
    assert {line.split(":")[0].strip() for line in lines} & {"model name", "flags", "Features"}
    assert len(lines) == len({*lines})  # whatever the number of cores


def test_torch_s_own_openmp_is_linked_where_others_are_loaded_too() -> None:
    torch_s = f"{Path(torch.__file__).parent}/lib/libgomp-a1b2.so.1"
    about = "7f0000000000-7f0000001000 r-xp 00000000 00:00 12  "
    others = [f"{about}/usr/lib/libgomp.so.1", f"{about}/usr/lib/libc.so.6", "7f0000000000-7f0000001000 rw-p 0 00:00 0"]
    assert openmp_among("\n".join([*others, f"{about}{torch_s}"])) == [torch_s]
    assert openmp_among("\n".join(others)) == ["/usr/lib/libgomp.so.1"]
    assert openmp_among("\n".join(others[1:])) == []
