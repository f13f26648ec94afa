"""Asks a package index about locked versions: is it yanked, and what is its licence?

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
_AT_A_TIME = 1 << 16  # bytes: of a wheel only its list of contents and its metadata are read


@dataclass(frozen=True, kw_only=True)
class Offered:
    """A file on the index.

    Args:
        name: of the file.
        url: where it is.
        sha256: its digest; empty if the index does not say.
        yanked: why its authors took it back, "" if they do not say; None if they did not.
    """

    name: str
    url: str
    sha256: str
    yanked: str | None


def withdrawn(packages: Sequence[LockedPackage], address: str) -> dict[str, str]:
    """Return why the index at `address` would no longer give out a package, by `NAME==VERSION`.

    Raises:
        UnreachableError: it did not answer for each of them.
    """
    reasons: dict[str, str] = {}
    for package, files in _locked_files(packages, address):
        if not files:
            reasons[package.key] = "none of its locked files is on the index any more"
            continue
        taken_back = [each.yanked for each in files if each.yanked is not None]
        if taken_back:
            reasons[package.key] = f"yanked by its authors: {taken_back[0] or 'no reason given'}"
    return reasons


def metadata(packages: Sequence[LockedPackage], address: str) -> dict[str, Message]:
    """Return the metadata of each package, by `NAME==VERSION`, as its locked files have it.

    Raises:
        UnreachableError: the index at `address` did not answer for each of them.
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
    ours = {package.key: {digest for _, digest in package.files} for package in packages}
    return [
        (package, [file for file in pages[package.name] if file.sha256 in ours[package.key]])
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
        return _of_wheel(file.url) if wheels else _of_sdist(ask(file.url))
    except (OSError, ValueError, StopIteration, zipfile.BadZipFile, tarfile.TarError) as error:
        msg = f"{package.key}: {file.name} could not be read ({error})"
        raise UnreachableError(msg) from error


def _of_wheel(url: str) -> str:
    """Read only the end of a wheel, if its server gives parts of a file: torch's is half a GB."""
    try:
        with opened(url, block_size=_AT_A_TIME, cache_type="bytes") as remote:
            return _in_wheel(remote)
    except (ValueError, io.UnsupportedOperation):  # as fsspec says that it gives whole files only
        return _in_wheel(io.BytesIO(ask(url)))


def _in_wheel(stream: IO[bytes]) -> str:
    with zipfile.ZipFile(stream) as wheel:
        name = next(n for n in wheel.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
        return wheel.read(name).decode(errors="replace")


def _of_sdist(content: bytes) -> str:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as sdist:
        for member in sdist:
            if re.fullmatch(r"[^/]+/PKG-INFO", member.name):
                found = sdist.extractfile(member)
                return found.read().decode(errors="replace") if found else ""
    msg = "it holds no PKG-INFO"
    raise ValueError(msg)
