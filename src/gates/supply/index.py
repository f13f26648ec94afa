"""Asks a package index about locked versions: are they yanked, and what is their metadata?

https://packaging.python.org/en/latest/specifications/simple-repository-api/
"""

import email
import io
import json
import re
import tarfile
import urllib.parse
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import Message
from typing import IO

from gates.errors import GateInputError
from gates.locations import opened
from gates.services import UnreachableError, ask, for_each
from gates.supply.locked import LockedPackage

_SIMPLE = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
_BLOCK_BYTES = 1 << 16  # small: only a wheel's list of contents and its metadata are read


@dataclass(frozen=True, kw_only=True)
class Offered:
    """A file on the index.

    Args:
        name: the file's name.
        url: the file's address.
        sha256: its digest; empty if the index gives none.
        yanked: why it was yanked, "" if no reason is given; None if it was not yanked.
    """

    name: str
    url: str
    sha256: str
    yanked: str | None


def withdrawn(packages: Sequence[LockedPackage], address: str) -> dict[str, str]:
    """Return why packages are yanked or gone from the index at `address`, by `NAME==VERSION`.

    Raises:
        UnreachableError: the index did not answer for every package.
    """
    reasons: dict[str, str] = {}
    for package, files in _locked_files(packages, address):
        if not files:
            reasons[package.key] = "none of its locked files is on the index any more"
            continue
        yanked = [each.yanked for each in files if each.yanked is not None]
        if yanked:
            reasons[package.key] = f"yanked by its authors: {yanked[0] or 'no reason given'}"
    return reasons


def metadata(packages: Sequence[LockedPackage], address: str) -> dict[str, Message]:
    """Return the metadata in the locked files of each package, by `NAME==VERSION`.

    Raises:
        UnreachableError: the index at `address` did not answer for every package.
    """
    found = _locked_files(packages, address)
    texts = for_each(lambda each: _metadata(each[0], each[1]), found)
    keys = [package.key for package, _ in found]
    return {key: email.message_from_string(text) for key, text in zip(keys, texts, strict=True)}


def _locked_files(
    packages: Sequence[LockedPackage], address: str
) -> list[tuple[LockedPackage, list[Offered]]]:
    names = sorted({package.name for package in packages})
    pages = dict(zip(names, for_each(lambda name: _page(name, address), names), strict=True))
    locked = {package.key: {digest for _, digest in package.files} for package in packages}
    return [
        (package, [file for file in pages[package.name] if file.sha256 in locked[package.key]])
        for package in packages
    ]


def _page(name: str, address: str) -> list[Offered]:
    url = f"{address.rstrip('/')}/{name}/"
    page = ask(url, headers={"Accept": _SIMPLE})
    try:
        files = json.loads(page)["files"]
    except (ValueError, KeyError, TypeError):
        return _read_html(page.decode(errors="replace"), url)
    found: list[Offered] = []
    for each in files:
        why = each.get("yanked", False)
        found.append(
            Offered(
                name=each["filename"],
                url=urllib.parse.urljoin(url, each["url"]),
                sha256=each["hashes"].get("sha256", ""),
                yanked=None if why is False else "" if why is True else why,
            )
        )
    return found


def _read_html(page: str, url: str) -> list[Offered]:
    found: list[Offered] = []
    for tag in re.findall(r"<a\s[^>]*>", page):
        link = re.search(r'href="([^"#]*)#sha256=([0-9a-f]{64})"', tag)
        why = re.search(r'data-yanked(?:="([^"]*)")?', tag)
        if link:
            name = urllib.parse.unquote(link[1].rsplit("/", 1)[-1])
            where = urllib.parse.urljoin(url, link[1])
            yanked = (why[1] or "") if why else None
            found.append(Offered(name=name, url=where, sha256=link[2], yanked=yanked))
    return found


def _metadata(package: LockedPackage, files: Sequence[Offered]) -> str:
    wheels = [each for each in files if each.name.endswith(".whl")]
    sdists = [each for each in files if each.name.endswith(".tar.gz")]
    if not wheels and not sdists:
        msg = f"{package.key}: none of its locked files is on the index any more; update the lock"
        raise GateInputError(msg)
    file = (wheels or sdists)[0]
    try:
        return _wheel_metadata(file.url) if wheels else _sdist_metadata(ask(file.url))
    except (OSError, ValueError, StopIteration, zipfile.BadZipFile, tarfile.TarError) as error:
        msg = f"{package.key}: {file.name} could not be read ({error})"
        raise UnreachableError(msg) from error


def _wheel_metadata(url: str) -> str:
    """Read only the end of a wheel if the server supports ranges: torch's is half a GB."""
    try:
        with opened(url, block_size=_BLOCK_BYTES, cache_type="bytes") as remote:
            return _read_metadata(remote)
    except (ValueError, io.UnsupportedOperation):  # fsspec's errors for a server without ranges
        return _read_metadata(io.BytesIO(ask(url)))


def _read_metadata(stream: IO[bytes]) -> str:
    with zipfile.ZipFile(stream) as wheel:
        name = next(n for n in wheel.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
        return wheel.read(name).decode(errors="replace")


def _sdist_metadata(content: bytes) -> str:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as sdist:
        for member in sdist:
            if re.fullmatch(r"[^/]+/PKG-INFO", member.name):
                found = sdist.extractfile(member)
                return found.read().decode(errors="replace") if found else ""
    msg = "it has no PKG-INFO"
    raise ValueError(msg)
