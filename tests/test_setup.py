"""What pip makes of the project: wheels with and without compiled kernels, sdists, editable installs."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from kit import ROOT

TINY = 'extern "C" int vsr_answer() { return 42; }\n'
FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "train.py", "test.py")
needs_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project with a tiny source for its kernels."""
    root = tmp_path / "project"
    ignored = shutil.ignore_patterns("__pycache__", "compiled")
    for name in ("vsr", "options", "docs"):
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, root)
    (root / "csrc").mkdir()
    (root / "csrc" / "tiny_cpu.cpp").write_text(TINY)
    (root / "csrc" / "tiny.h").write_text("")
    return root


def make(project: Path, what: str, *, check: bool = True, **environment: str) -> tuple[Path, str]:
    """Call setuptools as ``pip --no-build-isolation`` does; return what it made, and what it said."""
    out = project.parent / what
    out.mkdir(exist_ok=True)
    code = f"import setuptools.build_meta as b; b.{what}({str(out)!r})"
    keep = {k: v for k, v in os.environ.items() if not k.startswith("VSR_") and k != "CXX"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env={**keep, "VSR_BUILD_CUDA": "0", **environment},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    if check:
        assert run.returncode == 0, run.stdout
    else:
        assert run.returncode != 0
    return next(out.iterdir(), out), run.stdout


def test_without_kernels_a_wheel_is_pure_and_holds_their_sources(project: Path) -> None:
    wheel, _ = make(project, "build_wheel", VSR_BUILD_OPS="0")
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"vsr/csrc/tiny_cpu.cpp", "vsr/csrc/tiny.h", "vsr/py.typed"} <= set(names)
    assert not [name for name in names if name.endswith(".so") or name.startswith(("tests", "csrc"))]


@needs_compiler
@pytest.mark.slow
def test_with_kernels_a_wheel_is_for_one_platform_and_any_python(project: Path) -> None:
    wheel, _ = make(project, "build_wheel")
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("any.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"vsr/ops/compiled/vsr_cpu.so", "vsr/ops/compiled/vsr_cpu.json", "vsr/csrc/tiny_cpu.cpp"} <= names
    zipfile.ZipFile(wheel).extractall(project.parent / "site")
    code = "from vsr.ops import library; print(library.find('cpu').origin, library.build.SOURCES)"
    environment = {**os.environ, "PYTHONPATH": str(project.parent / "site"), "VSR_OPS": "require"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=project.parent, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["packaged", str(project.parent / "site" / "vsr" / "csrc")]


@needs_compiler
@pytest.mark.slow
def test_a_source_that_does_not_compile_gives_a_pure_wheel_and_says_so(project: Path) -> None:
    make(project, "build_wheel")
    (project / "csrc" / "tiny_cpu.cpp").write_text("int a = nonsense;\n")
    shutil.rmtree(project.parent / "build_wheel")
    wheel, said = make(project, "build_wheel")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]
    assert "the cpu kernels are not compiled: " in said
    assert "error: 'nonsense' was not declared" in said.replace("\u2018", "'").replace("\u2019", "'")  # fmt: skip
    _, said = make(project, "build_wheel", check=False, VSR_OPS="require")
    assert "VSR_OPS=require: the cpu kernels are not compiled" in said


def test_a_sdist_holds_the_sources(project: Path) -> None:
    sdist, _ = make(project, "build_sdist")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"csrc/tiny_cpu.cpp", "csrc/tiny.h", "setup.py", "vsr/ops/build.py", "train.py", "options", "docs"} <= names


@pytest.mark.slow
def test_an_install_needs_no_torch(project: Path) -> None:
    (project.parent / "hidden").mkdir()
    (project.parent / "hidden" / "torch.py").write_text("raise ImportError('torch is broken')\n")
    wheel, said = make(project, "build_wheel", PYTHONPATH=str(project.parent / "hidden"))
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "nothing is compiled: torch cannot be imported (torch is broken)" in said


@needs_compiler
@pytest.mark.slow
def test_an_editable_install_compiles_into_the_source_tree(project: Path) -> None:
    make(project, "build_editable")
    assert sorted(p.name for p in (project / "vsr" / "ops" / "compiled").iterdir()) == ["vsr_cpu.json", "vsr_cpu.so"]
    assert not (project / "vsr" / "csrc").exists()


@needs_compiler
@pytest.mark.slow
def test_no_cuda_ext_is_understood(project: Path) -> None:
    command = [sys.executable, "setup.py", "build_ext", "--inplace", "--no_cuda_ext"]
    environment = {**os.environ, "NVCC": "/bin/false", "VSR_BUILD_CUDA": "1"}
    run = subprocess.run(command, cwd=project, env=environment, text=True, capture_output=True, check=True)
    assert "cuda" not in run.stdout.replace("no_cuda_ext", "")
    assert (project / "vsr" / "ops" / "compiled" / "vsr_cpu.so").exists()
