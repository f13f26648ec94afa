"""Licences of the locked packages, recorded from their metadata because the lock has none.

The record is committed, by name and version. It can then be checked for every cell without a
network, and a version that changes its licence shows up in review.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from email.message import Message
from pathlib import Path

from gates.errors import GateInputError
from gates.files import write_text
from gates.supply.index import metadata
from gates.supply.locked import LockedPackage

# The spellings of packages without a License-Expression (PEP 639). "BSD" alone is ambiguous.
_SPELLINGS = {
    "2-clause bsd": "BSD-2-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd": "LicenseRef-BSD",
    "bsd 2-clause license": "BSD-2-Clause",
    "bsd 3-clause license": "BSD-3-Clause",
    "bsd license": "LicenseRef-BSD",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "nvidia proprietary software": "LicenseRef-NVIDIA-Proprietary",
    "psf": "PSF-2.0",
    "psfl": "PSF-2.0",
    "python software foundation license": "PSF-2.0",
    "zpl 2.1": "ZPL-2.1",
}
_EXPRESSION = re.compile(
    r"(?=.*\d|MIT$|ISC$|Zlib$|LicenseRef-)[A-Za-z0-9.+-]+( (AND|OR|WITH) [A-Za-z0-9.+-]+)*"
)


def read_record(file: Path) -> dict[str, str]:
    """Return the licences in `file`, by `NAME==VERSION`.

    Raises:
        GateInputError: the file is missing or damaged.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return {str(key): str(value) for key, value in record.items()}
    except (OSError, ValueError, AttributeError) as error:
        msg = f"{file}: cannot be read ({error}); write it: nox -s audit -- --record-licences"
        raise GateInputError(msg) from error


def write_record(packages: Sequence[LockedPackage], index: str, file: Path) -> list[str]:
    """Write the licences of `packages` to `file`; return the packages whose metadata has none.

    Args:
        packages: the locked packages.
        index: address of the package index to get their metadata from.
        file: the record, which is overwritten.

    Raises:
        UnreachableError: the index did not answer for every package.
    """
    found = {key: licence_of(fields) for key, fields in metadata(packages, index).items()}
    record = {key: licence for key, licence in found.items() if licence}
    write_text(file, json.dumps(record, indent=2, sort_keys=True) + "\n")
    return sorted(found.keys() - record.keys())


def licence_of(metadata: Message) -> str | None:
    """Return the licence in a package's metadata as an SPDX expression; None if there is none."""
    expression = metadata.get("License-Expression")
    if expression:
        return str(expression)
    named = str(metadata.get("License") or "").strip()
    if _EXPRESSION.fullmatch(named):
        return named
    classifiers = [
        str(each).rsplit(" :: ", 1)[-1]
        for each in metadata.get_all("Classifier", [])
        if str(each).startswith("License ::")
    ]
    for words in ([named], classifiers):
        found = [_SPELLINGS[word.lower()] for word in words if word.lower() in _SPELLINGS]
        if found:
            # Classifiers do not state whether the user may choose, so require all of them.
            return " AND ".join(sorted(set(found)))
    return None


def is_allowed(expression: str, allowed: Collection[str]) -> bool:
    """Whether `allowed` licences satisfy an SPDX expression."""
    from license_expression import ExpressionError, Licensing  # noqa: PLC0415 - slow to import

    licensing = Licensing()

    def met(node: object) -> bool:
        arguments = getattr(node, "args", ())
        if isinstance(node, licensing.AND):
            return all(met(each) for each in arguments)
        if isinstance(node, licensing.OR):
            return any(met(each) for each in arguments)
        return str(node) in allowed

    if expression in allowed:
        return True
    try:
        return met(licensing.parse(expression))
    except ExpressionError:
        return False


def unacceptable(
    packages: Iterable[LockedPackage],
    record: Mapping[str, str],
    *,
    allowed: Collection[str],
) -> dict[LockedPackage, str]:
    """Return, for each package whose recorded licence is not allowed, the reason."""
    verdicts = {expression: is_allowed(expression, allowed) for expression in record.values()}
    reasons: dict[LockedPackage, str] = {}
    for package in packages:
        licence = record.get(package.key)
        if licence and verdicts[licence]:
            continue
        reasons[package] = (
            f"{licence} is not among the licences that configs/audit.yaml allows"
            if licence
            else "its licence is not recorded: nox -s audit -- --record-licences"
        )
    return reasons


def with_exceptions(
    packages: Iterable[LockedPackage], record: Mapping[str, str], exceptions: Mapping[str, str]
) -> dict[str, str]:
    """Return the licence of each package, by `NAME==VERSION`; exceptions take precedence.

    Args:
        packages: the locked packages.
        record: the licences from their metadata, by `NAME==VERSION`.
        exceptions: licences that a person found in the files, by package name.
    """
    found = {each.key: exceptions.get(each.name, record.get(each.key)) for each in packages}
    return {key: licence for key, licence in found.items() if licence}
