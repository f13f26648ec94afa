"""The manifest in git that declares the data on which a project trains and judges its models."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gates.configuration import first_problem
from gates.errors import GateInputError
from gates.verdicts.verdict import Digest

FORMAT: Literal["data/1"] = "data/1"


class DeclaredData(BaseModel):
    """The manifest of a project's data.

    Args:
        format: the format's name and version.
        digests: SHA-256 of the prepared data: the current one, and any other still accepted.
        rows: how many examples each split has, by name.
        columns: the type of each column, by name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal["data/1"] = FORMAT
    digests: Annotated[list[Digest], Field(min_length=1)]
    rows: dict[str, int]
    columns: dict[str, str]

    def to_json(self) -> str:
        """Return the manifest as the JSON text of its file."""
        return self.model_dump_json(indent=2) + "\n"


def read_declared(file: Path) -> DeclaredData:
    """Return the manifest in `file`.

    Raises:
        GateInputError: the file is missing, or not a manifest.
    """
    try:
        return DeclaredData.model_validate_json(file.read_bytes())
    except OSError as error:
        msg = f"{file}: cannot be read ({error.strerror}); promotion.data in the policy names it"
        raise GateInputError(msg) from error
    except ValidationError as error:
        msg = f"{file}: not a manifest in the format {FORMAT}: {first_problem(error)}; write it "
        msg += "again with python -m PROJECT.data"
        raise GateInputError(msg) from error
