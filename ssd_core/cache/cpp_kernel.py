"""The kernel for the processor, in C++: compiled by whatever compiler there is, once a machine, and kept."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..models.small.linear import rounded_up
from .cache import SlotCache

SOURCE = Path(__file__).with_suffix(".cpp")
NAMES = {
    torch.float32: "Float",
    torch.bfloat16: "BFloat16",
    torch.float16: "Float16",
    torch.int8: "Int8",
    torch.float8_e4m3fn: "Fp8",
}
COMPILERS = ("g++", "c++")  # tried in this order, unless CXX names one
WIDE = 16  # numbers that it takes at a time
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


class CppKernel:
    """The kernel for one drawing, and the room that its layers share."""

    def __init__(self, cache: SlotCache, pairs: int, slots: int, scored: bool) -> None:
        """pairs: of each layer. slots: the most that a pair has. scored: whether any keeps scores, which makes no
        difference here: there is room for the weights of all slots.

        Raises UserError for heads that are too wide, but not on the meta device, where nothing is computed."""
        geometry = cache.geometry
        self.about = cache.dtype, cache.kind or cache.dtype
        widest = rounded_up(slots, WIDE)
        self.sizes = [pairs, geometry.heads, geometry.kv_heads, geometry.head_dim, widest]
        self.room = torch.empty(torch.get_num_threads(), widest, dtype=torch.float32, device=cache.device)
        if geometry.head_dim > MOST_DIM and not self.room.is_meta:
            raise UserError(
                f"The attention kernel takes heads of {MOST_DIM} numbers at most, not of {geometry.head_dim}; "
                "draw with a plain step."
            )

    @property
    def nbytes(self) -> int:
        return self.room.nbytes

    def __call__(self, qkv: Tensor, answers: Tensor, table: Tensor, state: Tensor) -> None:
        """Store the newest token of every pair of a layer, and answer its queries.

        qkv [B, 1, heads + 2 * kv_heads, D] and answers [B, 1, heads, D], contiguous; table and state: see table.py.
        """
        if qkv.is_meta:  # nothing but memory is counted
            return
        if torch.compiler.is_compiling():
            attend_pairs(qkv, answers, table, state, self.room, *self.about, self.sizes)
        else:
            run(qkv, answers, table, state, self.room, *self.about, self.sizes)


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
    loaded(dtype, stored)(*addresses, *sizes, len(room))


# `run`, as an operator that torch.compile leaves as it is. It does not say that slots are written, too: nothing else in
# a step looks at these. Its name has the module's in it: ComfyUI's pack may be a second copy of the package, beside one
# that is installed, and torch forgets an operator when another takes its name.
attend_pairs = torch.library.custom_op(re.sub(r"\W", "_", __name__) + "::attend_pairs", run, mutates_args=("answers",))


@functools.cache
def loaded(dtype: torch.dtype, stored: torch.dtype) -> ctypes._NamedFuncPointer:
    """The compiled function for a model's precision, and for that of its slots.

    Raises UserError where it cannot be compiled, kept or loaded.
    """
    library = compiled(NAMES[dtype], NAMES[stored])
    try:
        function = ctypes.CDLL(str(library)).attend_pairs
    except OSError as error:
        raise UserError(
            f"The compiled attention kernel cannot be loaded ({error}); delete that file, or let XDG_CACHE_HOME name a "
            "folder whose programs may run."
        ) from error
    function.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 6
    function.restype = None
    return function


def compiled(number: str, stored: str) -> Path:
    """The library with the function for these names of precisions; kept from the last time where all is as it was."""
    command = [*compiler(), *FLAGS, f"-DNUMBER={number}", f"-DSTORED={stored}", str(SOURCE), *openmp()]
    about = "\n".join([*command, SOURCE.read_text(encoding="utf-8"), processor()])
    name = hashlib.sha256(about.encode()).hexdigest()[:16]
    library = folder() / f"attend-{number}-{stored}-{name}.so".lower()
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
