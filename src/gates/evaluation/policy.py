"""The policy: all limits that the gates judge by, from `configs/gates.yaml`."""

import dataclasses
import hashlib
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from gates.configuration import Section, flat, parse_yaml, read_bytes, validate
from gates.display import show_error
from gates.errors import ConfigError
from gates.functions import PATTERN

# Per-example quantities whose mean is a metric; two models are compared on them in pairs.
PER_EXAMPLE = ("correct", "nll", "absolute_error", "squared_error")
SCORE = "score."
# Computed over all examples together.
_OVER_ALL = ("ece",)

Requirement = Literal["noninferiority", "superiority", "report"]


class MetricRule(Section):
    """What a metric must show on the whole test split.

    Args:
        primary: whether subgroups are judged by this metric and `--fail-if-worse-than` replaces
            its margin.
        of: a per-example quantity whose mean is the metric: `correct`, `nll`, `absolute_error`,
            `squared_error` or `score.NAME`; or `ece`; or `module:name` of a function that takes
            labels (n_examples,) and probabilities (n_examples, n_classes) and returns a number.
        better: whether higher or lower values are better.
        margin: how much may be lost, in the metric's unit; a fraction for `correct`.
        floor: the worst value that passes, with or without a baseline; None for no floor.
        require: whether the candidate must be shown to be no worse or to be better, or the metric
            is only reported.
    """

    primary: bool = False
    of: str
    better: Literal["higher", "lower"]
    margin: float = Field(ge=0)
    floor: float | None = None
    require: Requirement

    @property
    def sign(self) -> float:
        """1 if higher is better, -1 if lower is."""
        return 1.0 if self.better == "higher" else -1.0

    @property
    def is_mean(self) -> bool:
        """Whether it is the mean of a per-example quantity."""
        return self.of in PER_EXAMPLE or self.of.startswith(SCORE)

    @property
    def needs_probabilities(self) -> bool:
        """Whether it is computed from class probabilities."""
        return self.of == "nll" or not self.is_mean

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        is_function = re.fullmatch(PATTERN, self.of) is not None
        if not (self.is_mean or self.of in _OVER_ALL or is_function) or self.of == SCORE:
            known = ", ".join((*PER_EXAMPLE, *_OVER_ALL))
            msg = f"of is {self.of!r}; write one of {known}, score.NAME, or a function as "
            msg += "module:name"
            raise ValueError(msg)
        if self.of == "correct" and not (self.margin < 1 and 0 <= (self.floor or 0) <= 1):
            msg = "margin and floor of correct are fractions; for two percentage points write 0.02"
            raise ValueError(msg)
        wanted = {"correct": "higher"}.get(self.of, "lower")
        if (self.of in PER_EXAMPLE or self.of in _OVER_ALL) and self.better != wanted:
            msg = f"for {self.of}, {wanted} is better; write better: {wanted}"
            raise ValueError(msg)
        return self


class _AccuracyRule(Section):
    """The accuracy in the first policy format."""

    margin: float = Field(ge=0, lt=1)
    floor: float = Field(ge=0, le=1)
    require: Literal["noninferiority", "superiority"]


class _FirstMetricRule(Section):
    """A metric in the first policy format."""

    margin: float = Field(ge=0)
    function: str | None = Field(default=None, pattern=PATTERN)
    higher_is_better: bool | None = None


class SubgroupRule(Section):
    """What each subgroup must show.

    Args:
        columns: the values that each subgroup column must have; empty to accept any values.
        intersections: pairs of columns whose combinations are also subgroups.
        margin: how much of the primary metric a subgroup may lose, in the metric's unit.
        floor: the worst value of the primary metric with which a subgroup passes.
        minimum_examples: a subgroup with fewer examples (or clusters, if there are any) is reported
            but not judged.
        too_small: how such a subgroup affects the verdict.
        require: whether a subgroup passes unless harm is shown, or only if non-inferiority is.
        correction: how p-values are adjusted for the number of subgroups.
    """

    columns: dict[str, list[str]]
    intersections: list[list[str]]
    margin: float = Field(ge=0)
    floor: float
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
        # A repeated subgroup would count twice in the correction for their number.
        pairs = [" and ".join(sorted(pair)) for pair in self.intersections]
        for where, names in (*self.columns.items(), ("intersections", pairs)):
            repeated = [name for name in names if names.count(name) > 1]
            if repeated:
                msg = f"{where} names {repeated[0]} more than once"
                raise ValueError(msg)
        return self


class EvaluationPolicy(Section):
    """How two models are compared.

    Args:
        alpha: the largest probability of a wrong pass, and of a false alarm, in a test.
        power: the probability that the suggested number of examples settles a question.
        metrics: rules for the whole test split, by name; exactly one is primary.
        subgroups: rules for its subgroups.
        resamples: the number of bootstrap resamples.
        seed: the seed of the bootstrap.
    """

    alpha: float = Field(gt=0, lt=0.5)
    power: float = Field(gt=0, lt=1)
    metrics: dict[str, MetricRule]
    subgroups: SubgroupRule
    resamples: int = Field(ge=99, le=1_000_000)
    seed: int = Field(ge=0)

    @property
    def confidence(self) -> float:
        """The confidence of a two-sided interval that agrees with one-sided tests at `alpha`."""
        return 1 - 2 * self.alpha

    @property
    def primary(self) -> MetricRule:
        """The metric that subgroups are judged by."""
        return self.metrics[self.primary_name]

    @property
    def primary_name(self) -> str:
        """The name of the primary metric."""
        return next(name for name, rule in self.metrics.items() if rule.primary)

    @property
    def limits(self) -> dict[str, str | int | float | bool]:
        """The limits by dotted names, as a verdict records them."""
        leaves = flat(self.model_dump()).items()
        return {key: value for key, value in leaves if isinstance(value, str | int | float | bool)}

    @model_validator(mode="after")
    def _can_show_harm(self) -> Self:
        # No bootstrap p-value is below 1 / (resamples + 1), so with fewer nothing could ever fail.
        if not 1 / (self.resamples + 1) < self.alpha:
            msg = f"resamples must be more than 1 / alpha = {1 / self.alpha:g}, got "
            msg += f"{self.resamples}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _has_one_primary(self) -> Self:
        names = [name for name, rule in self.metrics.items() if rule.primary]
        if len(names) != 1:
            found = f"{', '.join(names)} are" if names else "none is"
            msg = f"metrics: exactly one must be primary, but {found}; write primary: true in one"
            raise ValueError(msg)
        rule = self.primary
        if not rule.is_mean or rule.require == "report":
            msg = f"metrics.{names[0]} is primary, so it must be the mean of a per-example "
            msg += "quantity, with require: noninferiority or superiority"
            raise ValueError(msg)
        if rule.of == "correct" and not (
            self.subgroups.margin < 1 and 0 <= self.subgroups.floor <= 1
        ):
            msg = "subgroups: margin and floor are fractions if the primary metric has of: correct"
            raise ValueError(msg)
        if rule.of != "correct" and self.subgroups.correction == "max_t":
            msg = "subgroups.correction: max_t needs a primary metric with of: correct, but "
            msg += f"{names[0]} is primary; write holm"
            raise ValueError(msg)
        return self


class _FirstEvaluationPolicy(Section):
    """The first policy format, in which accuracy has its own section."""

    alpha: float = Field(gt=0, lt=0.5)
    power: float = Field(gt=0, lt=1)
    accuracy: _AccuracyRule
    subgroups: SubgroupRule
    metrics: dict[str, _FirstMetricRule]
    resamples: int = Field(ge=99, le=1_000_000)
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _knows_metrics(self) -> Self:
        for name, rule in self.metrics.items():
            given = (rule.function is not None, rule.higher_is_better is not None)
            if name in _FIRST_BUILT_IN and any(given):
                msg = f"metrics.{name} is built in: give only its margin"
                raise ValueError(msg)
            if name not in _FIRST_BUILT_IN and not all(given):
                msg = f"metrics.{name} is not one of {', '.join(_FIRST_BUILT_IN)}: give its "
                msg += "function, as in project.metrics:brier, and higher_is_better"
                raise ValueError(msg)
        return self

    @property
    def in_current_format(self) -> dict[str, Any]:
        """The same limits in the current format, as nested mappings."""
        tree = self.model_dump()
        accuracy = {"primary": True, "of": "correct", "better": "higher", **tree.pop("accuracy")}
        metrics: dict[str, Any] = {"accuracy": accuracy}
        for name, rule in self.metrics.items():
            metrics[name] = {
                "of": rule.function or name,
                "better": "higher" if rule.higher_is_better else "lower",
                "margin": rule.margin,
                "require": "noninferiority",
            }
        return {**tree, "metrics": metrics}


_FIRST_BUILT_IN = ("nll", "ece")


class StageRule(Section):
    """What a version needs before it moves to a stage, besides a passing verdict.

    Args:
        data_gates: names of the gates whose verdict on the run's data must be a pass.
        sbom: whether it must have a bill of its software.
        clean_source: whether all of its source must be in one commit.
        hours_in_staging: how long it must have been in staging.
        approver: whether somebody must approve, and whether that must be somebody other than the
            person who promotes.
    """

    data_gates: list[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]]
    sbom: bool
    clean_source: bool
    hours_in_staging: float = Field(ge=0)
    approver: Literal["none", "anybody", "somebody else"]


class PromotionPolicy(Section):
    """How a model gets from the registry to production.

    Args:
        smoke: `module:name` of a function that loads the model from a folder with a version's
            files, runs it, and raises if its answers are wrong.
        data: the file in which the project declares its data, relative to the policy's folder. A
            verdict must be on that data, or on the data that production was judged on.
        attested_by: the workflow that must have signed the checkpoint and its provenance, as
            OWNER/NAME/.github/workflows/FILE; or `none`.
        staging: what a version needs before it moves to staging.
        production: what it needs in addition to being in staging.
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


class _FirstFile(Section):
    evaluation: _FirstEvaluationPolicy
    promotion: PromotionPolicy | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """A policy as read from its file.

    Args:
        evaluation: how two models are compared.
        digest: SHA-256 of the file.
        promotion: how a model gets to production; None if the file does not define it.
        folder: the file's folder.
    """

    evaluation: EvaluationPolicy
    digest: str
    promotion: PromotionPolicy | None = None
    folder: Path = Path()

    @property
    def declared_data(self) -> Path | None:
        """The file in which the project declares its data; None without a promotion policy."""
        return self.folder / self.promotion.data if self.promotion else None

    def with_margin(self, margin: float | None) -> "Policy":
        """Return the policy with `margin` for the primary metric, if one is given.

        Raises:
            ConfigError: the margin is negative, or not a fraction where the metric needs one.
        """
        if margin is None:
            return self
        rules = self.evaluation
        is_share = rules.primary.of == "correct"
        if not (0 <= margin < (1 if is_share else math.inf)):
            expected = "a fraction in [0, 1)" if is_share else "a number >= 0"
            msg = f"--fail-if-worse-than: must be {expected}, got {margin:g}"
            msg += "; for two percentage points write 0.02" if is_share else ""
            raise ConfigError(msg)
        changed = rules.primary.model_copy(update={"margin": margin})
        metrics = {**rules.metrics, rules.primary_name: changed}
        return dataclasses.replace(self, evaluation=rules.model_copy(update={"metrics": metrics}))


def load_policy(file: Path) -> Policy:
    """Return the policy in `file`.

    Raises:
        ConfigError: the file is missing or malformed, or a limit in it is not allowed.
    """
    # Read once, so that the digest is of what was parsed, even if the file is a pipe.
    content = read_bytes(file)
    parsed = _parse(parse_yaml(content, where=str(file)), where=str(file))
    digest = hashlib.sha256(content).hexdigest()
    return Policy(
        evaluation=parsed.evaluation,
        promotion=parsed.promotion,
        digest=digest,
        folder=file.parent,
    )


def _parse(tree: Any, *, where: str) -> _File:
    """Return a policy in the current format, converted if it is in the first one."""
    evaluation = tree.get("evaluation") if isinstance(tree, dict) else None
    if not isinstance(evaluation, dict) or "accuracy" not in evaluation:
        return validate(_File, tree, where=where)
    first = validate(_FirstFile, tree, where=where)
    margin = first.evaluation.accuracy.margin
    show_error(
        f"{where}: evaluation.accuracy is an old format that still works; write it as a metric: "
        f"accuracy: {{primary: true, of: correct, better: higher, margin: {margin:g}, …}}"
    )
    return validate(_File, {**tree, "evaluation": first.evaluation.in_current_format}, where=where)
