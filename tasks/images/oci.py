"""Asks container registries which digest a tag has, as their API tells anybody or who logs in."""

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

# Of an image for several machines the digest is that of the list; not naming these gets another.
_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json,"
    "application/vnd.docker.distribution.manifest.list.v2+json,"
    "application/vnd.oci.image.manifest.v1+json,"
    "application/vnd.docker.distribution.manifest.v2+json"
)
_SECONDS = 30
_OK, _UNAUTHORIZED, _NOT_FOUND = 200, 401, 404
# What is on this machine needs no https.
_LOOPBACK = frozenset({"127.0.0.1", "localhost"})

_DIGEST = r"sha256:[0-9a-f]{64}"
_FROM = re.compile(
    rf"FROM\s+(?:--\S+\s+)*(?P<name>[^\s@$:]+(?::\d+/[^\s@$:]+)?):(?P<tag>[\w.-]+)@(?P<digest>{_DIGEST})",
    re.IGNORECASE,
)


class CannotAskError(Exception):
    """The registry gave no answer that could be judged."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """An image that a Dockerfile builds on.

    Args:
        line: where its FROM is.
        name: as the Dockerfile has it, without tag and digest.
        tag: what people call it; its publisher may move it to another image.
        digest: what it is.
    """

    line: int
    name: str
    tag: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Login:
    """Who asks, for what a registry does not tell anybody."""

    user: str
    token: str = field(repr=False)

    @property
    def basic(self) -> str:
        """The value of the header Authorization that says it."""
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
    """Return the address below which the registry of the image `name` keeps its manifests."""
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
    return f"{named}: has moved on to {live}; {base.digest} is an older one"


def digest(name: str, reference: str, login: Login | None = None) -> str | None:
    """Return the digest of a tag or digest of `name`; None where the registry has no such image.

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
        msg = f"{name}: the registry answers {answer.status} and no digest"
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
    """Return what answers `challenge`: the login, or a token that the registry gives for it."""
    if not challenge.lower().startswith("basic"):
        return f"Bearer {_token(challenge, login)}"
    if login is None:
        msg = "it wants a login"
        raise ValueError(msg)
    return login.basic


def _token(challenge: str, login: Login | None) -> str:
    """Return the token that a registry gives anybody, or `login`, where `challenge` says."""
    said = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    query = urllib.parse.urlencode({key: said[key] for key in ("service", "scope") if key in said})
    realm = _checked_realm(said["realm"])
    request = urllib.request.Request(f"{realm}?{query}")  # noqa: S310 - it is checked
    with _open(request, None if login is None else login.basic) as answer:
        given = json.load(answer)
    names = ("token", "access_token") if isinstance(given, dict) else ()
    tokens = [given[name] for name in names if given.get(name)]
    if not tokens or not isinstance(tokens[0], str):
        msg = "it gives no token"
        raise ValueError(msg)
    return tokens[0]


def _checked_realm(realm: str) -> str:
    """Return where tokens come from, if nobody on the way there can hear who asks."""
    parts = urllib.parse.urlsplit(realm)
    is_here = parts.scheme == "http" and parts.hostname in _LOOPBACK
    if not is_here and not (parts.scheme == "https" and parts.hostname):
        msg = f"it has its tokens at {realm!r}, which is neither https nor on this machine"
        raise ValueError(msg)
    return realm


def _open(request: urllib.request.Request, authorization: str | None) -> http.client.HTTPResponse:
    if authorization is not None:
        request.add_unredirected_header("Authorization", authorization)  # it is for this host only
    answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_SECONDS)  # noqa: S310
    return answer
