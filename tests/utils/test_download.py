"""Files from a server on this machine, which can be told to misbehave."""

import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vsr.utils.download import InterruptedTransferError, check, download, fetch_once

DATA = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(DATA).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Sends ``data`` for every path, ``/redirected`` after a redirection; keeps the ranges that it was asked for.

    ranges: it understands Range; etag: it sends and understands this ETag; cut_after: it hangs up after so many bytes;
    shifted: it sends another range.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.ranges, self.cut_after, self.shifted, self.status = DATA, True, 0, False, 0
        self.etag = ""
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/net.pth"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: object) -> None:
        """Keep the screen free."""

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        if self.path == "/redirected":
            self.send_response(302)
            self.send_header("Location", server.url)
            self.end_headers()
            return
        server.asked.append(wanted)
        if server.status:
            self.send_error(server.status)
            return
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        if self.headers.get("If-Range", server.etag) != server.etag:
            begin = 0
        if begin >= len(server.data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.data)}")
            self.end_headers()
            return
        begin -= server.shifted and begin > 0
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(server.data) - 1}/{len(server.data)}")
        self.send_header("Content-Length", str(len(server.data) - begin))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        rest = server.data[begin:]
        self.wfile.write(rest[: server.cut_after] if server.cut_after else rest)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "new" / "net.pth"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("digest", [DIGEST, DIGEST[:8], ""])
def test_a_file_comes_whole_and_alone(server: Server, target: Path, digest: str) -> None:
    seen: list[tuple[int, int]] = []
    download(server.url, target, digest=digest, report=lambda come, total: seen.append((come, total)))
    assert target.read_bytes() == DATA
    assert names(target.parent) == ["net.pth"]
    assert seen[-1] == (len(DATA), len(DATA))


@pytest.mark.fault
def test_a_transfer_that_was_cut_goes_on_where_it_stopped(server: Server, target: Path) -> None:
    server.cut_after = 300_000
    for bytes_there in (300_000, 600_000, 900_000):
        with pytest.raises(InterruptedTransferError, match=f"{bytes_there} bytes came"):
            download(server.url, target, digest=DIGEST)
        assert names(target.parent) == ["net.pth.part"]
    download(server.url, target, digest=DIGEST)
    assert target.read_bytes() == DATA
    assert server.asked == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_after_a_redirection_it_goes_on_as_well(server: Server, target: Path) -> None:
    server.cut_after = 500_000
    with pytest.raises(InterruptedTransferError):
        download(server.url.replace("net.pth", "redirected"), target, digest=DIGEST)
    server.cut_after = 0
    download(server.url.replace("net.pth", "redirected"), target, digest=DIGEST)
    assert target.read_bytes() == DATA
    assert server.asked == [None, "bytes=500000-"]


def test_a_server_without_ranges_sends_all_of_it_again(server: Server, target: Path) -> None:
    server.ranges, server.cut_after = False, 700_000
    with pytest.raises(InterruptedTransferError):
        download(server.url, target, digest=DIGEST)
    server.cut_after = 0
    download(server.url, target, digest=DIGEST)
    assert target.read_bytes() == DATA


def test_without_a_digest_two_pieces_are_never_put_together(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("net.pth.part").write_bytes(b"of another file")
    download(server.url, target)
    assert target.read_bytes() == DATA
    assert server.asked == [None]


def test_a_piece_that_was_whole_already_is_only_checked(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("net.pth.part").write_bytes(DATA)
    download(server.url, target, digest=DIGEST)
    assert target.read_bytes() == DATA
    target.unlink()
    target.with_name("net.pth.part").write_bytes(DATA + b"too much")
    download(server.url, target, digest=DIGEST)
    assert target.read_bytes() == DATA


@pytest.mark.fault
def test_another_file_than_expected_is_deleted(server: Server, target: Path) -> None:
    server.data = b"another file"
    with pytest.raises(ValueError, match=f"begins with {DIGEST}, got {hashlib.sha256(b'another file').hexdigest()}"):
        download(server.url, target, digest=DIGEST)
    assert names(target.parent) == []


def test_a_piece_of_another_file_does_not_stay_for_ever(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("net.pth.part").write_bytes(b"of another file")
    with pytest.raises(ValueError, match="deleted"):
        download(server.url, target, digest=DIGEST)
    download(server.url, target, digest=DIGEST)
    assert target.read_bytes() == DATA


def test_a_range_that_was_not_asked_for_is_not_written(server: Server, target: Path) -> None:
    server.cut_after, server.shifted = 1000, True
    for _ in range(2):
        with pytest.raises(InterruptedTransferError, match="1000 bytes came"):
            download(server.url, target, digest=DIGEST)
    assert target.with_name("net.pth.part").read_bytes() == DATA[:1000]


@pytest.mark.parametrize("status", [404, 403, 500])
def test_an_answer_that_is_no_file_leaves_none(server: Server, target: Path, status: int) -> None:
    server.status = status
    with pytest.raises(InterruptedTransferError, match=f"could not fetch it, 0 bytes came: HTTP Error {status}"):
        download(server.url, target, digest=DIGEST)
    assert names(target.parent) == []


def test_nobody_there_is_an_interruption(server: Server, target: Path) -> None:
    server.server_close()
    with pytest.raises(InterruptedTransferError, match="0 bytes came"):
        download(server.url, target)


def test_the_disk_is_another_matter_than_the_network(server: Server, tmp_path: Path) -> None:
    (tmp_path / "net.pth.part").mkdir()
    with pytest.raises(IsADirectoryError):
        download(server.url, tmp_path / "net.pth", digest=DIGEST)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/net.pth", "net.pth"])
def test_only_web_addresses_are_fetched(url: str, target: Path) -> None:
    with pytest.raises(ValueError, match="expected a http or https address"):
        download(url, target)


def test_what_is_in_a_cache_that_cannot_be_locked_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VSR_CACHE", str(tmp_path))

    def refuse(*_: object) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr("vsr.utils.download.fcntl.lockf", refuse)
    file = tmp_path / "weights" / "x.pth"
    file.parent.mkdir()
    file.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert fetch_once("https://example.org/x.pth", digest) == file
    with pytest.raises(ValueError, match="expected a file whose SHA-256 begins with 00"):
        fetch_once("https://example.org/x.pth", "00" + digest)


def test_check_keeps_what_is_right(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(DATA)
    check(file, DIGEST[:8])
    assert file.read_bytes() == DATA


def test_without_a_digest_the_servers_tag_shows_that_the_pieces_fit(server: Server, target: Path) -> None:
    server.etag, server.cut_after = '"one"', 300_000
    with pytest.raises(InterruptedTransferError):
        download(server.url, target)
    server.cut_after = 0
    download(server.url, target)
    assert server.asked == [None, "bytes=300000-"]
    assert target.read_bytes() == DATA
    assert os.listdir(target.parent) == [target.name]


def test_a_file_that_was_changed_in_between_is_fetched_anew(server: Server, target: Path) -> None:
    server.etag, server.cut_after = '"one"', 300_000
    with pytest.raises(InterruptedTransferError):
        download(server.url, target)
    server.etag, server.cut_after, server.data = '"two"', 0, DATA[::-1]
    download(server.url, target)
    assert target.read_bytes() == DATA[::-1]


def test_a_weak_tag_proves_nothing(server: Server, target: Path) -> None:
    server.etag, server.cut_after = 'W/"one"', 300_000
    with pytest.raises(InterruptedTransferError):
        download(server.url, target)
    server.cut_after = 0
    download(server.url, target)
    assert server.asked == [None, None]
    assert target.read_bytes() == DATA
