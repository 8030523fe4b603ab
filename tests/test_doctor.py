"""python -m vsr.doctor: it tells what runs and why, and its exit status says whether that is right."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import ROOT
from ops.conftest import Workshop, workshop  # noqa: F401  (a fixture)
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from vsr import doctor
from vsr.ops import library


def double(x: Tensor) -> Tensor:
    return x * 2


@pytest.fixture
def tiny_case(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.library.Library]:
    """An op, vsr::doubled, in the place of all real ones; yields what kernels are registered with."""
    monkeypatch.setattr(doctor, "SECONDS", 0.0)
    monkeypatch.setattr(doctor, "devices", lambda: [torch.device("cpu")])
    case = doctor.Case("doubled", "5", (torch.arange(5.0),), double)
    monkeypatch.setattr(doctor, "cases", lambda device: [case])
    with torch.library._scoped_library("vsr", "FRAGMENT") as ours:
        ours.define("doubled(Tensor x) -> Tensor")
        yield ours


def run(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Return the exit status, the report, and its first row."""
    status = doctor.main(["--json"])
    report = json.loads(capsys.readouterr().out)
    return status, report, report["ops"][0]


def test_every_op_with_a_compiled_kernel_has_a_case() -> None:
    compiled = re.findall(r'm\.impl\("(\w+)"', "".join(path.read_text() for path in (ROOT / "csrc").glob("*.c*")))
    assert {case.op for case in doctor.cases(torch.device("cpu"))} == set(compiled)


@pytest.mark.parametrize("number", range(len(doctor.cases(torch.device("cpu")))))
def test_the_real_cases_fit_their_ops_and_definitions(number: int) -> None:
    case = doctor.cases(torch.device("cpu"))[number]
    with FakeTensorMode() as mode:
        arguments = [mode.from_tensor(a) if isinstance(a, Tensor) else a for a in case.arguments]
        got, expected = getattr(torch.ops.vsr, case.op)(*arguments), case.definition(*arguments)
    shapes = [[t.shape for t in ([value] if isinstance(value, Tensor) else value)] for value in (got, expected)]
    assert shapes[0] == shapes[1]


def test_a_compiled_kernel_that_agrees_is_timed_beside_its_definition(
    workshop: Workshop,  # noqa: F811
    tiny_case: torch.library.Library,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_case.impl("doubled", lambda x: x + x + 1e-5, "CPU")
    status, report, row = run(capsys)
    assert (status, report["problems"], row["path"]) == (0, [], "compiled")
    assert row["why"] == f"cache: {library.find('cpu').library}"
    assert row["ms"] > 0
    assert row["definition_ms"] > 0
    assert row["difference"] == pytest.approx(1e-5, rel=0.1)
    assert doctor.main([]) == 0
    said = capsys.readouterr().out
    assert " times  1.0e-05" in said
    assert f"cpu: compiled, cache: {library.find('cpu').library}" in said


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: x * 2.01, r"differs by 4.0e-02, 8.0e-04 would be accepted"),
        (lambda x: x * float("nan"), r"differs by nan"),
    ],
)
def test_a_kernel_that_differs_is_a_problem(
    workshop: Workshop,  # noqa: F811
    tiny_case: torch.library.Library,
    capsys: pytest.CaptureFixture[str],
    wrong: Any,
    message: str,
) -> None:
    tiny_case.impl("doubled", wrong, "CPU")
    status, report, _ = run(capsys)
    assert status == 1
    assert message in report["problems"][0]
    assert doctor.main([]) == 1
    assert "PROBLEM: doubled on cpu: differs" in capsys.readouterr().out


def test_a_kernel_that_fails_is_a_problem(
    workshop: Workshop,  # noqa: F811
    tiny_case: torch.library.Library,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(x: Tensor) -> Tensor:
        raise RuntimeError("no kernel image is available for execution on the device")

    tiny_case.impl("doubled", fail, "CPU")
    status, report, _ = run(capsys)
    assert status == 1
    assert report["problems"] == ["doubled on cpu: no kernel image is available for execution on the device"]


@pytest.mark.parametrize(
    ("value", "status", "why"),
    [("auto", 0, "no C++ compiler"), ("off", 0, "VSR_OPS=off"), ("require", 1, "no C++ compiler")],
)
def test_the_reason_for_slow_code_is_told_and_fails_only_who_requires_more(
    workshop: Workshop,  # noqa: F811
    tiny_case: torch.library.Library,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    value: str,
    status: int,
    why: str,
) -> None:
    monkeypatch.setenv("VSR_OPS", value)
    monkeypatch.setenv("CXX", "no-such-compiler")
    got, report, row = run(capsys)
    assert got == status
    assert row["path"] == "definition"
    assert why in row["why"]
    assert row["definition_ms"] > 0
    assert "CXX names no-such-compiler" in report["installed"]["C++ compiler"]
    assert len(report["problems"]) == status
    assert f"VSR_OPS={value}" in report["installed"]["settings"]


def test_an_unknown_wish_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSR_OPS", "on")
    with pytest.raises(SystemExit, match="VSR_OPS: expected auto, require or off, got 'on'"):
        doctor.main([])


def test_a_broken_torchvision_is_found_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator nms does not exist')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "torchvision" not in sys.modules
    assert "not needed" in doctor.torchvision()
    assert "not installed" not in doctor.torchvision()
    assert "torchvision" not in sys.modules


def test_a_broken_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_one.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert doctor.version("broken_one") == "cannot be imported: libGL.so.1: cannot open shared object file"


def test_a_cache_that_cannot_be_written_is_named(workshop: Workshop) -> None:  # noqa: F811
    assert doctor.cache() == f"{workshop.cache}, can be written"
    assert list(workshop.cache.iterdir()) == []
    workshop.cache.rmdir()
    workshop.cache.write_text("a file in the way")
    assert "cannot be written: " in doctor.cache()
    assert "VSR_CACHE" in doctor.cache()


@pytest.mark.parametrize(("returned", "said"), [('"avx2"', "kernels for avx2"), ("0", "not VSR_CPU_ISA=avx512")])
def test_the_instruction_set_in_use_is_told(
    workshop: Workshop,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    returned: str,
    said: str,
) -> None:
    monkeypatch.setenv("VSR_CPU_ISA", "avx512")
    workshop.source.write_text(f'extern "C" const char* vsr_cpu_isa() {{ return {returned}; }}\n')
    assert doctor.installed()["CPU"].endswith(said)
