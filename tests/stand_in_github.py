"""A stand-in for GitHub's rulesets: a real server, and a `gh` that forwards to it."""

import contextlib
import http.server
import json
import re
import shlex
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, cast

# Accepts the arguments that tasks/sessions/protect.py passes, with gh's exit codes and messages.
# The shell line starts Python, which then reads that line as a string: the path of an interpreter
# in a `#!` line must not contain a space.
GH = f"""\
#!/bin/sh
'''exec' {shlex.quote(sys.executable)} -IS "$0" "$@"
' '''
import os, socket, sys
arguments = sys.argv[1:]
if os.environ.get("GH_TOKEN") is None:
    print("To get started with GitHub CLI, please run:  gh auth login", file=sys.stderr)
    sys.exit(4)
if arguments[:2] == ["repo", "view"]:
    print("team/project")
    sys.exit()
assert arguments[:2] == ["api", "--method"], arguments
method, path, *rest = arguments[2:]
assert rest in ([], ["--input", "-"]), rest
body = sys.stdin.buffer.read() if rest else b""
# By hand: importing an HTTP library would take longer than everything else here.
with socket.create_connection(("127.0.0.1", int(os.environ["STAND_IN"]))) as connection:
    head = f"{{method}} /{{path}} HTTP/1.0\\r\\nContent-Length: {{len(body)}}\\r\\n\\r\\n"
    connection.sendall(head.encode() + body)
    head, _, answer = connection.makefile("rb").read().partition(b"\\r\\n\\r\\n")
_, code, reason = head.decode().splitlines()[0].split(" ", 2)
if int(code) >= 400:
    sys.exit(f"gh: {{reason}} (HTTP {{code}})")
print(answer.decode())
"""


class GitHub(http.server.ThreadingHTTPServer):
    """The rulesets of team/project, and the write requests received."""

    def __init__(self, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        super().__init__(address, _Handler)
        self.rulesets: dict[int, dict[str, Any]] = {}
        self.writes: list[str] = []
        self.shows_bypass = True

    @contextlib.contextmanager
    def serving(self) -> Iterator[Self]:
        """Serve in a thread."""
        with self:
            thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            yield self
            self.shutdown()
            thread.join()

    def add(self, body: dict[str, Any]) -> int:
        number = 100 + len(self.rulesets)
        self.put(number, body)
        return number

    def put(self, number: int, body: dict[str, Any]) -> None:
        """Store `body` as GitHub does: with added fields and parameters, and reordered."""
        body = json.loads(json.dumps(body))
        body["rules"].reverse()
        for rule in body["rules"]:
            if rule["type"] == "pull_request":
                rule["parameters"]["required_reviewers"] = []
        self.rulesets[number] = {
            **body,
            "id": number,
            "node_id": f"RRS_{number}",
            "source": "team/project",
            "source_type": "Repository",
            "created_at": "2026-11-01T00:00:00.000Z",
            "updated_at": "2026-11-01T00:00:00.000Z",
            "current_user_can_bypass": "never",
            "_links": {"self": {"href": f"https://api.github.example/rulesets/{number}"}},
        }


class GitHubAtSocket(GitHub):
    """The same on a Unix socket, which gh can be configured to use instead of the network."""

    address_family = socket.AF_UNIX

    def __init__(self, path: Path) -> None:
        super().__init__(cast("tuple[str, int]", str(path)))

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's would look up the host name

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, _ = super().get_request()
        return connection, ("gh", 0)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: GitHub

    def do_GET(self) -> None:
        number = self._number()
        if number is not None:
            body = dict(self.server.rulesets[number])
            if not self.server.shows_bypass:
                del body["bypass_actors"]
            return self._answer(200, body)
        if self.path == "/repos/team/project/rulesets?includes_parents=false&per_page=100":
            kept = ("id", "name", "target", "enforcement", "source", "node_id")
            summaries = [{key: each[key] for key in kept} for each in self.server.rulesets.values()]
            return self._answer(200, summaries)
        return self._answer(404, {"message": "Not Found"})

    def do_POST(self) -> None:
        self.server.writes.append(f"POST {self.path}")
        self._answer(201, self.server.rulesets[self.server.add(self._body())])

    def do_PUT(self) -> None:
        number = self._number()
        assert number is not None
        self.server.writes.append(f"PUT {self.path}")
        self.server.put(number, self._body())
        self._answer(200, self.server.rulesets[number])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass

    def _number(self) -> int | None:
        found = re.fullmatch(r"/repos/team/project/rulesets/(\d+)", self.path)
        return int(found[1]) if found and int(found[1]) in self.server.rulesets else None

    def _body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(b"".join(self._parts()))
        return body

    def _parts(self) -> Iterator[bytes]:
        """Yield the request body; the real gh reads it from a pipe and so sends it in chunks."""
        if self.headers["Transfer-Encoding"] != "chunked":
            yield self.rfile.read(int(self.headers["Content-Length"]))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _answer(self, code: int, body: object) -> None:
        answer = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


def install_gh(folder: Path) -> None:
    """Put the stand-in gh into `folder`."""
    folder.mkdir(exist_ok=True)
    program = folder / "gh"
    program.write_text(GH)
    program.chmod(0o755)
