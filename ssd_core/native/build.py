"""The kernels for the processor, in C++: compiled by whatever compiler there is, once a machine, and kept."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from ..errors import UserError

SOURCE = Path(__file__).with_name("kernels.cpp")
NAMES = {
    torch.float32: "Float",
    torch.bfloat16: "BFloat16",
    torch.float16: "Float16",
    torch.int8: "Int8",
    torch.float8_e4m3fn: "Fp8",
}
TEXTS = (".cpp", ".h")
COMPILERS = ("g++", "c++")  # tried in this order, unless CXX names one
WIDE = 16  # numbers that they take at a time
MOST_DIM = 512  # of a head: vectors of so many numbers lie on the stack
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fno-math-errno",  # else neither roundings
    "-fno-trapping-math",  # nor comparisons are done for many numbers at once
    "-fopenmp",
    "-fPIC",
    "-shared",
    f"-DMOST_DIM={MOST_DIM}",
)
ARGUMENTS = {  # of each function: addresses, whole numbers, and numbers
    "attend_pairs": (5, 6, 0),
    "decode": (13, 12, 1),
    "rank_pairs": (3, 6, 0),
}


@functools.cache
def loaded(dtype: torch.dtype, stored: torch.dtype) -> ctypes.CDLL:
    """The compiled functions, those of ARGUMENTS, for a model's precision, and for that of its slots.

    Raises UserError where they cannot be compiled, kept or loaded.
    """
    path = compiled(NAMES[dtype], NAMES[stored])
    try:
        library = ctypes.CDLL(str(path))
        for name, (addresses, sizes, numbers) in ARGUMENTS.items():
            function = getattr(library, name)
            function.argtypes = [
                *[ctypes.c_void_p] * addresses,
                *[ctypes.c_int64] * sizes,
                *[ctypes.c_double] * numbers,
            ]
            function.restype = None
    except (OSError, AttributeError) as error:
        raise UserError(
            f"The compiled attention kernel cannot be loaded ({error}); delete that file, or let XDG_CACHE_HOME name a "
            "folder whose programs may run."
        ) from error
    return library


def compiled(number: str, stored: str) -> Path:
    """The library with the function for these names of precisions; kept from the last time where all is as it was."""
    command = [*compiler(), *FLAGS, f"-DNUMBER={number}", f"-DSTORED={stored}", str(SOURCE), *openmp()]
    sources = [path.read_text(encoding="utf-8") for path in sorted(SOURCE.parent.glob("*.*")) if path.suffix in TEXTS]
    about = "\n".join([*command, *sources, processor()])
    name = hashlib.sha256(about.encode()).hexdigest()[:16]
    library = folder() / f"kernels-{number}-{stored}-{name}.so".lower()
    try:
        if not library.exists():
            library.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=library.parent) as beside:
                made = Path(beside) / library.name
                run_compiler([*command, "-o", str(made)])
                made.replace(library)  # at once, should another process do the same
    except OSError as error:
        raise UserError(
            f"The attention kernel cannot be kept in {library.parent} ({error.strerror}); let XDG_CACHE_HOME name a "
            "folder that can be written."
        ) from error
    return library


def run_compiler(command: Sequence[str]) -> None:
    """Raises UserError where it cannot be run, or fails."""
    english = {**os.environ, "LC_ALL": "C"}  # in which an error is called so
    try:
        done = subprocess.run(command, env=english, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
    except OSError as error:
        raise UserError(
            f"The C++ compiler {command[0]} cannot be run ({error.strerror}); install g++, or let CXX name another."
        ) from error
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in said if "error" in line), said[0] if said else "it says nothing")
        raise UserError(
            f"{command[0]} does not compile the attention kernel ({reason}); install another g++, or let CXX name one."
        )


def compiler() -> list[str]:
    """The words that call a C++ compiler: what CXX says, or the first of COMPILERS that there is.

    Raises UserError where there is none."""
    given = os.environ.get("CXX", "")
    try:
        named = shlex.split(given)
    except ValueError as error:
        raise UserError(f"CXX, {given!r}, is no command ({error}); let it name a C++ compiler.") from error
    if named:
        return named
    for name in COMPILERS:
        if found := shutil.which(name):
            return [found]
    raise UserError("The attention kernel takes a C++ compiler; install g++.")


def openmp() -> list[str]:
    """The OpenMP library that torch has loaded, to be linked to. With another one there would be two sets of threads,
    each of which waits for work as if the processor were its own."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        raise UserError("The attention kernel is for Linux; elsewhere steps go without it.")
    return [*openmp_among(maps.read_text()), "-Wl,--as-needed"]


def openmp_among(maps: str) -> list[str]:
    """The path of the OpenMP library among what a process has mapped, if there is one; of several the one that torch
    brought, for other packages bring theirs."""
    paths = dict.fromkeys(line.split(maxsplit=5)[-1].strip() for line in maps.splitlines() if "/" in line)
    found = [path for path in paths if Path(path).name.startswith(("libgomp", "libiomp", "libomp"))]
    own = str(Path(torch.__file__).parent)
    return sorted(found, key=lambda path: not path.startswith(own))[:1]


def processor() -> str:
    """What the processor can do, as far as compiled code depends on it."""
    about = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = ("model name", "flags", "Features")
    return "\n".join(dict.fromkeys(line for line in about if line.startswith(names)))


def folder() -> Path:
    """Where compiled kernels are kept. XDG_CACHE_HOME counts if it is absolute, as its specification has it."""
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (home if home.is_absolute() else Path("~/.cache").expanduser()) / "ssd-janus"
