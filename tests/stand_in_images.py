"""A stand-in for a container registry that only resolves tags to digests."""

import base64
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

USER, TOKEN = "alice", "a secret"


class Images(http.server.ThreadingHTTPServer):
    """Anyone who fetches a token can resolve any image but the ones below.

    `team/private` needs the user's token and `team/closed` needs basic authentication;
    `team/broken` always answers 500.

    Attributes:
        digests: by `NAME:TAG`; an image is also found by its digest.
        asked: the Authorization header of each request.
        realm: the token endpoint named in challenges.
        token_body: the body that the token endpoint returns instead of a token.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.digests: dict[str, str] = {}
        self.asked: list[str | None] = []
        self.realm = f"http://{self.host}/token"
        self.token_body: bytes | None = None

    @property
    def host(self) -> str:
        """The prefix of its image names."""
        return f"127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        images = cast("Images", self.server)
        name, _, reference = self.path.removeprefix("/v2/").partition("/manifests/")
        given = self.headers["Authorization"]
        images.asked.append(given)
        challenge = 'Basic realm="images"'
        if name != "team/closed":
            challenge = f'Bearer realm="{images.realm}",service="s",scope="repository:pull"'
        if given not in _let_in(name):
            return self._answer(401 if given is None else 403, **{"WWW-Authenticate": challenge})
        if name == "team/broken":
            return self._answer(500)
        listed = "oci.image.index" in self.headers["Accept"]
        known = {key: value for key, value in images.digests.items() if key.startswith(f"{name}:")}
        found = known.get(f"{name}:{reference}", reference if reference in known.values() else None)
        if found is None or not listed:
            return self._answer(404)
        return self._answer(200, **{"Docker-Content-Digest": found})

    def do_GET(self) -> None:
        assert self.path == "/token?service=s&scope=repository%3Apull"
        given = self.headers["Authorization"]
        images = cast("Images", self.server)
        images.asked.append(given)
        self._answer(200)
        token = b'{"token": "%s"}' % (b"alices" if given == _LOGIN else b"anybodys")
        self.wfile.write(token if images.token_body is None else images.token_body)

    def _answer(self, code: int, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


_LOGIN = f"Basic {base64.b64encode(f'{USER}:{TOKEN}'.encode()).decode()}"


def _let_in(name: str) -> tuple[str, ...]:
    if name == "team/closed":
        return (_LOGIN,)
    return ("Bearer alices",) if name == "team/private" else ("Bearer alices", "Bearer anybodys")


@contextmanager
def served() -> Iterator[Images]:
    """Serve an empty registry until the block ends."""
    with Images() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
