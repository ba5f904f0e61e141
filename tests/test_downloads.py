"""Downloads by several processes at once, and after kills: one transfer, one whole file, no remains."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stylegan2.checkpoints.download import fetch
from stylegan2.locks import file_lock

CONTENT = b"\x80\x04" + os.urandom(3_000_000)  # begins as a pickle does
SUM = hashlib.sha256(CONTENT).hexdigest()
FETCH = """
import logging, sys
from pathlib import Path
from stylegan2.checkpoints.download import fetch
logging.basicConfig(format="%(message)s")
print("ready", flush=True)
sys.stdin.readline()
print(fetch(sys.argv[1], folder=Path(sys.argv[2])))
"""


class Server(ThreadingHTTPServer):
    """Serves CONTENT: half of it at once, the rest when `go` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.go, self.half_sent = threading.Event(), threading.Event()
        self.address = f"http://127.0.0.1:{self.server_port}/ffhq.pkl"


class Handler(BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.send_header("ETag", '"one"')
        self.end_headers()
        middle = (start + len(CONTENT)) // 2
        try:
            self.wfile.write(CONTENT[start:middle])
            self.wfile.flush()
            self.server.half_sent.set()
            self.server.go.wait(60)
            self.wfile.write(CONTENT[middle:])
        except ConnectionError:  # the other end was killed
            pass

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.go.set()
        running.shutdown()
        thread.join()


def start(address: str, folder: Path) -> subprocess.Popen[str]:
    """A process that fetches when it is told to `go`."""
    process = subprocess.Popen(
        [sys.executable, "-c", FETCH, address, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_process_fetches_and_the_others_wait(server, tmp_path):
    processes = [start(server.address, tmp_path) for _ in range(3)]
    go(*processes)
    server.go.set()
    results = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 3, results
    assert len({out for out, _ in results}) == 1
    assert Path(results[0][0].strip()).read_bytes() == CONTENT
    assert server.ranges == [None]
    assert [name.endswith("-ffhq.pkl") for name in names(tmp_path)] == [True]


def test_after_a_kill_another_goes_on_at_once(server, tmp_path):
    first, second = (start(server.address, tmp_path) for _ in range(2))
    go(first)
    assert server.half_sent.wait(60)
    go(second)
    first.kill()
    first.communicate()
    server.go.set()
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert Path(out.strip()).read_bytes() == CONTENT
    assert server.ranges[0] is None
    assert len(server.ranges) == 2
    assert len(names(tmp_path)) == 1


@pytest.mark.parametrize("damage", [b"", b"half", CONTENT[:-1], CONTENT + b"x", CONTENT[:1000] + CONTENT])
def test_a_cached_file_that_is_broken_is_fetched_again(damage, server, tmp_path):
    server.go.set()
    path = fetch(server.address, folder=tmp_path)
    path.write_bytes(damage)
    again = fetch(server.address, folder=tmp_path)
    assert again.read_bytes() == CONTENT
    assert len(server.ranges) == 2
    assert fetch(server.address, SUM, folder=tmp_path) == again
    assert len(server.ranges) == 2
    assert len(names(tmp_path)) == 1


def test_what_two_processes_of_before_have_mixed_is_fetched_again(server, tmp_path):
    server.go.set()
    key = hashlib.sha256(server.address.encode()).hexdigest()[:16]
    (tmp_path / f"{key}-ffhq.pkl").write_bytes(CONTENT[:500] + CONTENT[:500] + CONTENT[500:-500])
    assert fetch(server.address, folder=tmp_path).read_bytes() == CONTENT
    assert len(names(tmp_path)) == 1


def test_a_part_that_was_complete_already(server, tmp_path):
    """As after a kill between the transfer's end and the file's renaming."""
    server.go.set()
    key = hashlib.sha256(server.address.encode()).hexdigest()[:16]
    (tmp_path / f"{key}-ffhq.pkl.part").write_bytes(CONTENT)
    (tmp_path / f"{key}-ffhq.pkl.part.validator").write_text('"one"')
    assert fetch(server.address, folder=tmp_path).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-", None]
    assert len(names(tmp_path)) == 1


def test_a_lock_is_held_by_one_and_leaves_no_file(tmp_path):
    script = (
        "import sys; from pathlib import Path; from stylegan2.locks import file_lock\n"
        "count = Path(sys.argv[2])\n"
        "for _ in range(50):\n"
        "    with file_lock(Path(sys.argv[1])): count.write_text(str(int(count.read_text()) + 1))"
    )
    lock, count = tmp_path / "lock", tmp_path / "count"
    count.write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", script, lock, count]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0] * 3
    assert count.read_text() == "150"
    assert names(tmp_path) == ["count"]
    with file_lock(lock, waits=lambda: pytest.fail("nobody holds it")):
        assert lock.exists()
