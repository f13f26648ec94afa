"""Queries a vulnerability database with the OSV API (https://google.github.io/osv.dev/api)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gates.services import UnreachableError, ask_json, for_each
from gates.supply.locked import LockedPackage

_BATCH = 1000  # the maximum for one querybatch call


@dataclass(frozen=True, kw_only=True)
class Advisory:
    """An advisory from the database about one version of a package.

    Args:
        package: `NAME==VERSION`.
        name: the package's name.
        id: the database's identifier; MAL-… for a malicious package.
        aliases: other identifiers of the same advisory, such as CVE-….
        summary: a one-line description.
    """

    package: str
    name: str
    id: str
    aliases: tuple[str, ...]
    summary: str

    @property
    def is_malware(self) -> bool:
        """Whether the package itself is malicious."""
        return any(each.startswith("MAL-") for each in (self.id, *self.aliases))


def ask_database(packages: Sequence[LockedPackage], address: str) -> list[Advisory]:
    """Return every advisory on `packages` that the database at `address` has not withdrawn.

    Raises:
        UnreachableError: the database did not answer for every package.
    """
    found = _identifiers(packages, address)
    unique = sorted({identifier for _, identifier in found})
    answers = for_each(lambda each: _vulnerability(each, address), unique)
    details = dict(zip(unique, answers, strict=True))
    return [
        Advisory(
            package=package.key,
            name=package.name,
            id=identifier,
            aliases=tuple(details[identifier].get("aliases", [])),
            summary=str(details[identifier].get("summary") or "no summary"),
        )
        for package, identifier in found
        if not details[identifier].get("withdrawn")
    ]


def _identifiers(
    packages: Sequence[LockedPackage], address: str
) -> list[tuple[LockedPackage, str]]:
    found: list[tuple[LockedPackage, str]] = []
    pending: list[tuple[LockedPackage, str | None]] = [(package, None) for package in packages]
    while pending:
        batch, pending = pending[:_BATCH], pending[_BATCH:]
        body = {"queries": [_query(package, page) for package, page in batch]}
        answer = ask_json(f"{address}/v1/querybatch", body=body)
        results = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(results, list) or len(results) != len(batch):
            msg = f"{address}: did not answer for every one of {len(batch)} packages"
            raise UnreachableError(msg)
        for (package, _), result in zip(batch, results, strict=True):
            found += [(package, str(each["id"])) for each in (result or {}).get("vulns", [])]
            page = (result or {}).get("next_page_token")
            if page:
                pending.append((package, page))
    return found


def _query(package: LockedPackage, page: str | None) -> dict[str, Any]:
    identity = {"name": package.name, "ecosystem": "PyPI"}
    query: dict[str, Any] = {"package": identity, "version": package.version}
    return {**query, "page_token": page} if page else query


def _vulnerability(identifier: str, address: str) -> dict[str, Any]:
    answer = ask_json(f"{address}/v1/vulns/{identifier}")
    if not isinstance(answer, dict) or answer.get("id") != identifier:
        msg = f"{address}: returned no details of {identifier}"
        raise UnreachableError(msg)
    return answer
