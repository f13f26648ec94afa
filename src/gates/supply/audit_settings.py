"""What people decided about the lock: configs/audit.yaml."""

from datetime import date
from pathlib import Path

from pydantic import Field

from gates.configuration import Section, read_yaml, validate


class Ignored(Section):
    """An advisory that is known and lived with for a while.

    Args:
        id: the database's identifier, or an alias of it.
        package: the package's name.
        reason: why it does no harm here.
        owner: who answers for that.
        expires: the last day on which it holds.
    """

    id: str = Field(min_length=1)
    package: str = Field(min_length=1)
    reason: str = Field(min_length=1)
    owner: str = Field(min_length=1)
    expires: date


class LicenceException(Section):
    """A package whose licence a person read.

    Args:
        package: its name.
        licence: what its files say, as an SPDX expression.
        reason: why it may be used.
    """

    package: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    reason: str = Field(min_length=1)


class Lookalike(Section):
    """A package that resembles another one and is what it should be.

    Args:
        package: its name.
        reason: how one knows.
    """

    package: str = Field(min_length=1)
    reason: str = Field(min_length=1)


class AuditSettings(Section):
    """What people decided about the lock.

    Args:
        database: the address of the OSV service, or of a mirror of it.
        ignore: advisories that are lived with.
        licences: SPDX identifiers that are allowed.
        licence_exceptions: packages that may be used although their metadata does not say so.
        lookalikes: packages that resemble another one and are what they should be.
    """

    database: str = Field(pattern=r"^https?://")
    ignore: list[Ignored]
    licences: list[str] = Field(min_length=1)
    licence_exceptions: list[LicenceException]
    lookalikes: list[Lookalike]

    @property
    def read_by_people(self) -> dict[str, str]:
        """The licence of each package that has an exception, by its name."""
        return {each.package: each.licence for each in self.licence_exceptions}


def load_audit_settings(file: Path) -> AuditSettings:
    """Return what people decided, from the YAML `file`.

    Raises:
        ConfigError: the file is missing or malformed, or a value in it is not allowed.
    """
    return validate(AuditSettings, read_yaml(file), where=str(file))
