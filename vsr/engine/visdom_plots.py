"""Live plots on a Visdom server, which may be absent, slow or die: training neither waits nor stops for it."""

import contextlib
import importlib
import logging
import queue
import socket
import threading
from typing import Any

import numpy as np

from vsr.config import VisdomOptions

log = logging.getLogger(__name__)

WAITING = 1000  # calls that wait for the server; more are dropped
SEPARATOR = " of "  # 'val/loss of copy-last' is the curve copy-last in the window val/loss


class VisdomPlots:
    """Sends curves and pictures from a thread of its own; the first thing that fails is told, and ends it.

    Args:
        options: Where the server is.
        env: The environment of this run, unless the options name one.
        resumed: The run goes on from a state: curves that the server still has grow; else they begin anew.
    """

    def __init__(self, options: VisdomOptions, env: str, *, resumed: bool = False) -> None:
        self.options, self.env, self.resumed = options, options.env or env, resumed
        self._calls: queue.Queue[tuple[str, dict[str, Any]] | None] = queue.Queue(WAITING)
        self._windows: set[str] = set()  # that this process has drawn; of the sending thread
        self._ended = threading.Event()
        self._told_of_loss = False
        self._thread = threading.Thread(target=self._send_all, name="visdom", daemon=True)
        self._thread.start()

    def line(self, tag: str, value: float, step: int) -> None:
        """Add a point to a curve: the window of the tag, or the curve 'b' in the window 'a' of the tag 'a of b'."""
        window, _, curve = tag.rpartition(SEPARATOR)
        if not window or "/" in curve:  # the words stand in the name of a set: val/some of them/loss
            window, curve = tag, ""
        arguments: dict[str, Any] = {
            "X": np.array([step]), "Y": np.array([value]), "win": window, "name": curve or "network",
            "opts": {"title": window, "xlabel": "step", "showlegend": True},
        }  # fmt: skip
        self._queue("line", arguments)

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        """Show a picture, uint8 (h, w, 3) RGB, in the place of the tag's last one."""
        options = {"title": tag, "caption": f"step {step}"}
        self._queue("image", {"img": np.ascontiguousarray(image.transpose(2, 0, 1)), "win": tag, "opts": options})

    def close(self) -> None:
        """Wait for what is still to be sent, but no longer than the server may take to answer."""
        with contextlib.suppress(queue.Empty, queue.Full):
            if self._calls.full():
                self._calls.get_nowait()  # the word that it is over has to find room
            self._calls.put_nowait(None)
        self._thread.join(self.options.timeout)

    def _queue(self, method: str, arguments: dict[str, Any]) -> None:
        if self._ended.is_set():
            return
        try:
            self._calls.put_nowait((method, {"env": self.env, **arguments}))
        except queue.Full:
            if not self._told_of_loss:
                self._told_of_loss = True
                log.warning("logger.visdom: the server is too slow; some of the plots are left out")

    def _send_all(self) -> None:
        try:
            server = self._connect()
            while (call := self._calls.get()) is not None:
                method, arguments = call
                if method == "line" and self._is_there(server, arguments["win"]):
                    arguments["update"] = "append"  # without it, a point would take the place of the window
                getattr(server, method)(**arguments)
        except Exception as error:  # no package, no server, one that breaks down: of as many kinds as it has versions
            log.warning("logger.visdom: no live plots from now on: %s. All is in log.jsonl and TensorBoard, too", error)
        finally:
            self._ended.set()

    def _is_there(self, server: Any, window: str) -> bool:
        """Whether points are to be added to a window, as this run has drawn it, or what it goes on from has."""
        if window in self._windows:
            return True
        self._windows.add(window)
        return bool(self.resumed and server.win_exists(window, env=self.env))

    def _connect(self) -> Any:
        options = self.options
        try:
            visdom = importlib.import_module("visdom")
        except ImportError as error:
            raise RuntimeError(f"the package visdom cannot be imported ({error}): pip install visdom") from error
        host = options.server.rpartition("://")[2].rstrip("/")
        try:  # the package would try again and again
            socket.create_connection((host, options.port), timeout=options.timeout).close()
        except OSError as error:
            raise RuntimeError(
                f"no server at {host}:{options.port} ({error}): python -m visdom.server -port {options.port}"
            ) from error
        address = options.server if "://" in options.server else f"http://{options.server}"
        return visdom.Visdom(
            server=address, port=options.port, env=self.env, raise_exceptions=True, use_incoming_socket=False
        )
