"""Decisions about the locked packages, from configs/audit.yaml."""

from datetime import date
from pathlib import Path

from pydantic import Field

from gates.configuration import Section, read_yaml, validate


class Ignored(Section):
    """An advisory that is ignored until a given day.

    Args:
        id: the database's identifier, or one of its aliases.
        package: the package's name.
        reason: why it does no harm here.
        owner: who is responsible for the decision.
        expires: the last day on which it is ignored.
    """

    id: str = Field(min_length=1)
    package: str = Field(min_length=1)
    reason: str = Field(min_length=1)
    owner: str = Field(min_length=1)
    expires: date


class LicenceException(Section):
    """A package whose licence a person has reviewed.

    Args:
        package: the package's name.
        licence: the licence in its files, as an SPDX expression.
        reason: why it may be used.
    """

    package: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    reason: str = Field(min_length=1)


class Lookalike(Section):
    """A genuine package whose name resembles another one's.

    Args:
        package: the package's name.
        reason: how that was established.
    """

    package: str = Field(min_length=1)
    reason: str = Field(min_length=1)


class AuditSettings(Section):
    """Decisions about the locked packages.

    Args:
        database: the address of the OSV service or a mirror.
        ignore: advisories to ignore for now.
        licences: the allowed SPDX identifiers.
        licence_exceptions: packages that may be used although their recorded licence is not
            allowed or missing.
        lookalikes: genuine packages whose names resemble another one's.
    """

    database: str = Field(pattern=r"^https?://")
    ignore: list[Ignored]
    licences: list[str] = Field(min_length=1)
    licence_exceptions: list[LicenceException]
    lookalikes: list[Lookalike]

    @property
    def read_by_people(self) -> dict[str, str]:
        """The licence of each package with an exception, by package name."""
        return {each.package: each.licence for each in self.licence_exceptions}


def load_audit_settings(file: Path) -> AuditSettings:
    """Return the decisions in the YAML `file`.

    Raises:
        ConfigError: the file is missing or malformed, or a value in it is not allowed.
    """
    return validate(AuditSettings, read_yaml(file), where=str(file))
