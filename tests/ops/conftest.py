"""A workshop for the tests of building: a tiny source, a compiler that counts, and caches of its own."""

import shutil
from pathlib import Path

import pytest

from vsr.ops import build, library

TINY = 'extern "C" int vsr_answer() { return 42; }\n'


class Workshop:
    """Folders that take the place of csrc, the cache, the installed package's and the temporary files'."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sources, self.cache, self.packaged, self.temporary, self.tools = (
            root / name for name in ("csrc", "cache", "packaged", "temporary", "tools")
        )
        for folder in (self.sources, self.temporary, self.tools):
            folder.mkdir()
        self.source = self.sources / "tiny_cpu.cpp"
        self.source.write_text(TINY)
        self.calls = root / "calls"
        compiler = shutil.which("g++") or shutil.which("clang++")
        if compiler is None:
            pytest.skip("no C++ compiler")
        self.compiler = self.tool("c++", f'exec {compiler} "$@"')

    def tool(self, name: str, script: str) -> Path:
        """Make a program that notes its calls, other than for its version, and runs a line of shell."""
        path = self.tools / name
        note = f'case "$*" in *--version*) ;; *) echo "$*" >> {self.calls};; esac'
        path.write_text(f"#!/bin/sh\n{note}\n{script}\n")
        path.chmod(0o755)
        return path

    @property
    def compiled(self) -> int:
        """How many objects were compiled."""
        return self.calls.read_text().count(" -c ") if self.calls.exists() else 0

    def recipe(self) -> build.Recipe:
        recipe = build.recipe("cpu", build.installed_torch())
        assert recipe is not None
        return recipe

    def ops(self) -> list[str]:
        """Names of what lies in the cache, without locks."""
        return sorted(p.name for p in (self.cache / "ops").iterdir() if p.suffix != ".lock")


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    made = Workshop(tmp_path)
    monkeypatch.setattr(build, "SOURCES", made.sources)
    monkeypatch.setattr(library, "PACKAGED", made.packaged)
    monkeypatch.setattr(library, "_states", {})
    monkeypatch.setattr("tempfile.tempdir", str(made.temporary))
    for name in ("VSR_OPS", "VSR_BUILD_CUDA", "NVCC", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VSR_CACHE", str(made.cache))
    monkeypatch.setenv("CXX", str(made.compiler))
    return made
