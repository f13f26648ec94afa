"""The schema of a run's provenance: the type of each field, and how fields must agree.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
https://slsa.dev/spec/v1.0/provenance
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

STATEMENT_TYPE: Literal["https://in-toto.io/Statement/v1"] = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Literal["https://slsa.dev/provenance/v1"] = "https://slsa.dev/provenance/v1"
# SLSA build type and builder: they define the meaning of the parameters. The names are the
# template's, so renaming a project does not change them. Earlier versions wrote the project's name
# instead; those statements can still be read.
BUILD_TYPE = "urn:ml-project-template:training-run:v1"
BUILDER = "urn:ml-project-template:train"
IS_BUILD_TYPE = r"^urn:[a-z0-9-]+:training-run:v1$"
_IS_BUILDER = r"^urn:[a-z0-9-]+:train$"

# The name of every checkpoint file; the suffix gives the format.
_CHECKPOINT = r"checkpoint\.[a-z0-9]{1,16}"
# The default if the provenance names no library: earlier versions supported only this one.
FIRST_LIBRARY = "pytorch"

RUN_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _check_not_null(commit: str) -> str:
    if not commit.strip("0"):
        msg = "is git's null commit"
        raise ValueError(msg)
    return commit


_Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$"), AfterValidator(_check_not_null)]
_Name = Annotated[str, Field(min_length=1)]


def is_checkpoint(name: str) -> bool:
    """Whether this is the name of a checkpoint: checkpoint.pt, checkpoint.onnx, …."""
    return re.fullmatch(_CHECKPOINT, name) is not None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


class _Sha256(_Part):
    sha256: _Digest


class _GitCommit(_Part):
    git_commit: _Commit


class _Subject(_Part):
    name: _Name
    digest: _Sha256


class _Source(_Part):
    name: Literal["source"]
    digest: _GitCommit


class _Dependency(_Part):
    name: Literal["data", "source-diff", "uv.lock"]
    digest: _Sha256


class _AttemptSource(_Part):
    model_config = ConfigDict(alias_generator=None)

    commit: _Commit | None
    diff_digest: _Digest | None
    lock_digest: _Digest | None


class _Attempt(_Part):
    model_config = ConfigDict(alias_generator=None)

    first_step: int = Field(ge=0)
    started: AwareDatetime
    source: _AttemptSource
    runtime: dict[str, str]


class _External(_Part):
    config: dict[str, Any]


class _Internal(_Part):
    determinism: dict[str, str]
    runtime: dict[str, str]
    dirty: bool
    earlier_attempts: list[_Attempt]
    package: str | None = Field(default=None, pattern=r"^[A-Za-z][A-Za-z0-9_]{0,99}$")
    library: str = Field(default=FIRST_LIBRARY, pattern=r"^[a-z0-9][a-z0-9._-]{0,49}$")


class _Definition(_Part):
    build_type: str = Field(pattern=IS_BUILD_TYPE)
    external_parameters: _External
    internal_parameters: _Internal
    resolved_dependencies: list[Annotated[_Source | _Dependency, Field(discriminator="name")]]

    @model_validator(mode="after")
    def _check_dependencies(self) -> Self:
        names = [each.name for each in self.resolved_dependencies]
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            msg = f"resolvedDependencies names {repeated[0]} more than once"
            raise ValueError(msg)
        earlier = (each.source for each in self.internal_parameters.earlier_attempts)
        was_clean = all(each.commit and not each.diff_digest for each in earlier)
        is_clean = was_clean and "source" in names and "source-diff" not in names
        if self.internal_parameters.dirty is is_clean:
            msg = f"dirty is {self.internal_parameters.dirty}, but the sources show the opposite"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _check_determinism(self) -> Self:
        config = self.external_parameters.config
        for name, value in self.internal_parameters.determinism.items():
            if name in config and str(config[name]) != value:
                msg = f"determinism.{name} is {value}, and the configuration has {config[name]}"
                raise ValueError(msg)
        return self


class _Builder(_Part):
    id: str = Field(pattern=_IS_BUILDER)


class _Metadata(_Part):
    invocation_id: str = Field(pattern=f"^{RUN_ID}$")
    started_on: AwareDatetime
    finished_on: AwareDatetime


class _RunDetails(_Part):
    builder: _Builder
    metadata: _Metadata


class _Predicate(_Part):
    build_definition: _Definition
    run_details: _RunDetails

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        attempts = self.build_definition.internal_parameters.earlier_attempts
        times = [each.started for each in attempts]
        metadata = self.run_details.metadata
        if times and times[0] != metadata.started_on:
            msg = "startedOn is not the start of the first attempt"
            raise ValueError(msg)
        steps = [each.first_step for each in attempts]
        times = [metadata.started_on, *times, metadata.finished_on]
        for name, is_in_order in (
            ("attempts", steps == sorted(steps)),
            ("times", times == sorted(times)),
        ):
            if not is_in_order:
                msg = f"the {name} are not in order"
                raise ValueError(msg)
        return self


class Statement(_Part):
    """An in-toto Statement (v1) about a checkpoint, with a SLSA provenance predicate (v1)."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: list[_Subject] = Field(min_length=1, max_length=1)
    predicate_type: Literal["https://slsa.dev/provenance/v1"]
    predicate: _Predicate
