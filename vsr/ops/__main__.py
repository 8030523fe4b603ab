"""``python -m vsr.ops build``: compile the kernels now, rather than at the first call of an op."""

import argparse
import logging
import os
import time
from pathlib import Path

import torch

from vsr.ops import build, library
from vsr.ops.build import BuildError, Recipe
from vsr.utils.files import cache_root


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status: 1 if something could not be compiled."""
    parser = argparse.ArgumentParser(prog="python -m vsr.ops", description="The compiled kernels of vsr's operators.")
    command = parser.add_subparsers(dest="command", required=True).add_parser("build", help="compile the kernels")
    gpu = command.add_mutually_exclusive_group()
    text = "those for NVIDIA GPUs, too (default: as VSR_BUILD_CUDA says; else if torch has CUDA and nvcc is found)"
    gpu.add_argument("--cuda", action="store_true", default=None, help=text)
    gpu.add_argument("--no-cuda", "--no_cuda_ext", dest="cuda", action="store_false", help="only those for CPUs")
    command.add_argument("--force", action="store_true", help="compile what is there already")
    command.add_argument("--output", type=Path, metavar="DIR", help="write the libraries to DIR, not into the cache")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    installed, status = build.installed_torch(), 0
    try:
        wanted = build.kinds(installed, options.cuda)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    for kind in wanted:
        try:
            recipe = build.recipe(kind, installed)
            if recipe is None:
                raise BuildError(f"{build.SOURCES} holds no kernels for {kind}")
            print(f"{kind}: {_build(recipe, options.output, options.force)}")
        except BuildError as error:
            print(f"{kind}: not compiled: {error}")
            status = 1
        except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home
            place = "--output" if options.output else "VSR_CACHE"
            print(f"{kind}: not compiled: {str(error).rstrip('.')}. Name a folder that can be written in {place}")
            status = 1
    return status


def _build(recipe: Recipe, output: Path | None, force: bool) -> str:
    """Compile a library, and say where it lies and how long that took; or that it is there already.

    It goes into the cache, or takes the place of the one that was installed with the package, which is
    looked for first.
    """
    packaged = library.PACKAGED / recipe.file_name
    if output is None and packaged.is_file():
        if not force and not library.refusal(packaged, recipe):
            return f"already there: {packaged} (--force compiles it again)"
        output = library.PACKAGED if os.access(library.PACKAGED, os.W_OK) else None
    compiler = build.find_compiler(recipe.kind, recipe.torch)
    folder = output or library.cache_folder(cache_root() / "ops", recipe, compiler)
    made = folder / recipe.file_name
    if output is None and not force and not library.refusal(made, recipe):
        return f"already there: {made} (--force compiles it again)"
    start = time.monotonic()
    print(f"{recipe.kind}: compiling {len(recipe.units)} files with {compiler.version} ...", flush=True)
    if output is None:
        log = folder.with_name(f"{folder.name}.log")
        library.built(cache_root() / "ops", recipe, compiler, force=force)
    else:
        log = folder / f"vsr_{recipe.kind}.log"
        folder.mkdir(parents=True, exist_ok=True)
        build.compile_library(recipe, compiler, folder, log)
    seconds = time.monotonic() - start
    if recipe.kind == "cuda" and not torch.cuda.is_available():
        loads = "not loaded: there is no GPU here"
    elif why := library.open_library(made):
        raise BuildError(f"{made}: {why}")
    else:
        loads = "it loads"
    sources = ", ".join(dict.fromkeys(source.name for source, _, _ in recipe.units))
    return f"{sources} -> {made} ({made.stat().st_size / 1e6:.1f} MB) in {seconds:.1f} s; {loads}; log: {log}"


if __name__ == "__main__":
    raise SystemExit(main())
