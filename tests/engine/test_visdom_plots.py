"""Live plots: what a server is sent, and that nothing waits for one that is not there, hangs or fails."""

import logging
import socket
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prediction_sets import write_humaneva

from vsr.config import VisdomOptions, load_options
from vsr.engine.train import train
from vsr.engine.visdom_plots import VisdomPlots


@pytest.fixture
def port() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("localhost", 0)) as server:
        yield server.getsockname()[1]


class Server:
    """What stands for visdom.Visdom; ``seen`` are its calls."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.built: dict[str, Any] = {}
        self.windows: set[tuple[str, str]] = set()  # that are there, by environment
        self.fail = False
        self.hang: threading.Event | None = None

    def __call__(self, **arguments: Any) -> "Server":
        self.built = arguments
        return self

    def _note(self, method: str, arguments: dict[str, Any]) -> None:
        if self.hang:
            self.hang.wait()
        if self.fail:
            raise ConnectionError("gone")
        self.seen.append((method, arguments))

    def line(self, **arguments: Any) -> None:
        self._note("line", arguments)
        self.windows.add((arguments["env"], arguments["win"]))

    def win_exists(self, win: str, env: str) -> bool:
        return (env, win) in self.windows

    def image(self, **arguments: Any) -> None:
        self._note("image", arguments)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made, module = Server(), types.ModuleType("visdom")
    module.Visdom = made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "visdom", module)
    return made


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "visdom" in r.getMessage()]


def test_curves_grow_in_their_windows_and_pictures_take_each_other_s_place(server: Server, port: int) -> None:
    plots = VisdomPlots(VisdomOptions(port=port), "run")
    for step in (1, 2):
        plots.line("val/loss", step / 10, step)
        plots.line("val/loss of copy-last", 0.5, step)
    plots.line("train/loss", 1.0, 2)
    plots.image("weights", np.zeros((4, 6, 3), np.uint8), 2)
    plots.close()
    assert server.built["port"] == port
    assert server.built["server"] == "http://localhost"
    assert server.built["env"] == "run"
    assert server.built["use_incoming_socket"] is False
    lines = [arguments for method, arguments in server.seen if method == "line"]
    assert [(a["win"], a["name"], a.get("update"), a["X"][0], a["Y"][0]) for a in lines] == [
        ("val/loss", "network", None, 1, 0.1),
        ("val/loss", "copy-last", "append", 1, 0.5),
        ("val/loss", "network", "append", 2, 0.2),
        ("val/loss", "copy-last", "append", 2, 0.5),
        ("train/loss", "network", None, 2, 1.0),
    ]
    ((_, picture),) = [call for call in server.seen if call[0] == "image"]
    assert picture["img"].shape == (3, 4, 6)
    assert (picture["win"], picture["env"], picture["opts"]["caption"]) == ("weights", "run", "step 2")


@pytest.mark.parametrize("resumed", [False, True])
def test_the_curves_of_a_run_that_goes_on_grow_and_those_of_a_new_one_begin_anew(
    server: Server, port: int, resumed: bool
) -> None:
    server.windows = {("run", "train/total"), ("other", "train/lr")}  # of an earlier process, and of another run
    plots = VisdomPlots(VisdomOptions(port=port), "run", resumed=resumed)
    for step in (6, 7):
        for tag in ("train/total", "train/lr"):
            plots.line(tag, 0.5, step)
    plots.close()
    assert [(a["win"], a.get("update"), a["X"][0]) for _, a in server.seen] == [
        ("train/total", "append" if resumed else None, 6),
        ("train/lr", None, 6),
        ("train/total", "append", 7),
        ("train/lr", "append", 7),
    ]


def test_the_name_of_a_set_may_hold_what_parts_a_window_from_a_curve(server: Server, port: int) -> None:
    plots = VisdomPlots(VisdomOptions(port=port), "run")
    for tag in ("val/half of it/loss", "val/half of it/loss of copy-last", "val/half of it/l1"):
        plots.line(tag, 0.5, 1)
    plots.close()
    assert [(a["win"], a["name"]) for _, a in server.seen] == [
        ("val/half of it/loss", "network"),
        ("val/half of it/loss", "copy-last"),
        ("val/half of it/l1", "network"),
    ]


def test_a_server_that_is_not_there_costs_one_warning(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("localhost", 0)) as closed:
        free = closed.getsockname()[1]
    plots = VisdomPlots(VisdomOptions(port=free), "run")
    plots._thread.join(10)
    for step in range(5000):
        plots.line("loss", 0.0, step)
    plots.close()
    assert len(warnings_of(caplog)) == 1
    assert f"no server at localhost:{free}" in warnings_of(caplog)[0]
    assert f"python -m visdom.server -port {free}" in warnings_of(caplog)[0]
    assert server.built == {}  # the package itself was not even asked


def test_a_package_that_is_not_there_costs_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, port: int
) -> None:
    monkeypatch.setitem(sys.modules, "visdom", None)
    plots = VisdomPlots(VisdomOptions(port=port), "run")
    plots.line("loss", 0.0, 1)
    plots.close()
    assert len(warnings_of(caplog)) == 1
    assert "pip install visdom" in warnings_of(caplog)[0]


def test_a_server_that_dies_is_left_alone(server: Server, caplog: pytest.LogCaptureFixture, port: int) -> None:
    server.fail = True
    plots = VisdomPlots(VisdomOptions(port=port), "run")
    for step in range(10):
        plots.line("loss", 0.0, step)
    plots.close()
    assert [text for text in warnings_of(caplog) if "gone" in text] == warnings_of(caplog)
    assert len(warnings_of(caplog)) == 1


def test_nobody_waits_for_a_server_that_hangs(server: Server, caplog: pytest.LogCaptureFixture, port: int) -> None:
    server.hang = threading.Event()
    plots = VisdomPlots(VisdomOptions(port=port, timeout=0.1), "run")
    began = time.monotonic()
    for step in range(5000):
        plots.line("loss", 0.0, step)
    plots.close()
    assert time.monotonic() - began < 5
    assert len(warnings_of(caplog)) == 1
    assert "too slow" in warnings_of(caplog)[0]
    server.hang.set()
    plots._thread.join(10)


def test_a_run_shows_its_losses_baselines_and_weights(
    server: Server, port: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    option, given = write_humaneva(tmp_path), [f"logger.visdom={{port: {port}, timeout: 20}}"]
    train(load_options(option, given))
    assert warnings_of(caplog) == []
    curves = {(a["win"], a["name"]) for method, a in server.seen if method == "line"}
    assert {("train/total", "network"), ("val/val/loss", "network"), ("val/val/loss", "copy-last")} < curves
    assert ("val/val/loss", "mean-of-memory") in curves
    assert {a["env"] for _, a in server.seen} == {"predicted"}
    pictures = {a["win"] for method, a in server.seen if method == "image"}
    assert "weights/best_loss/bottleneck_hop1_slot00" in pictures
    (sample,) = [name for name in pictures if name.startswith("val/val/")]
    assert sample.endswith("(input, restored, ground truth)")

    def points() -> list[tuple[int, str | None]]:
        totals = [a for method, a in server.seen if method == "line" and a["win"] == "train/total"]
        return [(int(a["X"][0]), a.get("update")) for a in totals]

    assert points() == [(1, None), (2, "append")]
    train(load_options(option, [*given, "train.total_iter=3"]))  # goes on from step 2
    assert points()[2:] == [(3, "append")]
