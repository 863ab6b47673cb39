"""Data are fetched whole or not at all, whatever the connection does; every failure is one sentence."""

import hashlib
import os
import socket
import stat
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fallline.errors import StudyError
from fallline.folders import data_folder
from fallline.lab.tasks.download import Dataset, Remote, fetch

BODY = bytes(range(256)) * 4096  # 1 MiB
HALF = len(BODY) // 2


class Server(ThreadingHTTPServer):
    """Serves `body`; the first `cuts` answers end after `HALF` bytes. Records the Range of every request."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.status, self.cuts, self.knows_range, self.chunked = BODY, 200, 0, True, False
        self.sent_half = threading.Event()
        self.hold = None  # an event: waits for it after half of the body
        self.ranges = []

    def remote(self, content=BODY):
        return Remote(f"http://127.0.0.1:{self.server_port}/data/some.bin", hashlib.md5(content).hexdigest())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.knows_range else 0
        if start >= len(server.body) or server.status != 200:
            self.send_error(416 if server.status == 200 else server.status)
            return
        rest = server.body[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            rest = f"{len(rest):x}\r\n".encode() + rest + b"\r\n0\r\n\r\n"
        else:
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.close_connection = True
        self.wfile.write(rest[:HALF])
        self.wfile.flush()
        server.sent_half.set()
        if server.hold is not None:
            server.hold.wait(0.5)
        if server.cuts > 0:
            server.cuts -= 1
            return
        self.wfile.write(rest[HALF:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def left(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock") if folder.exists() else []


def sentence(error, *parts):
    text = str(error.value)
    assert text.startswith("data: ") and "\n" not in text and text.count(". ") == 0
    for part in parts:
        assert str(part) in text


def test_a_file_is_fetched_once(server, tmp_path):
    calls = []
    path = fetch(server.remote(), tmp_path / "new", lambda *call: calls.append(call))
    assert path.read_bytes() == BODY and left(tmp_path / "new") == ["some.bin"]
    assert calls[-1] == ("some.bin", len(BODY), len(BODY))
    assert fetch(server.remote(), tmp_path / "new") == path
    assert server.ranges == [None]


def test_a_wrong_hash_leaves_nothing(server, tmp_path):
    remote = server.remote(b"something else")
    with pytest.raises(StudyError) as error:
        fetch(remote, tmp_path)
    sentence(error, remote.url, remote.md5, hashlib.md5(BODY).hexdigest(), tmp_path, "--data-dir")
    assert left(tmp_path) == []


def test_a_shorter_file_than_published_leaves_nothing(server, tmp_path):
    server.body = BODY[:HALF]  # complete, as far as the server knows
    with pytest.raises(StudyError) as error:
        fetch(server.remote(), tmp_path)
    sentence(error, f"{HALF} bytes")
    assert left(tmp_path) == []


@pytest.mark.parametrize("chunked", [False, True])
def test_a_cut_connection_is_resumed_where_it_was_cut(server, tmp_path, chunked):
    server.cuts, server.chunked = 1, chunked
    assert fetch(server.remote(), tmp_path).read_bytes() == BODY
    assert left(tmp_path) == ["some.bin"]
    came = HALF - len(f"{len(BODY):x}\r\n") if chunked else HALF
    assert server.ranges == [None, f"bytes={came}-"]


def test_a_cut_connection_to_a_server_without_ranges_begins_again(server, tmp_path):
    server.cuts, server.knows_range = 1, False
    assert fetch(server.remote(), tmp_path).read_bytes() == BODY
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_a_body_that_is_always_cut_is_given_up_and_resumed_by_the_next_call(server, tmp_path):
    server.cuts, server.knows_range = 99, False
    with pytest.raises(StudyError) as error:
        fetch(server.remote(), tmp_path)
    sentence(error, f"breaks after {HALF} bytes", "rerun the same command to resume", tmp_path)
    assert len(server.ranges) == 4 and left(tmp_path) == ["some.bin.part"]
    server.cuts, server.knows_range, server.ranges = 0, True, []
    assert fetch(server.remote(), tmp_path).read_bytes() == BODY
    assert server.ranges == [f"bytes={HALF}-"] and left(tmp_path) == ["some.bin"]


def test_a_part_of_another_version_is_thrown_away(server, tmp_path):
    (tmp_path / "some.bin.part").write_bytes(b"old" * 1000)
    assert fetch(server.remote(), tmp_path).read_bytes() == BODY
    assert server.ranges == ["bytes=3000-", None]


def test_a_part_that_is_whole_is_not_fetched_again(server, tmp_path):
    (tmp_path / "some.bin.part").write_bytes(BODY)  # killed before it got its name
    assert fetch(server.remote(), tmp_path).read_bytes() == BODY
    assert server.ranges == [f"bytes={len(BODY)}-"]


def test_no_network(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        remote = Remote(f"http://127.0.0.1:{unused.getsockname()[1]}/some.bin", "0" * 32)
    with pytest.raises(StudyError) as error:
        fetch(remote, tmp_path)
    sentence(error, "no connection", remote.url, tmp_path, "--data-dir", "FALLLINE_DATA")
    assert left(tmp_path) == []


def test_a_file_that_is_gone_from_the_server(server, tmp_path):
    server.status = 404
    with pytest.raises(StudyError) as error:
        fetch(server.remote(), tmp_path)
    sentence(error, "HTTP status 404", tmp_path)
    assert left(tmp_path) == []


def test_a_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError) as error:
        fetch(server.remote(), tmp_path / "file" / "folder")
    sentence(error, "must be written to", "--data-dir")


def test_several_at_once_fetch_once(server, tmp_path):
    server.hold = threading.Event()  # long enough in the middle for the others to come
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch(server.remote(), tmp_path).read_bytes())) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [BODY] * 3 and len(server.ranges) == 1


@pytest.mark.slow
def test_a_process_killed_in_the_middle_leaves_no_half_file_and_no_lock(server, tmp_path):
    server.hold = threading.Event()
    remote = server.remote()
    imports = "from pathlib import Path; from fallline.lab.tasks.download import *"
    code = f"{imports}; fetch({remote!r}, Path({str(tmp_path)!r}))"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        assert server.sent_half.wait(60)
        process.kill()
    server.hold.set()
    assert not (tmp_path / "some.bin").exists()
    assert fetch(remote, tmp_path).read_bytes() == BODY


def test_files_are_sought_with_the_user_then_with_the_system_then_fetched(server, tmp_path, monkeypatch):
    own, system = tmp_path / "own", tmp_path / "system"
    monkeypatch.setenv("FALLLINE_DATA", str(own))
    dataset = Dataset("things", (server.remote(),), places=(system,))
    assert dataset.files() == [own / "things" / "some.bin"] and len(server.ranges) == 1
    (own / "things" / "some.bin").unlink()
    system.mkdir()
    for folder in (system, own, own / "things"):
        (folder / "some.bin").write_bytes(b"another, on purpose")
        assert dataset.files() == [folder / "some.bin"]
    assert len(server.ranges) == 1


def test_without_the_variable_data_are_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("FALLLINE_DATA", raising=False)
    monkeypatch.setenv("FALLLINE_CACHE_DIR", str(tmp_path))
    assert data_folder() == tmp_path / "data"
    monkeypatch.setenv("FALLLINE_DATA", "")
    assert data_folder() == tmp_path / "data"


@pytest.mark.skipif(os.name == "nt", reason="permissions are not checked on Windows")
def test_a_download_that_creates_the_cache_makes_it_private(server, tmp_path, monkeypatch):
    """It also holds compiled kernels, which are executed."""
    monkeypatch.delenv("FALLLINE_DATA", raising=False)
    monkeypatch.setenv("FALLLINE_CACHE_DIR", str(tmp_path / "cache"))
    before = os.umask(0)
    try:
        Dataset("things", (server.remote(),)).files()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
