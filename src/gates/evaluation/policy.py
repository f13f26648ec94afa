"""The policy: every limit that a gate judges by, from `configs/gates.yaml`."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gates.configuration import Section, flat, parse_yaml, read_bytes, validate
from gates.errors import ConfigError
from gates.functions import PATTERN

# Metrics that are there without a function of the project's own.
BUILT_IN_METRICS = ("nll", "ece")


class AccuracyRule(Section):
    """What the whole test split must show.

    Args:
        margin: accuracy that may be lost, a fraction; 0.02 is two percentage points.
        floor: accuracy below which no model passes.
        require: whether the candidate must be shown to be no worse, or to be better.
    """

    margin: float = Field(ge=0, lt=1)
    floor: float = Field(ge=0, le=1)
    require: Literal["noninferiority", "superiority"]


class SubgroupRule(Section):
    """What each subgroup must show.

    Args:
        columns: the values that each subgroup column must have; empty for those it has.
        intersections: pairs of columns whose combinations are subgroups as well.
        margin: accuracy that a subgroup may lose, a fraction.
        floor: accuracy of a subgroup below which no model passes.
        minimum_examples: a subgroup with fewer is not judged, but reported.
        too_small: what such a subgroup does to the verdict.
        require: whether harm must not be shown, or non-inferiority be shown, for each.
        correction: how the p-values of all subgroups are adjusted for their number.
    """

    columns: dict[str, list[str]]
    intersections: list[list[str]]
    margin: float = Field(ge=0, lt=1)
    floor: float = Field(ge=0, le=1)
    minimum_examples: int = Field(gt=0)
    too_small: Literal["report", "inconclusive", "fail"]
    require: Literal["no_harm", "noninferiority"]
    correction: Literal["holm", "max_t"]

    @model_validator(mode="after")
    def _names_columns(self) -> Self:
        for pair in self.intersections:
            is_pair = len(pair) == len(set(pair)) == 2  # noqa: PLR2004 - what a pair is
            if not is_pair or not set(pair) <= set(self.columns):
                msg = f"an intersection is two of {', '.join(self.columns) or 'no columns'}; "
                msg += f"got {pair}"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _names_each_subgroup_once(self) -> Self:
        # Twice the same one would count as two in the correction for their number.
        pairs = [" and ".join(sorted(pair)) for pair in self.intersections]
        for where, names in (*self.columns.items(), ("intersections", pairs)):
            repeated = [name for name in names if names.count(name) > 1]
            if repeated:
                msg = f"{where} names {repeated[0]} more than once"
                raise ValueError(msg)
        return self


class MetricRule(Section):
    """What the whole test split must show on another metric.

    Args:
        margin: how much of it may be lost, in its own unit.
        function: `module:name` of a function of labels (n_examples,) and probabilities
            (n_examples, n_classes) that returns a number; None for `nll` and `ece`.
        higher_is_better: which way the function counts; None for `nll` and `ece`.
    """

    margin: float = Field(ge=0)
    function: str | None = Field(default=None, pattern=PATTERN)
    higher_is_better: bool | None = None


class EvaluationPolicy(Section):
    """How two models are compared.

    Args:
        alpha: the largest chance of a wrong pass, and of a wrong alarm, at a bar.
        power: the chance of settling the question with the number of examples asked for.
        accuracy: on the whole test split.
        subgroups: on parts of it.
        metrics: on the whole test split, by name.
        resamples: of the bootstrap.
        seed: of its random numbers.
    """

    alpha: float = Field(gt=0, lt=0.5)
    power: float = Field(gt=0, lt=1)
    accuracy: AccuracyRule
    subgroups: SubgroupRule
    metrics: dict[str, MetricRule]
    resamples: int = Field(ge=99, le=1_000_000)
    seed: int = Field(ge=0)

    @property
    def confidence(self) -> float:
        """Of a two-sided interval that agrees with one-sided tests at `alpha`."""
        return 1 - 2 * self.alpha

    @property
    def limits(self) -> dict[str, str | int | float | bool]:
        """The limits, by dotted names, as a verdict notes them."""
        leaves = flat(self.model_dump()).items()
        return {key: value for key, value in leaves if isinstance(value, str | int | float | bool)}

    @model_validator(mode="after")
    def _can_show_harm(self) -> Self:
        # No p-value of a bootstrap is smaller: with fewer resamples nothing could ever fail.
        if not 1 / (self.resamples + 1) < self.alpha:
            msg = f"resamples must be more than 1 / alpha = {1 / self.alpha:g}, got "
            msg += f"{self.resamples}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _knows_metrics(self) -> Self:
        for name, rule in self.metrics.items():
            given = (rule.function is not None, rule.higher_is_better is not None)
            if name in BUILT_IN_METRICS and any(given):
                msg = f"metrics.{name} is built in: give its margin only"
                raise ValueError(msg)
            if name not in BUILT_IN_METRICS and not all(given):
                msg = f"metrics.{name} is not one of {', '.join(BUILT_IN_METRICS)}: give its "
                msg += "function, as in project.metrics:brier, and higher_is_better"
                raise ValueError(msg)
        return self


class StageRule(Section):
    """What a version must show before it moves to one stage, besides a verdict that is a pass.

    Args:
        data_gates: gates whose verdict on the data of the run must be a pass, by name.
        sbom: whether the list of its software must be there.
        clean_source: whether a commit must say all of what it was made from.
        hours_in_staging: how long it must have been in staging.
        approver: whether somebody must agree, and whether that must be another person than the
            one who promotes.
    """

    data_gates: list[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]]
    sbom: bool
    clean_source: bool
    hours_in_staging: float = Field(ge=0)
    approver: Literal["none", "anybody", "somebody else"]


class PromotionPolicy(Section):
    """How a model gets from the registry to production.

    Args:
        smoke: `module:name` of a function that loads the model from a folder with the files of a
            version, lets it answer, and raises if the answers are not what they must be.
        data: the file in which the project declares its data, from the policy's own folder. A
            verdict counts on that data, or on what production was judged on.
        attested_by: the workflow that must have signed the checkpoint and its provenance, as
            OWNER/NAME/.github/workflows/FILE; or none.
        staging: what a version must show before it goes there.
        production: what it must show besides being in staging.
    """

    smoke: str = Field(pattern=PATTERN)
    data: str = Field(min_length=1)
    attested_by: str = Field(pattern=r"^none$|^[\w.-]+/[\w.-]+/\.github/workflows/[\w.-]+$")
    staging: StageRule
    production: StageRule

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        if self.staging.hours_in_staging:
            msg = "staging.hours_in_staging must be 0: nothing is in staging before it gets there"
            raise ValueError(msg)
        return self


class _File(Section):
    evaluation: EvaluationPolicy
    promotion: PromotionPolicy | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """A policy as its file has it.

    Args:
        evaluation: how two models are compared.
        digest: SHA-256 of the file.
        promotion: how a model gets to production; None where the file does not say.
        folder: where the file is.
    """

    evaluation: EvaluationPolicy
    digest: str
    promotion: PromotionPolicy | None = None
    folder: Path = Path()

    @property
    def declared_data(self) -> Path | None:
        """The file in which the project declares its data; None where there is no promotion."""
        return self.folder / self.promotion.data if self.promotion else None

    def with_margin(self, margin: float | None) -> "Policy":
        """Return the policy with another margin of accuracy, if one is given.

        Raises:
            ConfigError: it is not a fraction in [0, 1).
        """
        if margin is None:
            return self
        if not 0 <= margin < 1:
            msg = f"--fail-if-worse-than: must be a fraction in [0, 1), got {margin:g}; for two "
            msg += "percentage points write 0.02"
            raise ConfigError(msg)
        accuracy = self.evaluation.accuracy.model_copy(update={"margin": margin})
        rules = self.evaluation.model_copy(update={"accuracy": accuracy})
        return dataclasses.replace(self, evaluation=rules)


def load_policy(file: Path) -> Policy:
    """Return the policy in `file`.

    Raises:
        ConfigError: the file is missing or malformed, or a limit in it is not allowed.
    """
    # Read once: the digest is of what was parsed, even where the file is a pipe.
    content = read_bytes(file)
    parsed = validate(_File, parse_yaml(content, where=str(file)), where=str(file))
    digest = hashlib.sha256(content).hexdigest()
    return Policy(
        evaluation=parsed.evaluation,
        promotion=parsed.promotion,
        digest=digest,
        folder=file.parent,
    )
