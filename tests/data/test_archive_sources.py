"""Archives from a server on this machine that can be told to hang up midway."""

import http.server
import io
import os
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vsr.data import archive_sources
from vsr.data.archive_sources import Archive, fetch_archives
from vsr.utils.download import InterruptedTransferError


def zip_of(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", content)
    return file.getvalue()


FILES = {"/a.zip": zip_of(b"a" * 50_000), "/b.zip": zip_of(b"b" * 50_000), "/page.zip": b"<!DOCTYPE html><html>"}


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends FILES, with ranges and tags; of /a.zip at most ``cut`` bytes at a time."""

    cut = 0
    asked: list[tuple[str, str | None]]

    def log_message(self, *args: object) -> None:
        """Keep the screen free."""

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append((self.path, wanted))
        data = FILES.get(self.path)
        if data is None:
            self.send_error(404)
            return
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", f'"{self.path}"')
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        self.wfile.write(data[begin : begin + self.cut if self.cut and self.path == "/a.zip" else None])


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Handler]]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(archive_sources, "PAUSE", 0.0)
    handler = type("Handler", (Handler,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        handler.address = f"http://127.0.0.1:{server.server_port}"
        yield handler
        server.shutdown()
        thread.join()


def archive(handler: type[Handler], name: str, size: int = 0) -> Archive:
    return Archive(f"{name}.zip", {"here": f"{handler.address}/{name}.zip"}, size)  # type: ignore[attr-defined]


def test_a_transfer_that_breaks_off_goes_on_by_itself(tmp_path: Path, handler: type[Handler]) -> None:
    handler.cut = 20_000
    archives = [archive(handler, "a"), archive(handler, "b")]
    files = fetch_archives(archives, tmp_path / "new", server="here", page="the page")
    assert [file.read_bytes() for file in files] == [FILES["/a.zip"], FILES["/b.zip"]]
    assert handler.asked[:3] == [("/a.zip", None), ("/a.zip", "bytes=20000-"), ("/a.zip", "bytes=40000-")]
    assert sorted(os.listdir(tmp_path / "new")) == ["a.zip", "b.zip"]
    handler.asked.clear()
    fetch_archives(archives, tmp_path / "new", server="here", page="the page")
    assert handler.asked == []


def test_one_that_fails_does_not_lose_the_others(tmp_path: Path, handler: type[Handler]) -> None:
    archives = [archive(handler, name) for name in ("none", "page", "a")]
    with pytest.raises(InterruptedTransferError) as caught:
        fetch_archives(archives, tmp_path, server="here", page="https://the.page")
    message = str(caught.value)
    assert "2 of 3 archives could not be fetched: none.zip (http://127.0.0.1:" in message
    assert "/none.zip), page.zip (http://" in message
    assert f"fetch them elsewhere (see https://the.page) and put them into {tmp_path}" in message
    assert os.listdir(tmp_path) == ["a.zip"]


def test_a_page_in_place_of_an_archive_is_told_and_deleted(
    tmp_path: Path, handler: type[Handler], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InterruptedTransferError):
        fetch_archives([archive(handler, "page")], tmp_path, server="here", page="")
    assert "expected a zip archive, got something that begins with b'<!DOCTYPE html" in caplog.text
    assert os.listdir(tmp_path) == []


def test_without_a_connection_the_address_and_the_place_are_told(tmp_path: Path) -> None:
    nowhere = Archive("a.zip", {"here": "http://127.0.0.1:9/a.zip"})
    with pytest.raises(
        InterruptedTransferError, match=rf"a\.zip \(http://127\.0\.0\.1:9/a\.zip\).*put them into {tmp_path}"
    ):
        fetch_archives([nowhere], tmp_path, server="here", page="the page")
    with pytest.raises(InterruptedTransferError, match=r"a\.zip \(the page\)"):
        fetch_archives([nowhere], tmp_path, server="there", page="the page")


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(
    tmp_path: Path, handler: type[Handler], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InterruptedTransferError):
        fetch_archives([archive(handler, "a", 10**18)], tmp_path, server="here", page="")
    assert "no space left: 1000000000.00 GB are still to come" in caplog.text
    assert handler.asked == []
