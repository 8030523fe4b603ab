"""Compiles csrc/ into one library for CPUs and one for NVIDIA GPUs.

``vsr.ops.library`` finds and loads what is compiled here. setup.py loads this file by its path, since
``vsr.ops`` needs torch: so this file imports the standard library alone, and torch inside a function.

The sources use the stable ABI of LibTorch: a library serves every Python, and every torch from
``OLDEST_TORCH`` on.
"""

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

OLDEST_TORCH = (2, 10)
COMPILE_SECONDS = 900  # after which one call of a compiler is ended
_HERE = Path(__file__).resolve()
SOURCES = next((p for p in (_HERE.parents[1] / "csrc", _HERE.parents[2] / "csrc") if p.is_dir()), _HERE.parents[2])

COMMON = ("-std=c++20", "-O3", f"-DTORCH_TARGET_VERSION=0x{OLDEST_TORCH[0]:02x}{OLDEST_TORCH[1]:02x}000000000000")
# Without traps a comparison with NaN needs no branch, which would keep loops from being vectorised.
CXX_FLAGS = (*COMMON, "-Wall", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
NVCC_FLAGS = (*COMMON, "-Xcompiler=-fPIC", "--expt-relaxed-constexpr", "-DUSE_CUDA", "--threads=0")
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
INSTRUCTION_SETS = {
    "portable": (),
    "avx2": _AVX2,
    "avx512": ("-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", *_AVX2),
}


class BuildError(RuntimeError):
    """Why a library cannot be compiled, and what to do."""


@dataclass(frozen=True)
class Torch:
    """The installed torch: its version, the CUDA that it is built with, its folder."""

    version: str
    cuda: str | None
    folder: Path


@dataclass(frozen=True)
class Compiler:
    """A command, and what it says of its version."""

    command: tuple[str, ...]
    version: str

    @property
    def key(self) -> str:
        return hashlib.sha256("\0".join((*self.command, self.version)).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Recipe:
    """What a library is made of.

    Args:
        kind: "cpu" or "cuda".
        units: Source, name of the object file, and flags of every call of the compiler.
        architectures: Of the GPUs that it is for: "8.0", or "9.0+PTX" if newer ones can translate it.
        gpus: Those of the GPUs that are present here.
        sources: Hash of the sources.
    """

    kind: str
    units: tuple[tuple[Path, str, tuple[str, ...]], ...]
    torch: Torch
    architectures: tuple[str, ...]
    gpus: tuple[str, ...]
    sources: str

    @property
    def file_name(self) -> str:
        return f"vsr_{self.kind}.so"

    @property
    def key(self) -> str:
        """Hash of everything but the compiler that decides whether a library made elsewhere will do."""
        system = (platform.system(), platform.machine(), *platform.libc_ver())
        torch = (*torch_version(self.torch.version), self.torch.cuda if self.kind == "cuda" else None)
        flags = [[name, *flags] for _, name, flags in self.units]
        return hashlib.sha256(json.dumps([self.kind, system, torch, flags, self.sources]).encode()).hexdigest()[:16]


def installed_torch() -> Torch:
    """Describe the torch that can be imported; ImportError or OSError if it cannot."""
    import torch

    return Torch(str(torch.__version__), torch.version.cuda, Path(torch.__file__).parent)


def present_gpus() -> tuple[str, ...]:
    """Return the compute capabilities of the GPUs here, such as "9.0"."""
    import torch

    if not torch.cuda.is_available():
        return ()
    found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    return tuple(f"{major}.{minor}" for major, minor in sorted(found))


def torch_version(text: str) -> tuple[int, int]:
    """Return (2, 13) of "2.13.0+cpu"."""
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def kinds(torch: Torch, cuda: bool | None = None) -> list[str]:
    """Return which libraries to build: the one for CPUs, and perhaps the one for GPUs.

    Args:
        cuda: None: as $VSR_BUILD_CUDA says (1 or 0), else if torch has CUDA and nvcc is found.
    """
    if cuda is None:
        choice = os.environ.get("VSR_BUILD_CUDA", "")
        if choice not in ("", "0", "1"):
            raise ValueError(f"VSR_BUILD_CUDA: expected 1 or 0, got {choice!r}.")
        cuda = choice == "1" or (choice == "" and torch.cuda is not None and _nvcc() is not None)
    return ["cpu", "cuda"] if cuda else ["cpu"]


def recipe(kind: str, torch: Torch) -> Recipe | None:
    """Return how to make the library of a kind for a torch; None if there are no sources for it."""
    if torch_version(torch.version) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise BuildError(f"torch: expected {oldest} or newer for the compiled kernels, got {torch.version}")
    architectures: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    units: list[tuple[Path, str, tuple[str, ...]]] = []
    if kind == "cuda":
        gpus = present_gpus()
        architectures = gpu_architectures(gpus)
        flags = (*NVCC_FLAGS, *(f"-gencode={code}" for a in architectures for code in _codes(a)))
        units = [(path, f"{path.stem}.o", flags) for path in sorted(SOURCES.glob("*.cu"))]
    elif kind == "cpu":
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        sets = INSTRUCTION_SETS if x86 else {"portable": ()}
        units = [(path, f"{path.stem}.o", CXX_FLAGS) for path in sorted(SOURCES.glob("*_cpu.cpp"))]
        units += [
            (path, f"{path.stem}_{name}.o", (*CXX_FLAGS, f"-DVSR_ISA={name}", *flags))
            for path in sorted(SOURCES.glob("*_kernels.cpp"))
            for name, flags in sets.items()
        ]
    if not units:
        return None
    files = {path for path, _, _ in units}.union(SOURCES.glob("*.h"))
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return Recipe(kind, tuple(units), torch, architectures, gpus, digest.hexdigest()[:16])


def gpu_architectures(present: tuple[str, ...]) -> tuple[str, ...]:
    """Return what to compile for: $TORCH_CUDA_ARCH_LIST, else the GPUs present, else 8.0 and from 9.0 up."""
    listed = re.split(r"[;,\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip())
    if listed == [""]:
        return present or ("8.0", "9.0+PTX")
    for name in listed:
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", name):
            raise BuildError(f"TORCH_CUDA_ARCH_LIST: expected numbers such as 8.0 or 9.0+PTX, got {name!r}")
    return tuple(listed)


def _codes(architecture: str) -> list[str]:
    number = architecture.removesuffix("+PTX").replace(".", "")
    codes = [f"arch=compute_{number},code=sm_{number}"]
    return [*codes, f"arch=compute_{number},code=compute_{number}"] if architecture.endswith("+PTX") else codes


def find_compiler(kind: str, torch: Torch | None = None) -> Compiler:
    """Return the compiler of a kind: $CXX, g++, clang++ or c++ for "cpu", nvcc for "cuda".

    Args:
        torch: If given, nvcc must be of its CUDA's major version, unless VSR_BUILD_CUDA=1.

    Raises:
        BuildError: there is none, or it does not start.
    """
    if sys.platform == "win32":
        raise BuildError("the compiled kernels do not support Windows; use WSL for them")
    if kind == "cpu":
        compiler = _started(_cxx())
    else:
        nvcc = _nvcc()
        if nvcc is None:
            raise BuildError(
                "no CUDA compiler: looked for nvcc in $NVCC, $CUDA_HOME/bin, $CUDA_PATH/bin, PATH and "
                "/usr/local/cuda/bin. Install the CUDA toolkit, or name its folder in CUDA_HOME"
            )
        host = _cxx() if os.environ.get("CXX") else ()
        compiler = _started((nvcc, f"-ccbin={host[0]}") if len(host) == 1 else (nvcc,))
        release = re.search(r"release (\d+)", compiler.version)
        wanted = torch.cuda.split(".")[0] if torch and torch.cuda else None
        if wanted and release and release[1] != wanted and os.environ.get("VSR_BUILD_CUDA") != "1":
            raise BuildError(
                f"{nvcc} is of CUDA {release[1]}, but torch is built with CUDA {torch.cuda if torch else ''}. "
                f"Name a toolkit of CUDA {wanted} in CUDA_HOME, or set VSR_BUILD_CUDA=1 to try this one"
            )
    return compiler


def _cxx() -> tuple[str, ...]:
    named = shlex.split(os.environ.get("CXX", ""))  # may be "ccache g++"
    for name in named[:1] or ("g++", "clang++", "c++"):
        if found := shutil.which(name):
            return (found, *named[1:])
    if named:
        raise BuildError(f"no C++ compiler: CXX names {named[0]}, which is not in PATH. Correct it, or unset it")
    raise BuildError(
        "no C++ compiler: CXX is not set, and neither g++ nor clang++ nor c++ is in PATH. "
        "Install g++ (10 or newer; apt install g++, or conda install gxx), or name a compiler in CXX"
    )


def _nvcc() -> str | None:
    if named := os.environ.get("NVCC"):
        return shutil.which(named)
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    places = [shutil.which("nvcc", path=str(Path(home) / "bin")) for home in homes if home]
    return next(filter(None, [*places, shutil.which("nvcc"), shutil.which("/usr/local/cuda/bin/nvcc")]), None)


def _started(command: tuple[str, ...]) -> Compiler:
    try:
        run = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(
            f"{shlex.join(command)} --version fails ({error}). Install or name another compiler"
        ) from error
    lines = [line for line in run.stdout.splitlines() if line.strip()]
    release = [line for line in lines if "release" in line]  # nvcc's fourth line
    return Compiler(command, (release or lines or ["unknown"])[0])


def compile_library(recipe: Recipe, compiler: Compiler, folder: Path, log: Path) -> Path:
    """Compile and link a library, and return it: ``folder``/vsr_KIND.so.

    Beside it, written last, lies vsr_KIND.json, which says what the library is made of and what its
    SHA-256 is: a library without it is not whole. Objects go to ``folder``, too, and are removed.

    Args:
        log: File for every command and what the compiler said, warnings included.

    Raises:
        BuildError: with the first error, and the log's path.
    """
    start = time.monotonic()
    include = ("-isystem", str(recipe.torch.folder / "include"))
    objects = [folder / name for _, name, _ in recipe.units]
    commands = [
        (*compiler.command, *flags, *include, "-c", str(source), "-o", str(object_file))
        for (source, _, flags), object_file in zip(recipe.units, objects, strict=True)
    ]
    library = folder / recipe.file_name
    unfinished = folder / f"{recipe.file_name}.partial"  # never write into a library that a process has loaded
    link = (*compiler.command, "-shared", "-o", str(unfinished), *map(str, objects), *_linked(recipe))
    text = [f"{compiler.version}\nfor torch {recipe.torch.version}\n"]
    try:
        with ThreadPoolExecutor(min(len(commands), processors())) as pool:
            for output in pool.map(_run, commands, objects):
                text.append(output)
        text.append(_run(link, unfinished))
    except _CompilerError as error:
        unfinished.unlink(missing_ok=True)
        text.append(str(error))
        raise BuildError(
            f"{Path(compiler.command[0]).name} fails: {error.first_line}. Everything that it said is in {log}"
        ) from None
    finally:
        for path in objects:
            path.unlink(missing_ok=True)
        log.write_text("\n".join(text), encoding="utf-8")
    manifest = {
        "sha256": hashlib.sha256(unfinished.read_bytes()).hexdigest(),
        "sources": recipe.sources,
        "torch": recipe.torch.version,
        "oldest_torch": ".".join(map(str, OLDEST_TORCH)),
        "cuda": recipe.torch.cuda if recipe.kind == "cuda" else None,
        "architectures": recipe.architectures,
        "system": platform.system(),
        "machine": platform.machine(),
        "compiler": compiler.version,
        "seconds": round(time.monotonic() - start, 1),
    }
    os.replace(unfinished, library)
    library.with_suffix(".json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return library


def _linked(recipe: Recipe) -> tuple[str, ...]:
    # A torch without CUDA has no libtorch_cuda; the library is linked all the same, for others to use.
    folder = recipe.torch.folder / "lib"
    cuda = ("-ltorch_cuda",) if recipe.kind == "cuda" and any(folder.glob("libtorch_cuda.*")) else ()
    return (f"-L{folder}", "-ltorch_cpu", *cuda)


def processors() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _CompilerError(Exception):
    """What a command and its compiler said."""

    @property
    def first_line(self) -> str:
        lines = str(self).strip().splitlines()[1:] or ["it says nothing"]
        return next((line for line in lines if re.search(r"\b(error|fatal)\b", line)), lines[-1]).strip()


def _run(command: tuple[str, ...], target: Path) -> str:
    """Run a compiler and return the command with its output."""
    output = target.with_suffix(".txt")
    try:
        # into a file: children of a compiler that was ended could hold a pipe open
        with output.open("wb") as file:
            environment = {**os.environ, "LC_ALL": "C"}  # English messages
            code = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment,
                timeout=COMPILE_SECONDS, check=False,
            ).returncode  # fmt: skip
        said = output.read_text(encoding="utf-8", errors="replace")
        text = f"$ {shlex.join(command)}\n{said}"
        if code:
            raise _CompilerError(text if said.strip() else f"{text}exit status {code}")
        return text
    except subprocess.TimeoutExpired:
        raise _CompilerError(f"$ {shlex.join(command)}\nended after {COMPILE_SECONDS} s") from None
    finally:
        output.unlink(missing_ok=True)
