"""A proxy on loopback that records requests; its host names resolve nowhere else."""

import http.client
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Proxy(ThreadingHTTPServer):
    """Forwards requests and records each method and URL in `asked`.

    Args:
        hosts: HOST:PORT on this machine by a host name that only the proxy can resolve.
    """

    daemon_threads = True

    def __init__(self, hosts: Mapping[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hosts = hosts
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://user:secret@127.0.0.1:{self.server_port}"  # pragma: allowlist secret


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def _forward(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        parts = urllib.parse.urlsplit(self.path)
        there = self.server.hosts.get(parts.hostname or "")
        if there is None or not self.headers["Proxy-Authorization"]:
            self.send_error(502 if there is None else 407)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kept = ("accept", "content-type", "range")
        headers = {k: v for k, v in self.headers.items() if k.lower() in kept}
        connection = http.client.HTTPConnection(there)
        connection.request(self.command, parts.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "text/plain"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        connection.close()

    do_GET = do_HEAD = do_POST = _forward  # noqa: N815 - the base class's names

    def do_CONNECT(self) -> None:
        self.server.asked.append(f"CONNECT {self.path}")
        self.send_error(502)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def proxy(hosts: Mapping[str, str]) -> Iterator[Proxy]:
    with Proxy(hosts) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
