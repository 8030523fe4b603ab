"""Which compilers, flags and GPUs; what a compiled library leaves behind."""

import hashlib
import json
import platform
import shutil
from dataclasses import replace

import pytest
from ops.conftest import Workshop

from vsr.ops import build
from vsr.ops.build import BuildError, Torch

NVCC = "echo nvcc; echo 'Cuda compilation tools, release 13.0, V13.0.88'"


def with_cuda(cuda: str | None = "13.0") -> Torch:
    return replace(build.installed_torch(), cuda=cuda)


def test_a_library_comes_with_a_record_of_what_it_is(workshop: Workshop) -> None:
    folder, log = workshop.root / "out", workshop.root / "build.log"
    folder.mkdir()
    workshop.source.write_text('static int idle() { return 1; } extern "C" int vsr_answer() { return 42; }\n')
    made = build.compile_library(workshop.recipe(), build.find_compiler("cpu"), folder, log)
    assert sorted(path.name for path in folder.iterdir()) == ["vsr_cpu.json", "vsr_cpu.so"]
    record = json.loads(made.with_suffix(".json").read_text())
    assert record["sha256"] == hashlib.sha256(made.read_bytes()).hexdigest()
    assert record["torch"] == build.installed_torch().version
    assert (record["oldest_torch"], record["machine"]) == ("2.10", platform.machine())
    assert "-Wunused-function" in log.read_text()  # warnings are kept, and harmless
    assert "$ " in log.read_text()


def test_kernels_are_compiled_once_for_each_instruction_set(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workshop.sources / "tiny_kernels.cpp").write_text("")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    units = {name: flags for _, name, flags in workshop.recipe().units}
    names = ["tiny_cpu.o", "tiny_kernels_portable.o", "tiny_kernels_avx2.o", "tiny_kernels_avx512.o"]
    assert list(units) == names
    assert not any(flag.startswith("-m") for name in names[:2] for flag in units[name])
    assert {"-DVSR_ISA=avx2", "-mavx2", "-mfma", "-mf16c"} <= set(units[names[2]])
    assert {"-DVSR_ISA=avx512", "-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq"} <= set(units[names[3]])
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert [name for _, name, _ in workshop.recipe().units] == names[:2]


def test_an_older_torch_is_named() -> None:
    with pytest.raises(BuildError, match=r"expected 2\.10 or newer for the compiled kernels, got 2\.9\.1"):
        build.recipe("cpu", replace(build.installed_torch(), version="2.9.1"))


def test_cxx_may_be_a_wrapper_with_arguments(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop.tool("ccache", 'exec "$@"')
    monkeypatch.setenv("CXX", f"{workshop.tools / 'ccache'} {workshop.compiler}")
    compiler = build.find_compiler("cpu")
    assert compiler.command == (str(workshop.tools / "ccache"), str(workshop.compiler))
    build.compile_library(workshop.recipe(), compiler, workshop.temporary, workshop.root / "log")
    assert (workshop.temporary / "vsr_cpu.so").exists()


def test_a_compiler_that_does_not_start_is_named(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(workshop.tool("broken", "exit 3")))
    with pytest.raises(BuildError, match=r"broken --version fails \(.*exit status 3"):
        build.find_compiler("cpu")


def test_a_compiler_that_hangs_is_ended(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "COMPILE_SECONDS", 0.2)
    monkeypatch.setenv("CXX", str(workshop.tool("slow", 'case "$*" in *--version*) echo 1;; *) exec sleep 30;; esac')))
    with pytest.raises(BuildError, match=r"slow fails: ended after 0\.2 s"):
        build.compile_library(workshop.recipe(), build.find_compiler("cpu"), workshop.temporary, workshop.root / "log")
    assert list(workshop.temporary.iterdir()) == []


def test_nvcc_is_taken_from_cuda_home(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    (workshop.root / "cuda").mkdir()
    nvcc = workshop.tool("nvcc", NVCC)
    (workshop.root / "cuda" / "bin").symlink_to(workshop.tools)
    monkeypatch.setenv("CUDA_HOME", str(workshop.root / "cuda"))
    compiler = build.find_compiler("cuda", with_cuda())
    assert compiler.command == (str(workshop.root / "cuda" / "bin" / "nvcc"), f"-ccbin={workshop.compiler}")
    assert compiler.version == "Cuda compilation tools, release 13.0, V13.0.88"
    monkeypatch.setenv("NVCC", str(nvcc))
    monkeypatch.delenv("CXX")
    assert build.find_compiler("cuda", with_cuda()).command == (str(nvcc),)


def test_a_toolkit_of_another_generation_than_torchs_is_refused(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVCC", str(workshop.tool("nvcc", NVCC)))
    with pytest.raises(BuildError, match=r"nvcc is of CUDA 13, but torch is built with CUDA 12\.6.*CUDA_HOME"):
        build.find_compiler("cuda", with_cuda("12.6"))
    monkeypatch.setenv("VSR_BUILD_CUDA", "1")
    build.find_compiler("cuda", with_cuda("12.6"))


def test_no_nvcc_is_explained(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVCC", "no-such-nvcc")
    with pytest.raises(BuildError, match=r"no CUDA compiler: looked for nvcc in \$NVCC, \$CUDA_HOME/bin"):
        build.find_compiler("cuda")


@pytest.mark.parametrize(
    ("variable", "argument", "cuda", "nvcc", "expected"),
    [
        (None, None, "13.0", True, True),
        (None, None, "13.0", False, False),
        (None, None, None, True, False),  # torch without CUDA: nothing could load it
        ("1", None, None, False, True),
        ("0", None, "13.0", True, False),
        ("0", True, None, False, True),  # what is typed goes first
        ("1", False, "13.0", True, False),
    ],
)
def test_the_library_for_gpus_is_built_where_it_can_be_used_or_on_demand(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch,
    variable: str | None, argument: bool | None, cuda: str | None, nvcc: bool, expected: bool,
) -> None:  # fmt: skip
    monkeypatch.setenv("NVCC", str(workshop.tool("nvcc", NVCC)) if nvcc else "no-such-nvcc")
    if variable:
        monkeypatch.setenv("VSR_BUILD_CUDA", variable)
    assert build.kinds(with_cuda(cuda), argument) == (["cpu", "cuda"] if expected else ["cpu"])


def test_an_unknown_wish_for_cuda_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSR_BUILD_CUDA", "yes")
    with pytest.raises(ValueError, match="VSR_BUILD_CUDA: expected 1 or 0, got 'yes'"):
        build.kinds(with_cuda())


@pytest.mark.parametrize(
    ("listed", "present", "expected"),
    [
        ("", (), ("8.0", "9.0+PTX")),
        ("", ("8.6", "9.0"), ("8.6", "9.0")),
        ("7.5; 8.0+PTX", ("9.0",), ("7.5", "8.0+PTX")),
        (" 9.0a ", (), ("9.0a",)),
    ],
)
def test_gpus_are_those_listed_else_those_present(
    monkeypatch: pytest.MonkeyPatch, listed: str, present: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", listed)
    assert build.gpu_architectures(present) == expected


def test_flags_for_gpus(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    (workshop.sources / "tiny.cu").write_text("")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0 9.0+PTX")
    recipe = build.recipe("cuda", with_cuda())
    assert recipe is not None
    ((_, _, flags),) = recipe.units
    codes = [flag for flag in flags if flag.startswith("-gencode")]
    assert codes == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]


def test_a_gpu_that_is_no_number_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;Hopper")
    with pytest.raises(BuildError, match=r"TORCH_CUDA_ARCH_LIST: expected numbers .*, got 'Hopper'"):
        build.gpu_architectures(())


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_gpu_code_compiles_without_a_gpu(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    (workshop.sources / "tiny.cu").write_text(
        "__global__ void twice(float* x) { x[threadIdx.x] *= 2; }\n"
        'extern "C" void vsr_twice(float* x) { twice<<<1, 32>>>(x); }\n'
    )
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0")
    recipe = build.recipe("cuda", build.installed_torch())
    assert recipe is not None
    made = build.compile_library(recipe, build.find_compiler("cuda"), workshop.temporary, workshop.root / "log")
    assert b"vsr_twice" in made.read_bytes()
    assert json.loads(made.with_suffix(".json").read_text())["architectures"] == ["8.0"]
