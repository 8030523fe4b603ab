"""Compiled kernels are found, built once, checked and loaded, and their absence is explained."""

import ctypes
import json
import logging
import multiprocessing
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from kit import ROOT
from ops.conftest import Workshop

from vsr.ops import build, library

FORK = multiprocessing.get_context("fork")  # spares the import of torch, and keeps what was patched


def again() -> library.State:
    """Look for the library as a new process would."""
    library._states.clear()
    return library.find("cpu")


def answer(state: library.State) -> int:
    return ctypes.CDLL(str(state.library)).vsr_answer()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_first_use_compiles_and_later_ones_load(workshop: Workshop, caplog: pytest.LogCaptureFixture) -> None:
    first = library.find("cpu")
    assert (first.origin, first.new, answer(first)) == ("cache", True, 42)
    assert library.find("cpu") is first
    second = again()
    assert (second.library, second.new, workshop.compiled) == (first.library, False, 1)
    assert warnings(caplog) == []
    assert [name.split("-")[0] for name in workshop.ops()] == ["cpu", "cpu"]  # the folder and the log


def test_a_changed_source_another_torch_or_compiler_is_compiled_anew(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [library.find("cpu").library]
    workshop.source.write_text('extern "C" int vsr_answer() { return 43; }\n')
    paths.append(again().library)
    (workshop.sources / "part.h").write_text("// a header counts, too\n")
    paths.append(again().library)
    workshop.tool("c++", workshop.compiler.read_text().splitlines()[-1].replace("exec", "echo 'mine 2.0'; exec"))
    paths.append(again().library)
    installed = build.installed_torch()
    monkeypatch.setattr(build, "installed_torch", lambda: build.Torch("2.97.1", None, installed.folder))
    paths.append(again().library)
    assert len(set(paths)) == 5
    assert None not in paths


def test_without_a_compiler_what_another_machine_compiled_serves(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = library.find("cpu")
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(workshop.root / "empty"))
    assert again().library == first.library


@pytest.mark.fault
def test_no_compiler_is_one_warning_that_names_what_was_looked_for_and_what_to_do(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(workshop.root / "empty"))
    assert [library.load("cpu", "an_op") for _ in range(3)] == [False] * 3
    (warning,) = warnings(caplog)
    for part in ("CXX is not set", "g++", "clang++", "apt install g++", "python -m vsr.ops build", "VSR_OPS=off"):
        assert part in warning


def test_a_compiler_that_fails_leaves_its_log_and_no_library(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    workshop.source.write_text("int a = nonsense;\n")
    state = library.find("cpu")
    assert state.library is None
    assert "tiny_cpu.cpp:1:9: error:" in state.cause
    log = Path(state.cause.split(" is in ")[1])
    assert "-std=c++20" in log.read_text()
    assert "nonsense" in log.read_text()
    assert {Path(name).suffix for name in workshop.ops()} == {".log", ".failed"}
    assert len(warnings(caplog)) == 1
    workshop.source.write_text("int a = 3;\n")
    assert again().library is not None


def test_a_failure_is_not_repeated_by_those_who_waited_but_by_those_who_come_later(workshop: Workshop) -> None:
    workshop.source.write_text("int a = nonsense;\n")
    assert library.find("cpu").library is None
    (failed,) = (workshop.cache / "ops").glob("*.failed")
    assert again().library is None
    assert workshop.compiled == 2
    failed.write_text(json.dumps({"time": time.time() + 60, "cause": "it failed while you waited"}))
    assert again().cause == "it failed while you waited"
    assert workshop.compiled == 2


def test_processes_that_start_together_compile_once(workshop: Workshop) -> None:
    script = workshop.compiler.read_text().splitlines()[-1]
    workshop.tool("c++", f'case "$*" in *" -c "*) sleep 1;; esac; {script}')
    processes = [FORK.Process(target=again) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert workshop.compiled == 1
    assert answer(again()) == 42


def test_a_build_that_is_killed_leaves_nothing_that_could_be_taken_for_a_library(workshop: Workshop) -> None:
    script = workshop.compiler.read_text().splitlines()[-1]
    reached = workshop.root / "reached"
    workshop.tool("c++", f'case "$*" in *-shared*) {script[5:]}; touch {reached}; sleep 2;; *) {script};; esac')
    process = FORK.Process(target=again)
    process.start()
    while not reached.exists():  # linked, and not yet finished
        assert process.is_alive()
        time.sleep(0.02)
    process.kill()
    process.join()
    assert not list((workshop.cache / "ops").rglob("vsr_cpu.so"))
    (left,) = (workshop.cache / "ops").glob(".cpu-*")
    os.utime(left, (0, 0))
    assert again().new
    assert not left.exists()


@pytest.mark.fault
def test_a_library_that_is_damaged_is_named_and_compiled_anew(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    made = library.find("cpu").library
    assert made is not None
    whole = made.read_bytes()
    damages = {
        "damaged (its SHA-256": lambda: made.write_bytes(whole[: len(whole) // 2]),
        "damaged (vsr_cpu.json is unreadable": lambda: made.with_suffix(".json").write_text('{"sha256": "'),
        "incomplete": made.with_suffix(".json").unlink,
    }
    for number, (message, damage) in enumerate(damages.items(), start=1):
        caplog.clear()
        made.unlink()  # what is loaded must not change
        made.write_bytes(whole)
        damage()
        state = again()
        assert (state.library, state.new, workshop.compiled) == (made, True, 1 + number)
        (warning,) = warnings(caplog)
        assert f"{made}: {message}" in warning
        assert library.refusal(made, workshop.recipe()) == ""


@pytest.mark.fault
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"torch": "2.9.1"}, r"built for torch 2\.9\.1, running .*: rebuild with `python -m vsr.ops build --force`"),
        ({"torch": "2.99.0+cu130"}, r"built for torch 2\.99\.0\+cu130, running"),
        ({"torch": "1.13.0", "oldest_torch": "1.10"}, r"built for torch 1\.13\.0, running"),
        ({"oldest_torch": "2.98", "torch": "2.98.0"}, r"built for torch 2\.98\.0, running"),
        ({"machine": "riscv128"}, "built for Linux riscv128, running on"),
        ({"sources": "of last week"}, "built from other sources"),
        ({"torch": None}, "damaged"),
    ],
)
def test_a_packaged_library_for_something_else_is_refused_with_the_reason(
    workshop: Workshop, change: dict[str, str], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    workshop.packaged.mkdir()
    packaged = build.compile_library(
        workshop.recipe(), build.find_compiler("cpu"), workshop.packaged, workshop.root / "log"
    )
    state = again()
    assert (state.library, state.origin) == (packaged, "packaged")
    record = packaged.with_suffix(".json")
    record.write_text(json.dumps({**json.loads(record.read_text()), **change}))
    assert again().origin == "cache"
    (warning,) = warnings(caplog)
    assert re.search(message, warning)
    caplog.clear()
    assert again().origin == "cache"
    assert warnings(caplog) == []  # said once, when the replacement was made


@pytest.mark.fault
def test_a_library_with_an_unknown_symbol_is_no_crash(workshop: Workshop) -> None:
    workshop.source.write_text('extern "C" int gone(); extern "C" int vsr_answer() { return gone(); }\n')
    state = library.find("cpu")
    assert state.library is None
    assert "cannot be loaded with torch" in state.cause
    assert "gone" in state.cause


def test_where_the_cache_cannot_be_written_a_private_folder_serves_all_processes(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    workshop.cache.write_text("a file in the way")
    states = [again(), again()]
    assert [state.origin for state in states] == ["temporary"] * 2
    assert workshop.compiled == 1
    assert states[0].library is not None
    assert workshop.temporary in states[0].library.parents
    assert (workshop.temporary / f"vsr-{os.getuid()}").stat().st_mode & 0o077 == 0
    for warning in warnings(caplog):
        assert "cannot be written" in warning
        assert "VSR_CACHE" in warning
    assert len(warnings(caplog)) == 2


def test_a_folder_that_others_can_write_is_not_trusted(workshop: Workshop, caplog: pytest.LogCaptureFixture) -> None:
    workshop.cache.write_text("a file in the way")
    folder = workshop.temporary / f"vsr-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    state = library.find("cpu")
    assert state.library is None
    assert "only this user may write" in state.cause
    assert "VSR_CACHE" in state.cause
    assert len(warnings(caplog)) == 1


def test_a_user_without_a_home_is_served(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("VSR_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert library.find("cpu").origin == "temporary"


def test_waiting_for_another_process_ends(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "WAIT_SECONDS", 0.2)
    folder = library.cache_folder(workshop.cache / "ops", workshop.recipe(), build.find_compiler("cpu"))
    folder.parent.mkdir(parents=True)
    with FileLock(f"{folder}.lock"):
        state = library.find("cpu")
    assert state.library is None
    assert "waited 0 s for another process" in state.cause
    assert workshop.compiled == 0


def test_off_looks_for_nothing(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VSR_OPS", "off")
    assert not library.load("cpu", "modulated_deform_conv2d")
    assert workshop.compiled == 0
    assert not workshop.cache.exists()
    assert caplog.records == []


def test_require_raises_with_the_cause(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VSR_OPS", "require")
    monkeypatch.setenv("CXX", "no-such-compiler")
    for _ in range(2):
        with pytest.raises(library.LibraryError, match=r"VSR_OPS=require: no compiled .*CXX names no-such-compiler"):
            library.load("cpu", "modulated_deform_conv2d")
    with pytest.raises(library.LibraryError, match="no compiled kernels for mps"):
        library.load("mps", "modulated_deform_conv2d")
    assert warnings(caplog) == []


def test_any_other_value_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSR_OPS", "on")
    with pytest.raises(ValueError, match="VSR_OPS: expected auto, require or off, got 'on'"):
        library.load("cpu", "modulated_deform_conv2d")
    monkeypatch.setenv("VSR_OPS", "")
    assert library.mode() == "auto"


def test_only_a_kernel_of_the_very_device_counts(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    # else the body of an op that the library lacks would call itself for ever
    with torch.library._scoped_library("vsr", "FRAGMENT") as ours:
        ours.define("for_all(Tensor x) -> Tensor")
        ours.impl("for_all", lambda x: x, "CompositeExplicitAutograd")
        ours.define("for_cpu(Tensor x) -> Tensor")
        ours.impl("for_cpu", lambda x: x, "CPU")
        assert [library.load("cpu", op) for op in ("for_all", "for_cpu")] == [False, True]
        monkeypatch.setenv("VSR_OPS", "require")
        assert library.load("cpu", "for_cpu")
        with pytest.raises(library.LibraryError, match=r"vsr_cpu\.so lacks it"):
            library.load("cpu", "for_all")


def test_devices_without_kernels_are_silent(workshop: Workshop, caplog: pytest.LogCaptureFixture) -> None:
    assert not library.load("mps", "modulated_deform_conv2d")
    workshop.source.unlink()
    assert not library.load("cpu", "modulated_deform_conv2d")
    assert "holds no kernels" in library.find("cpu").cause
    assert caplog.records == []


def test_rank_0_speaks_for_all(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("RANK", "1")
    assert library.find("cpu").library is None
    assert caplog.records == []


def test_a_gpu_needs_code_of_its_generation_or_code_to_translate() -> None:
    def serves(*arguments: str) -> bool:
        return library._serves(list(arguments[:-1]), arguments[-1])

    assert serves("8.0", "8.6")
    assert serves("7.5", "9.0a", "9.0")
    assert serves("8.0+PTX", "12.0")
    assert not serves("8.6", "8.0")
    assert not serves("8.0", "9.0")
    assert not serves("9.0+PTX", "8.0")


def test_code_for_other_gpus_than_the_one_here_is_neither_compiled_nor_used(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workshop.sources / "tiny.cu").write_text("")
    nvcc = workshop.tool("nvcc", "echo 'release 13.0'; while [ $# -gt 0 ]; do [ $1 = -o ] && echo > $2; shift; done")
    monkeypatch.setenv("NVCC", str(nvcc))
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0")
    recipe = build.recipe("cuda", build.installed_torch())
    assert recipe is not None
    for_a100 = build.compile_library(recipe, build.find_compiler("cuda"), workshop.temporary, workshop.root / "log")
    assert library.refusal(for_a100, recipe) == ""
    monkeypatch.setattr(build, "present_gpus", lambda: ("9.0",))
    recipe = build.recipe("cuda", build.installed_torch())
    assert recipe is not None
    assert library.refusal(for_a100, recipe).startswith("built for GPUs 8.0, not for 9.0; rebuild")
    before = workshop.compiled
    assert "TORCH_CUDA_ARCH_LIST leaves out 9.0" in library.find("cuda").cause
    assert workshop.compiled == before


def test_cuda_may_be_forbidden(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    (workshop.sources / "tiny.cu").write_text("")
    monkeypatch.setenv("VSR_BUILD_CUDA", "0")
    assert "VSR_BUILD_CUDA=0 forbids" in library.find("cuda").cause
    assert workshop.compiled == 0


def test_nothing_is_compiled_at_import_and_torchvision_may_be_broken(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator nms does not exist')\n")
    code = "import vsr, vsr.ops, vsr.archs.edvr; from vsr.ops import library; print(library._states)"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "VSR_CACHE": str(tmp_path / "cache")}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "{}"
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_the_real_kernels_compile_load_and_take_over(tmp_path: Path) -> None:
    code = """
import torch
from torch.library import opcheck
from vsr.ops import deform_conv, library
x, offset, mask, weight = (torch.randn(s) for s in ((1, 4, 9, 8), (1, 36, 9, 8), (1, 18, 9, 8), (6, 4, 3, 3)))
arguments = (x, offset, mask, weight, None, [1, 1], [1, 1], [1, 1], 1, 2)
first = deform_conv.modulated_deform_conv2d_op(*arguments)  # loads
assert library.has_kernel("cpu", "modulated_deform_conv2d")
assert library.has_kernel("cpu", "modulated_deform_conv2d_backward")
torch.testing.assert_close(first, deform_conv.definition(*arguments))
opcheck(deform_conv.modulated_deform_conv2d_op, (x.requires_grad_(), *arguments[1:]))
compiled = torch.compile(deform_conv.modulated_deform_conv2d, fullgraph=True, backend="aot_eager")
torch.testing.assert_close(compiled(x, offset, mask, weight, None, 1, 1, 1, 1, 2), first)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VSR_OPS": "require"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=tmp_path)
