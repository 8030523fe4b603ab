"""Finds the compiled kernels, builds them at need, and loads them: at the first call of an op, never at an import.

Looked for, in this order:

1. in the installed package, where ``pip install --no-build-isolation`` puts them;
2. in the cache, ``$VSR_CACHE/ops/KIND-KEY-COMPILER/``, where KEY stands for the sources, flags, torch and platform;
3. nowhere: they are compiled into the cache, by one process, while others wait for it. Where the cache cannot be
   written, a private folder among the temporary files takes its place.

If all that fails, the definitions in PyTorch go on serving, after one warning that names the cause and what to do.
``VSR_OPS=require`` raises instead; ``VSR_OPS=off`` runs the definitions and looks for nothing.
"""

import contextlib
import hashlib
import json
import logging
import os
import platform
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from vsr.ops import build
from vsr.ops.build import BuildError, Compiler, Recipe
from vsr.utils import dist
from vsr.utils.files import cache_root

log = logging.getLogger(__name__)

PACKAGED = Path(__file__).parent / "compiled"
DISPATCH_KEYS = {"cpu": "CPU", "cuda": "CUDA"}
WAIT_SECONDS = 1200.0  # for another process that compiles
REBUILD = "rebuild with `python -m vsr.ops build --force`"


class LibraryError(RuntimeError):
    """VSR_OPS=require, and there is no compiled kernel."""


@dataclass(frozen=True)
class State:
    """What became of the kernels for a kind of device.

    Args:
        library: The library that is loaded; None: definitions run.
        origin: Where it was found: "packaged", "cache" or "temporary".
        new: Whether it was compiled just now.
        cause: Why there is none.
    """

    library: Path | None = None
    origin: str = ""
    new: bool = False
    cause: str = ""


_states: dict[str, State] = {}
_lock = threading.Lock()  # backward passes run in threads of their own


def mode() -> str:
    """Return $VSR_OPS: auto, require or off.

    Raises:
        ValueError: it says something else.
    """
    value = os.environ.get("VSR_OPS") or "auto"
    if value not in ("auto", "require", "off"):
        raise ValueError(f"VSR_OPS: expected auto, require or off, got {value!r}.")
    return value


def load(device_type: str, op: str) -> bool:
    """Return whether a compiled kernel serves ``torch.ops.vsr.<op>`` on a kind of device, after trying to load it.

    Everything is tried once a process and kind of device.

    Args:
        device_type: As in torch.device.type.

    Raises:
        LibraryError: there is none, and VSR_OPS=require.
        ValueError: VSR_OPS says something unknown.
    """
    demand = mode()
    if demand == "off":
        return False
    state = find(device_type)
    if state.library and has_kernel(device_type, op):
        return True
    if demand == "require":
        cause = f"{state.library} lacks it" if state.library else state.cause
        raise LibraryError(f"VSR_OPS=require: no compiled kernel of {op} for {device_type}: {cause}.")
    return False


def has_kernel(device_type: str, op: str) -> bool:
    """Whether the dispatcher knows a kernel for this very kind of device, loaded by whomever."""
    key = DISPATCH_KEYS.get(device_type)
    return key is not None and torch._C._dispatch_has_kernel_for_dispatch_key(f"vsr::{op}", key)


def find(device_type: str) -> State:
    """Load the library for a kind of device, building it if need be; tell what came of it. Asked again: the same."""
    with _lock:
        if device_type not in _states:
            _states[device_type] = _first_use(device_type)
        return _states[device_type]


def _first_use(device_type: str) -> State:
    if device_type not in DISPATCH_KEYS or (device_type == "cuda" and torch.version.hip):
        kind = "ROCm" if device_type == "cuda" else device_type
        return State(cause=f"vsr has no compiled kernels for {kind}")
    refused: list[str] = []  # what was found and could not be used
    try:
        recipe = build.recipe(device_type, build.installed_torch())
        if recipe is None:
            return State(cause=f"{build.SOURCES} holds no kernels for {device_type}")
        state = _obtain(recipe, refused)
    except (BuildError, OSError) as error:
        state = State(cause=". ".join([*refused, str(error)]))
    if dist.is_main():
        _report(device_type, state, refused)
    return state


def _report(device_type: str, state: State, refused: list[str]) -> None:
    """Say in one warning what the user may want to change, if anything."""
    name = "GPU" if device_type == "cuda" else "CPU"
    if state.library is None and mode() == "auto":
        log.warning(
            "the compiled %s kernels cannot be used, slower PyTorch code runs instead. Cause: %s. "
            "To compile: python -m vsr.ops build. To see more: python -m vsr.doctor. To hide this: VSR_OPS=off",
            name, state.cause,
        )  # fmt: skip
    elif state.origin == "temporary":
        log.warning(
            "%s. The %s kernels are compiled into %s, again whenever that is cleared. "
            "Name a folder that can be written in VSR_CACHE",
            ". ".join(refused), name, state.library,
        )  # fmt: skip
    elif state.new and refused:
        log.warning("%s. Compiled anew: %s", ". ".join(refused), state.library)
    elif state.library:
        log.info("%s kernels: %s", name, state.library)


def _obtain(recipe: Recipe, refused: list[str]) -> State:
    """Load a library from the first place that has one or lets one be built; BuildError if none does."""
    packaged = PACKAGED / recipe.file_name
    if packaged.is_file():
        why = refusal(packaged, recipe) or open_library(packaged)
        if not why:
            return State(packaged, "packaged")
        refused.append(f"{packaged}: {why}")
    compiler: Compiler | BuildError
    try:
        compiler = _compiler_for_here(recipe)
    except BuildError as error:
        compiler = error
    places: dict[str, Callable[[], Path]] = {"cache": cache_root, "temporary": private_temporary}
    for origin, place in places.items():
        try:
            root = place() / "ops"
            library = _found(root, recipe, compiler, refused)
            if library is None and isinstance(compiler, BuildError):
                raise compiler
            if new := library is None:
                assert isinstance(compiler, Compiler)
                library = built(root, recipe, compiler)
        except (OSError, RuntimeError) as error:
            if isinstance(error, BuildError):
                raise
            # RuntimeError: Path.home() does not know the user; NotImplementedError: a file system without locks
            refused.append(f"the {origin} folder cannot be written ({error})")
            continue
        if why := open_library(library):
            raise BuildError(f"{library}: {why}")
        return State(library, origin, new)
    raise BuildError("name a folder that can be written in VSR_CACHE")


def _compiler_for_here(recipe: Recipe) -> Compiler:
    """Return what compiles a library that this machine can use; BuildError if nothing does."""
    if recipe.kind == "cuda" and os.environ.get("VSR_BUILD_CUDA") == "0":
        raise BuildError("VSR_BUILD_CUDA=0 forbids to compile them")
    if missing := _not_served(recipe, recipe.architectures):
        raise BuildError(
            f"TORCH_CUDA_ARCH_LIST leaves out {', '.join(missing)}, the GPU of this machine. Add or unset it"
        )
    return build.find_compiler(recipe.kind, recipe.torch)


def open_library(library: Path) -> str:
    """Load a library into this process; return why that fails, or nothing."""
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return f"cannot be loaded with torch {torch.__version__}: {error.__cause__ or error}"
    return ""


def refusal(library: Path, recipe: Recipe) -> str:
    """Return why a compiled library must not be loaded here, or nothing."""
    record = library.with_suffix(".json")
    try:
        made = json.loads(record.read_text(encoding="utf-8"))
        whole = hashlib.sha256(library.read_bytes()).hexdigest() == made["sha256"]
        made_for = f"{made['system']} {made['machine']}"
        with_torch, oldest = build.torch_version(made["torch"]), build.torch_version(made["oldest_torch"])
        sources, architectures = made["sources"], list(made["architectures"])
    except FileNotFoundError as error:
        return f"incomplete ({error.filename} is missing); {REBUILD}"
    except OSError as error:
        return f"unreadable ({error})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"damaged ({record.name} is unreadable); {REBUILD}"
    running = build.torch_version(recipe.torch.version)
    here = f"{platform.system()} {platform.machine()}"
    if not whole:
        return f"damaged (its SHA-256 is not the one in {record.name}); {REBUILD}"
    if made_for != here:
        return f"built for {made_for}, running on {here}; {REBUILD}"
    if not (oldest <= with_torch <= running and with_torch[0] == running[0]):
        return f"built for torch {made['torch']}, running {recipe.torch.version}: {REBUILD}"
    if sources != recipe.sources:
        return f"built from other sources than those in {build.SOURCES}; {REBUILD}"
    if missing := _not_served(recipe, architectures):
        return f"built for GPUs {', '.join(architectures)}, not for {', '.join(missing)}; {REBUILD}"
    return ""


def _not_served(recipe: Recipe, architectures: Sequence[str]) -> list[str]:
    """Return those of the GPUs here that code for some architectures does not run on."""
    return [gpu for gpu in recipe.gpus if not _serves(architectures, gpu)]


def _serves(architectures: Sequence[str], capability: str) -> bool:
    """Whether code for some GPUs runs on one of a capability: of the same generation, or to be translated."""
    gpu = tuple(map(int, capability.split(".")))
    for name in architectures:
        major, minor = (int(part.rstrip("af")) for part in name.removesuffix("+PTX").split("."))
        if (major, minor) <= gpu and (major == gpu[0] or name.endswith("+PTX")):
            return True
    return False


def _found(root: Path, recipe: Recipe, compiler: Compiler | BuildError, refused: list[str]) -> Path | None:
    """Return a whole library of a cache. Without a compiler, what any compiler made will do."""
    last = "*" if isinstance(compiler, BuildError) else compiler.key
    for library in sorted(root.glob(f"{recipe.kind}-{recipe.key}-{last}/{recipe.file_name}")):
        why = refusal(library, recipe)
        if not why:
            return library
        refused.append(f"{library}: {why}")
    return None


def private_temporary() -> Path:
    """Return a folder of this user alone among the temporary files, one for all processes.

    Raises:
        OSError: it cannot be made, or another user could have put something there.
    """
    folder = Path(tempfile.gettempdir()) / f"vsr-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    state = folder.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o022:
        raise PermissionError(f"{folder}: expected a folder that only this user may write")
    return folder


def cache_folder(root: Path, recipe: Recipe, compiler: Compiler) -> Path:
    """Return where a cache keeps what a compiler makes of a recipe."""
    return root / f"{recipe.kind}-{recipe.key}-{compiler.key}"


def built(root: Path, recipe: Recipe, compiler: Compiler, *, force: bool = False) -> Path:
    """Compile a library into a cache, unless another process does so at this moment; return it.

    The folder appears by a rename when all is there. A process that is killed leaves a folder with
    another name, which the next one removes.

    Args:
        root: The cache; made if it is missing.
        force: Compile even if there is one.

    Raises:
        BuildError: the compiler fails, or another process takes too long.
        OSError: ``root`` cannot be written.
    """
    began = time.time()
    root.mkdir(parents=True, exist_ok=True)
    folder = cache_folder(root, recipe, compiler)
    library, failure = folder / recipe.file_name, folder.with_name(f"{folder.name}.failed")
    lock = FileLock(f"{folder}.lock")
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("waiting for another process that compiles the %s kernels", recipe.kind)
            lock.acquire(timeout=WAIT_SECONDS)
    except Timeout:
        raise BuildError(f"waited {WAIT_SECONDS:.0f} s for another process that holds {folder}.lock") from None
    try:
        if not force and not refusal(library, recipe):
            return library
        if cause := _failed_since(began, failure):
            raise BuildError(cause)
        try:
            _compile(recipe, compiler, folder)
        except BuildError as error:
            failure.write_text(json.dumps({"time": time.time(), "cause": str(error)}), encoding="utf-8")
            raise
        failure.unlink(missing_ok=True)
        return library
    finally:
        lock.release()


def _failed_since(began: float, failure: Path) -> str:
    """Return why another process could not compile while this one waited: it need not try the same."""
    try:
        found = json.loads(failure.read_text(encoding="utf-8"))
        return found["cause"] if found["time"] >= began else ""
    except (FileNotFoundError, ValueError):
        return ""


def _compile(recipe: Recipe, compiler: Compiler, folder: Path) -> None:
    for left in folder.parent.glob(f".{folder.name}-*"):
        # of a killed process; younger ones may belong to a machine whose locks this one does not see
        if time.time() - left.stat().st_mtime > build.COMPILE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    log.info("compiling the %s kernels (once) with %s", recipe.kind, compiler.version)
    start = time.monotonic()
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        build.compile_library(recipe, compiler, temporary, folder.with_name(f"{folder.name}.log"))
        temporary.chmod(0o755)  # mkdtemp's 0700 would keep colleagues with the same cache out
        if folder.exists():
            folder.rename(temporary / "old")
        temporary.rename(folder)
        shutil.rmtree(folder / "old", ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    log.info("compiled the %s kernels in %.1f s: %s", recipe.kind, time.monotonic() - start, folder)
