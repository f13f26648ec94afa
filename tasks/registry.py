"""Asks container registries which digest a tag has, as their public API tells anybody."""

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
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

_FROM = re.compile(
    r"FROM\s+(?P<name>[^\s@$:]+(?::\d+/[^\s@$:]+)?):(?P<tag>[\w.-]+)@(?P<digest>sha256:[0-9a-f]{64})",
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

    @property
    def manifests(self) -> str:
        """The address below which the registry keeps the manifests."""
        host, _, path = self.name.partition("/")
        if "." not in host and ":" not in host:
            host = "registry-1.docker.io"
            path = self.name if "/" in self.name else f"library/{self.name}"
        scheme = "http" if host.split(":")[0] in {"127.0.0.1", "localhost"} else "https"
        return f"{scheme}://{host}/v2/{path}/manifests"


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


def disagreement(base: Base) -> str | None:
    """Return how the registry contradicts `base`; None if tag and digest agree.

    Raises:
        CannotAskError: the registry could not be asked.
    """
    live = _digest(base, base.tag)
    if live == base.digest:
        return None
    named = f"{base.name}:{base.tag}"
    if live is None:
        return f"{named}: there is no such tag"
    if _digest(base, base.digest) is None:
        return f"{named}: is {live}; there is no image {base.digest}"
    return f"{named}: has moved on to {live}; {base.digest} is an older one"


def _digest(base: Base, reference: str) -> str | None:
    """Return the digest of a tag or digest; None where the registry has no such image."""
    address = f"{base.manifests}/{reference}"
    headers = {"Accept": _MANIFESTS}
    try:
        answer = _head(address, headers)
        if answer.status == _UNAUTHORIZED:
            token = _token(answer.headers.get("WWW-Authenticate", ""))
            answer = _head(address, {**headers, "Authorization": f"Bearer {token}"})
    except (OSError, ValueError, KeyError) as error:
        msg = f"{base.name}: the registry does not answer: {getattr(error, 'reason', error)}"
        raise CannotAskError(msg) from error
    if answer.status == _NOT_FOUND:
        return None
    digest: str | None = answer.headers.get("Docker-Content-Digest")
    if answer.status != _OK or not digest:
        msg = f"{base.name}: the registry answers {answer.status} and no digest"
        raise CannotAskError(msg)
    return digest


def _head(address: str, headers: Mapping[str, str]) -> _Answer:
    request = urllib.request.Request(address, headers=dict(headers), method="HEAD")  # noqa: S310 - see Base
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310 - see Base
            return _Answer(answer.status, answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return _Answer(error.code, error.headers)


def _token(challenge: str) -> str:
    """Return the token that a registry gives anybody who asks where `challenge` says."""
    said = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    query = urllib.parse.urlencode({key: said[key] for key in ("service", "scope") if key in said})
    with urllib.request.urlopen(f"{said['realm']}?{query}", timeout=_SECONDS) as answer:  # noqa: S310
        given = json.load(answer)
    token: str = given.get("token") or given["access_token"]
    return token
