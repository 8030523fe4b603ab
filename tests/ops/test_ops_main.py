"""python -m vsr.ops build: what it says, and where it puts things."""

from pathlib import Path

import pytest
from ops.conftest import Workshop

from vsr.ops import library
from vsr.ops.__main__ import main


def test_it_compiles_into_the_cache_once(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--no-cuda"]) == 0
    said = capsys.readouterr().out
    state = library.find("cpu")
    assert not state.new
    for part in ("compiling 1 files", "tiny_cpu.cpp", str(state.library), " s; it loads; log: "):
        assert part in said
    assert Path(said.rsplit("log: ", 1)[1].strip()).is_file()
    assert main(["build", "--no_cuda_ext"]) == 0
    assert "already there" in capsys.readouterr().out
    assert workshop.compiled == 1
    assert main(["build", "--force"]) == 0
    assert workshop.compiled == 2


def test_it_writes_where_it_is_told(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--output", str(workshop.root / "a" / "b")]) == 0
    assert library.refusal(workshop.root / "a" / "b" / "vsr_cpu.so", workshop.recipe()) == ""
    assert not workshop.cache.exists()


def test_it_renews_what_the_package_came_with(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--output", str(workshop.packaged)]) == 0
    assert main(["build"]) == 0
    assert "already there" in capsys.readouterr().out
    workshop.source.write_text('extern "C" int vsr_answer() { return 43; }\n')
    assert main(["build"]) == 0
    assert library.find("cpu").origin == "packaged"
    assert workshop.compiled == 2


def test_a_failure_is_told_and_is_the_exit_status(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.source.write_text("int a = nonsense;\n")
    assert main(["build", "--cuda"]) == 1
    said = capsys.readouterr().out
    assert "cpu: not compiled: c++ fails: " in said
    assert "tiny_cpu.cpp:1:9: error" in said
    assert "cuda: not compiled: " in said
    assert "holds no kernels for cuda" in said


def test_a_library_that_does_not_load_is_a_failure(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.source.write_text('extern "C" int gone(); extern "C" int vsr_answer() { return gone(); }\n')
    assert main(["build"]) == 1
    assert "undefined symbol: gone" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_told_with_what_to_name_instead(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workshop.cache.write_text("a file in the way")
    assert main(["build"]) == 1
    assert "Name a folder that can be written in VSR_CACHE" in capsys.readouterr().out
    assert main(["build", "--output", str(workshop.cache / "below")]) == 1
    assert "Name a folder that can be written in --output" in capsys.readouterr().out

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("VSR_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert main(["build"]) == 1
    assert "Could not determine home directory. Name a folder" in capsys.readouterr().out


def test_an_unknown_wish_for_cuda_is_told(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSR_BUILD_CUDA", "yes")
    with pytest.raises(SystemExit, match="VSR_BUILD_CUDA: expected 1 or 0, got 'yes'"):
        main(["build"])
