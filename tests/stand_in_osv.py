"""A vulnerability database and a package index, served on this machine."""

import hashlib
import http.server
import io
import json
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from gates.supply.locked import LockedPackage


class Services(http.server.ThreadingHTTPServer):
    """Answers like OSV, and under /simple like an index of the packages `locked`.

    Attributes:
        locked: packages on the index.
        planted: advisory identifiers by `NAME==VERSION`.
        withdrawn: identifiers of withdrawn advisories.
        yanked: `NAME==VERSION` of yanked packages.
        gone: `NAME==VERSION` of packages no longer on the index.
        answers_to: the maximum number of queries answered per batch.
        busy: how many more requests to answer with 503.
        page_size: advisories per page.
        as_html: whether the index answers in HTML rather than JSON.
        has_ranges: whether the index supports range requests.
        asked: every query to the database.
        sent: bytes of package files sent.
    """

    def __init__(self, locked: list[LockedPackage]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.locked = locked
        self.planted: dict[str, tuple[str, ...]] = {}
        self.withdrawn: set[str] = set()
        self.yanked: set[str] = set()
        self.gone: set[str] = set()
        self.answers_to = 10_000
        self.busy = 0
        self.page_size = 10
        self.as_html = False
        self.has_ranges = True
        self.contents: dict[str, bytes] = {}
        self.asked: list[Any] = []
        self.sent = 0

    def handle_error(self, *_: object) -> None:
        """Ignore clients that hang up early."""

    @property
    def address(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.server_port}"

    def publish(self, name: str, version: str, fields: str, *, padding: int = 0) -> LockedPackage:
        """Add a wheel, or a source distribution if `version` ends in `.dev0`; return it locked."""
        text = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{fields}\n\nText.\n"
        stream = io.BytesIO()
        if version.endswith(".dev0"):  # a package without a wheel
            file = f"{name}-{version}.tar.gz"
            with tarfile.open(fileobj=stream, mode="w:gz") as sdist:
                member = tarfile.TarInfo(f"{name}-{version}/PKG-INFO")
                member.size = len(text)
                sdist.addfile(member, io.BytesIO(text.encode()))
        else:
            file = f"{name}-{version}-py3-none-any.whl"
            with zipfile.ZipFile(stream, "w") as wheel:
                wheel.writestr("padding", b"\0" * padding)
                wheel.writestr(f"{name}-{version}.dist-info/METADATA", text)
        self.contents[file] = stream.getvalue()
        digest = hashlib.sha256(stream.getvalue()).hexdigest()
        package = LockedPackage(name=name, version=version, files=((file, digest),), requires=())
        self.locked.append(package)
        return package


@contextmanager
def served(locked: list[LockedPackage]) -> Iterator[Services]:
    """Serve both until the block ends."""
    with Services(locked) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    @property
    def services(self) -> Services:
        return cast(Services, self.server)

    def do_POST(self) -> None:
        if self.path != "/v1/querybatch":
            self._answer(b"{}", status=404)
            return
        queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        if self.services.busy:
            self.services.busy -= 1
            self._answer(b"busy", status=503)
            return
        self.services.asked += queries
        results = [self._found(each) for each in queries]
        self._answer(json.dumps({"results": results[: self.services.answers_to]}).encode())

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name = self.path.rstrip("/").rsplit("/", 1)[-1]
        if self.path.startswith("/v1/vulns/"):
            advisory = {"id": name, "aliases": [f"CVE-of-{name}"], "summary": "planted"}
            if name in self.services.withdrawn:
                advisory["withdrawn"] = "2026-11-01T00:00:00Z"
            self._answer(json.dumps(advisory).encode())
        elif self.path.startswith("/files/"):
            self._send_file(self.services.contents[name])
        elif self.services.as_html:
            self._answer(self._html(name).encode())
        else:
            self._answer(json.dumps({"files": self._offered(name)}).encode())

    def _found(self, query: Any) -> dict[str, Any]:
        key = f"{query['package']['name']}=={query['version']}"
        every = self.services.planted.get(key, ())
        first = int(query.get("page_token", 0))
        after = first + self.services.page_size
        found = {"vulns": [{"id": each} for each in every[first:after]]} if every else {}
        return {**found, "next_page_token": str(after)} if after < len(every) else found

    def _offered(self, name: str) -> list[dict[str, Any]]:
        return [
            {
                "filename": file,
                "url": f"../../files/{file}",
                "hashes": {"sha256": digest},
                "yanked": "broken" if package.key in self.services.yanked else False,
            }
            for package in self.services.locked
            if package.name == name and package.key not in self.services.gone
            for file, digest in package.files
        ]

    def _html(self, name: str) -> str:
        return "\n".join(
            f'<a href="{each["url"]}#sha256={each["hashes"]["sha256"]}"'
            + (f' data-yanked="{each["yanked"]}"' if each["yanked"] else "")
            + f">{each['filename']}</a>"
            for each in self._offered(name)
        )

    def _send_file(self, content: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None or not self.services.has_ranges:
            ranges = {"Accept-Ranges": "bytes"} if self.services.has_ranges else {}
            self._answer(content, headers=ranges)
            return
        first, last = int(asked[1]), int(asked[2] or len(content) - 1)
        headers = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
        self._answer(content[first : last + 1], status=206, headers=headers)

    def _answer(
        self, content: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
            self.services.sent += len(content) if self.path.startswith("/files/") else 0

    def log_message(self, *_: object) -> None:
        pass
