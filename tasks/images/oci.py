"""Asks container registries for the digest of a tag, anonymously or with a login."""

import base64
import http.client
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from email.message import Message
from typing import NamedTuple

# An image for several machines has the digest of its index; without these types in the request, a
# registry would return another digest.
_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json,"
    "application/vnd.docker.distribution.manifest.list.v2+json,"
    "application/vnd.oci.image.manifest.v1+json,"
    "application/vnd.docker.distribution.manifest.v2+json"
)
_SECONDS = 30
_OK, _UNAUTHORIZED, _NOT_FOUND = 200, 401, 404
# A registry on this machine may use plain http.
_LOOPBACK = frozenset({"127.0.0.1", "localhost"})

_DIGEST = r"sha256:[0-9a-f]{64}"
_FROM = re.compile(
    rf"FROM\s+(?:--\S+\s+)*(?P<name>[^\s@$:]+(?::\d+/[^\s@$:]+)?):(?P<tag>[\w.-]+)@(?P<digest>{_DIGEST})",
    re.IGNORECASE,
)


class CannotAskError(Exception):
    """The registry gave no usable answer, or could not be asked."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """An image that a Dockerfile builds on.

    Args:
        line: the line of its FROM.
        name: as in the Dockerfile, without tag and digest.
        tag: its version; the publisher may move the tag to another image.
        digest: the SHA-256 that identifies it.
    """

    line: int
    name: str
    tag: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Login:
    """Credentials for a registry."""

    user: str
    token: str = field(repr=False)

    @property
    def basic(self) -> str:
        """The value of the Authorization header."""
        return f"Basic {base64.b64encode(f'{self.user}:{self.token}'.encode()).decode()}"


class _Answer(NamedTuple):
    status: int
    headers: Message


def bases(dockerfile: str) -> list[Base]:
    """Return the images that `dockerfile` names by tag and digest."""
    return [
        Base(line=number, name=found["name"], tag=found["tag"], digest=found["digest"])
        for number, line in enumerate(dockerfile.splitlines(), start=1)
        if (found := _FROM.match(line))
    ]


def manifests(name: str) -> str:
    """Return the URL under which the registry serves the manifests of the image `name`."""
    host, _, path = name.partition("/")
    if "." not in host and ":" not in host and host not in _LOOPBACK:
        host = "registry-1.docker.io"
        path = name if "/" in name else f"library/{name}"
    scheme = "http" if host.split(":")[0] in _LOOPBACK else "https"
    return f"{scheme}://{host}/v2/{path}/manifests"


def disagreement(base: Base) -> str | None:
    """Return how the registry contradicts `base`; None if tag and digest agree.

    Raises:
        CannotAskError: the registry could not be asked.
    """
    live = digest(base.name, base.tag)
    if live == base.digest:
        return None
    named = f"{base.name}:{base.tag}"
    if live is None:
        return f"{named}: there is no such tag"
    if digest(base.name, base.digest) is None:
        return f"{named}: is {live}; there is no image {base.digest}"
    return f"{named}: has moved to {live}; {base.digest} is older"


def digest(name: str, reference: str, login: Login | None = None) -> str | None:
    """Return the digest for a tag or digest of `name`; None if the registry has no such image.

    Raises:
        CannotAskError: the registry could not be asked.
    """
    address = f"{manifests(name)}/{reference}"
    try:
        answer = _head(address)
        if answer.status == _UNAUTHORIZED:
            challenge = answer.headers.get("WWW-Authenticate", "")
            answer = _head(address, _authorization(challenge, login))
    except (OSError, ValueError, KeyError, RecursionError, http.client.HTTPException) as error:
        msg = f"{name}: the registry does not answer: {getattr(error, 'reason', error)}"
        raise CannotAskError(msg) from error
    if answer.status == _NOT_FOUND:
        return None
    found: str = answer.headers.get("Docker-Content-Digest", "")
    if answer.status != _OK or not re.fullmatch(_DIGEST, found):
        msg = f"{name}: the registry answers with status {answer.status} and no digest"
        raise CannotAskError(msg)
    return found


def _head(address: str, authorization: str | None = None) -> _Answer:
    request = urllib.request.Request(address, headers={"Accept": _MANIFESTS}, method="HEAD")  # noqa: S310 - see manifests
    try:
        with _open(request, authorization) as answer:
            return _Answer(answer.status, answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return _Answer(error.code, error.headers)


def _authorization(challenge: str, login: Login | None) -> str:
    """Return the Authorization header for `challenge`: the login, or a token that it obtains."""
    if not challenge.lower().startswith("basic"):
        return f"Bearer {_token(challenge, login)}"
    if login is None:
        msg = "it requires a login"
        raise ValueError(msg)
    return login.basic


def _token(challenge: str, login: Login | None) -> str:
    """Return a token from the server that `challenge` names, anonymously or for `login`."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    query = urllib.parse.urlencode(
        {key: fields[key] for key in ("service", "scope") if key in fields}
    )
    realm = _checked_realm(fields["realm"])
    request = urllib.request.Request(f"{realm}?{query}")  # noqa: S310 - it is checked
    with _open(request, None if login is None else login.basic) as answer:
        response = json.load(answer)
    names = ("token", "access_token") if isinstance(response, dict) else ()
    tokens = [response[name] for name in names if response.get(name)]
    if not tokens or not isinstance(tokens[0], str):
        msg = "it returns no token"
        raise ValueError(msg)
    return tokens[0]


def _checked_realm(realm: str) -> str:
    """Return `realm`, the URL for tokens, if credentials can be sent there safely.

    Raises:
        ValueError: it uses neither https nor this machine.
    """
    parts = urllib.parse.urlsplit(realm)
    is_local = parts.scheme == "http" and parts.hostname in _LOOPBACK
    if not is_local and not (parts.scheme == "https" and parts.hostname):
        msg = f"it issues tokens at {realm!r}, which is neither https nor on this machine"
        raise ValueError(msg)
    return realm


def _open(request: urllib.request.Request, authorization: str | None) -> http.client.HTTPResponse:
    if authorization is not None:
        request.add_unredirected_header("Authorization", authorization)  # for this host only
    answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_SECONDS)  # noqa: S310
    return answer
