"""scripts/wmt/prepare.sh: downloads are complete, whatever happens to the connection."""

import functools
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.helpers.scripts import SCRIPTS, assert_refused, run_command

NAME = "training-parallel-nc-v11.tgz"


class Server(ThreadingHTTPServer):
    """Serves a folder; the first ``cuts`` answers break off in the middle."""

    def __init__(self, folder: Path, ranges: bool = True, cuts: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.ranges, self.cuts, self.asked = ranges, cuts, []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(SimpleHTTPRequestHandler):
    """Answers as the options of its `Server` say."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        start = int(asked.split("=")[1].rstrip("-")) if asked and self.server.ranges else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = len(data)
        if self.server.cuts:
            self.server.cuts -= 1
            end = start + (len(data) - start) // 2
        self.wfile.write(data[start:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve(mirror: Path) -> Iterator[Callable[..., Server]]:
    """``serve(ranges=..., cuts=...)`` starts a server of the mirror."""
    servers = []

    def start(folder: Path = mirror, **options: object) -> Server:
        servers.append(Server(folder, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def run_fetch(
    mirror: Path, out: Path, *mirrors: object, name: str = NAME
) -> subprocess.CompletedProcess[str]:
    """Run the function of scripts/wmt/prepare.sh that fetches one archive."""
    (out / "download").mkdir(exist_ok=True)
    script = (
        'set -euo pipefail; source "$1"; out=$2 archives=$3 name=$4; shift 4; '
        'for where in "$@"; do mirrors+=("$(resolve_mirror "$where")"); done; fetch_archive "$name"'
    )
    words = (SCRIPTS / "wmt/prepare.sh", out, mirror.parent / "archives.txt", name, *mirrors)
    return run_command(["bash", "-c", script, "bash", *map(str, words)])


def assert_fetched(
    done: subprocess.CompletedProcess[str], mirror: Path, out: Path, name: str = NAME
) -> None:
    assert done.returncode == 0, done.stderr
    assert (out / "download" / name).read_bytes() == (mirror / name).read_bytes()
    assert [path.name for path in (out / "download").iterdir()] == [name]


def leave_part(mirror: Path, out: Path, data: bytes | None = None) -> int:
    """Leave half of the archive, or ``data``, as an interrupted download would; return its size."""
    (out / "download").mkdir()
    whole = (mirror / NAME).read_bytes()
    part = whole[: len(whole) // 2] if data is None else data
    (out / f"download/{NAME}.part").write_bytes(part)
    return len(part)


def test_a_download_resumes(mirror: Path, tmp_path: Path, serve: Callable[..., Server]) -> None:
    half = leave_part(mirror, tmp_path)
    server = serve()
    assert_fetched(run_fetch(mirror, tmp_path, server.address), mirror, tmp_path)
    assert server.asked == [f"bytes={half}-"]
    assert run_fetch(mirror, tmp_path, server.address).stderr == ""
    assert len(server.asked) == 1


def test_a_download_continues_after_a_broken_connection(
    mirror: Path, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    server = serve(cuts=2)
    assert_fetched(run_fetch(mirror, tmp_path, server.address), mirror, tmp_path)
    assert len(server.asked) == 3


def test_a_server_that_cannot_resume_sends_the_whole_archive(
    mirror: Path, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    leave_part(mirror, tmp_path)
    assert_fetched(run_fetch(mirror, tmp_path, serve(ranges=False).address), mirror, tmp_path)


@pytest.mark.parametrize("beginning", [b"<html>", b"<html>" * 10_000])
def test_the_start_of_another_file_is_thrown_away(
    beginning: bytes, mirror: Path, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    leave_part(mirror, tmp_path, beginning)
    done = run_fetch(mirror, tmp_path, serve().address)
    assert_fetched(done, mirror, tmp_path)
    assert "is not the right archive: it" in done.stderr


def test_a_download_killed_before_its_check_is_checked(
    mirror: Path, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    leave_part(mirror, tmp_path, (mirror / NAME).read_bytes())
    server = serve()
    assert_fetched(run_fetch(mirror, tmp_path, server.address), mirror, tmp_path)
    assert server.asked == []


def test_a_download_of_unknown_size_starts_again(
    mirror: Path, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    (tmp_path / "download").mkdir()
    (tmp_path / "download/dev.tgz.part").write_bytes(b"half")
    server = serve()
    done = run_fetch(mirror, tmp_path, server.address, name="dev.tgz")
    assert_fetched(done, mirror, tmp_path, "dev.tgz")
    assert server.asked == [None]


def test_mirrors_are_tried_in_order(
    mirror: Path, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / NAME).write_bytes((mirror / NAME).read_bytes()[:-9])
    (tmp_path / "empty").mkdir()
    dead = serve(tmp_path / "empty")
    done = run_fetch(mirror, tmp_path, tmp_path / "empty", torn, dead.address, f"file://{mirror}")
    assert_fetched(done, mirror, tmp_path)
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    size = (mirror / NAME).stat().st_size
    assert notes == [
        f"note: there is no {tmp_path}/empty/{NAME}",
        f"note: {torn}/{NAME} is not the right archive: it has {size - 9} bytes, not {size}",
        f"note: could not download {NAME} from {dead.address}/{NAME}",
    ]


def test_a_dead_mirror_is_named(mirror: Path, tmp_path: Path, serve: Callable[..., Server]) -> None:
    server = serve()
    gone = server.address
    server.shutdown()
    server.server_close()
    assert_refused(
        run_fetch(mirror, tmp_path, gone, tmp_path),
        f"{gone}/{NAME}",
        f"{tmp_path}/{NAME}",
        progress=True,
    )
    assert_refused(
        run_fetch(mirror, tmp_path, name="test-full.tgz"),
        "http://nowhere/test-full.tgz",
        progress=True,
    )
