"""Running scripts within the tests' process, which spares them the seconds that imports take."""

import importlib.util
import sys
from collections.abc import Callable

import pytest
from kit import ROOT

from vsr.utils import logs

RunScript = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunScript:
    """Return a function that runs a script's main: (status, output, errors)."""
    monkeypatch.setattr(logs, "setup", lambda: None)  # leaves the handlers of the tests alone

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        spec = importlib.util.spec_from_file_location(name.removesuffix(".py"), ROOT / "scripts" / name)
        assert spec is not None
        assert spec.loader is not None
        script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        try:
            status = script.main()
        except SystemExit as end:
            status = int(str(end.code))
        return status, *capsys.readouterr()

    return run
