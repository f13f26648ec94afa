"""Register, promote, roll back: the steps of the pipeline and their conditions."""

import functools
import getpass
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from gates.data.declared import read_declared
from gates.display import in_one_line
from gates.errors import ConfigError, GateInputError
from gates.evaluation.policy import Policy, PromotionPolicy
from gates.files import sha256
from gates.registry import check, files, history
from gates.registry.criteria import Case, criterion, judge
from gates.registry.files import Submission
from gates.registry.history import STAGES, Action, Entry, Held, Stage
from gates.registry.ledger import Ledger, RefusedError, Snapshot
from gates.registry.stages import StageState
from gates.registry.store import Caller, Store, Version, fetch_checked
from gates.verdicts.verdict import Finding, Outcome, Verdict, read_verdict

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """A request to promote a version.

    Args:
        stage: the stage to move it to.
        number: the version; None for the newest or, to production, the one in staging.
        verdict: a verdict that replaces the registered one, for example because production has
            changed since.
        approver: who else agrees.
        why: the reason, in the promoter's own words.
    """

    stage: Stage
    number: int | None = None
    verdict: Path | None = None
    approver: str | None = None
    why: str = ""


class Registry:
    """One model in a registry.

    Args:
        store: the registry.
        model: the name of the model.
        say: called with each progress message.
        by: who acts; None for the user that the server or else the system knows.
        now: the clock; None for the server's or, without a server, this machine's.
    """

    def __init__(
        self,
        store: Store,
        model: str,
        *,
        say: Say,
        by: str | None = None,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self.store = store
        self.model = model
        self._by = by
        self._say = say
        self._now = now
        self._ledger = Ledger(store, model)
        self._versions: dict[int, Version] = {}

    @functools.cached_property
    def by(self) -> str:
        """Who acts: the server's authenticated user takes precedence over the environment's."""
        user = self._caller.user if self._caller else None
        return in_one_line(self._by or user or who_acts())

    @functools.cached_property
    def _caller(self) -> Caller | None:
        return self.store.caller()

    @functools.cached_property
    def _clock(self) -> Callable[[], datetime]:
        if self._now is not None:
            return self._now
        ahead = self._caller.time - history.now() if self._caller else timedelta()
        return lambda: history.now() + ahead

    def read(self) -> Snapshot:
        """Return a snapshot of the registry, with the log checked."""
        return self._ledger.read()

    def version(self, number: int) -> Version:
        """Return one version.

        Raises:
            GateInputError: there is no such version.
        """
        if number not in self._versions:
            self._load_versions()
        if number not in self._versions:
            known = ", ".join(str(each) for each in self._versions) or "none"
            msg = f"{self.model}: has no version {number} in {self.store.address}; it has {known}"
            raise GateInputError(msg)
        return self._versions[number]

    def _load_versions(self) -> list[Version]:
        found = self.store.versions(self.model)
        self._versions = {each.number: each for each in found}
        return found

    def register(self, submission: Submission) -> tuple[Version, bool]:
        """Register a run as a version; return the version, and whether it is new.

        The same submission is registered only once. The same checkpoint with other files, such as
        an SBOM or a newer verdict, is another version.
        """
        known = self._version_of(submission)
        if known is not None:
            return known, False
        added = self.store.add(
            self.model,
            submission.files,
            {
                **submission.facts,
                "registered_by": self.by,
                "registered": self._clock().isoformat(timespec="seconds"),
            },
        )
        first = self._version_of(submission)
        if first is not None and first.number < added.number:
            # Two processes registered it at the same time: delete the later version.
            self.store.remove(added)
            return first, False
        return added, True

    def promote(self, promotion: Promotion, policy: Policy) -> Verdict:
        """Move a version to a stage if it meets every criterion; return the verdict.

        Afterwards the model is loaded from the registry and must answer; if it does not, the stage
        is rolled back.

        Raises:
            RefusedError: the log is damaged, or another process was quicker.
            GateInputError: there is no such version, or the registry cannot be reached.
        """
        rules = _rules(policy)
        if promotion.verdict is not None:
            read_verdict(promotion.verdict)  # an unreadable file is bad input, not a failed gate
        self._load_versions()
        snapshot = self._settle(rules)
        self.check_registered()
        if snapshot.unexplained:
            msg = f"{self.model}: {snapshot.unexplained[0]}; find out who did, then delete the "
            msg += "alias or accept it with python -m gates history --acknowledge"
            raise RefusedError(msg)
        version = self._chosen(promotion, snapshot)
        current = snapshot.version_in(promotion.stage)
        with tempfile.TemporaryDirectory(prefix="gates-") as folder:
            findings = [self._files(version, snapshot, Path(folder))]
            if current == version.number and findings[0].outcome == Outcome.PASS:
                reason = f"version {version.number} is already in {promotion.stage}; nothing to do"
                return self._verdict(version, policy, findings, Outcome.PASS, reason)
            case = self._case(promotion, policy, version, snapshot, Path(folder))
            findings += judge(case)
            if all(each.holds for each in findings):
                findings += self._answers(case, rules, snapshot)
            missing = [each.check for each in findings if each.outcome != Outcome.PASS]
            if missing:
                reason = f"version {version.number} "
                reason += "should not be in" if current == version.number else "was not promoted to"
                reason += f" {promotion.stage}; criteria not met: {', '.join(missing)}"
                return self._verdict(version, policy, findings, Outcome.FAIL, reason)
            digest = sha256(case.verdict_file)
            if promotion.verdict is not None:
                self.store.attach(version, promotion.verdict, f"verdict-{digest[:12]}.json")
        entry = self._entry(
            Action.PROMOTE,
            promotion.stage,
            before=current,
            after=version.number,
            why=promotion.why,
            verdict=digest,
            approver=promotion.approver,
        )
        promoted, snapshot = self._ledger.append(snapshot, entry, version)
        self._ledger.align(snapshot)
        problem = self._confirm_or_go_back(promoted, rules)
        if problem:
            findings.append(criterion("check after the promotion", holds=False, reason=problem))
            reason = f"version {version.number} in {promotion.stage}: {problem}"
            return self._verdict(version, policy, findings, Outcome.FAIL, reason)
        reason = f"version {version.number} is in {promotion.stage}"
        reason += f", replacing version {current}" if current else ""
        return self._verdict(version, policy, findings, Outcome.PASS, reason)

    def rollback(self, policy: Policy, *, to: int | None = None, why: str = "") -> Version:
        """Return production to an earlier version; return that version.

        Raises:
            RefusedError: there is no earlier version, its files are not as registered, its model
                does not answer, or another process was quicker.
            GateInputError: there is no such version, or the registry cannot be reached.
        """
        rules = _rules(policy)
        self._load_versions()
        snapshot = self._settle(rules, check_unconfirmed=False)
        self.check_registered()
        state = snapshot.stages["production"]
        version = self.version(self._rollback_target(state, to))
        problem = check.problem_of(self.store, version, snapshot.history, check.answer_check(rules))
        if problem:
            what = "is in" if version.number == state.current else "cannot go back to"
            msg = f"{version}: {what} production: {problem}"
            raise RefusedError(msg)
        if version.number == state.current:
            self._say(f"version {version.number} is already in production; nothing to do")
            return version
        entry = self._entry(
            Action.ROLLBACK, "production", before=state.current, after=version.number, why=why
        )
        _, snapshot = self._ledger.append(snapshot, entry, version)
        self._ledger.align(snapshot)
        return version

    def acknowledge(self, why: str) -> None:
        """Accept the damage of a log, and record who accepted it and why.

        Also accepts the version that an alias names without an entry, or in conflict with a damaged
        log.

        Raises:
            ConfigError: no reason is given.
            RefusedError: the files of a version to accept are not as registered, or another process
                was quicker.
        """
        if not why.strip():
            msg = "--acknowledge: say why; the reason is recorded in the log"
            raise ConfigError(msg)
        self.check_registered()
        snapshot = self.read()
        damage = snapshot.history.open_problems
        adopted = [
            stage
            for stage, number in snapshot.aliases.items()
            if stage in snapshot.foreign
            or (damage and stage in STAGES and number != snapshot.stages[stage].to_load)
        ]
        if not damage and not adopted:
            self._say("the history is intact; nothing to acknowledge")
            return
        for stage in adopted:
            self._check_adoptable(snapshot, snapshot.aliases[stage])
        for stage in adopted or ["production"]:
            before = snapshot.version_in(stage)
            after = snapshot.aliases[stage] if adopted else before
            entry = self._entry(
                Action.ACKNOWLEDGE,
                stage,
                before=before,
                after=after,
                why=why,
                forgives=tuple(each.digest for each in damage),
            )
            _, snapshot = self._ledger.append(snapshot, entry, self._any_version())
            # Replaces any earlier note: somebody vouches for the log up to this entry.
            self.store.note_head(self.model, snapshot.history.head)
            if adopted:
                self._say(f"{stage}: version {after} is accepted as it is")

    def _check_adoptable(self, snapshot: Snapshot, number: int) -> None:
        """Refuse to vouch for files that are not as registered."""
        version = self.version(number)
        if not version.is_registered:
            return  # created by other means, so there is nothing to compare its files with
        with tempfile.TemporaryDirectory(prefix="gates-") as folder:
            problem = check.problem_of_files(self.store, version, snapshot.history, Path(folder))
        if problem:
            msg = f"{version}: cannot be accepted as it is: {problem}"
            raise RefusedError(msg)

    def _version_of(self, submission: Submission) -> Version | None:
        """Return the version with the same checkpoint and verdicts, if any."""
        same = files.identity(submission.digests)
        known = (each for each in self._load_versions() if each.is_registered)
        return next((each for each in known if files.identity(each.listed) == same), None)

    def check_registered(self) -> None:
        """Raise GateInputError unless the registry has a version of the model."""
        if not (self._versions or self._load_versions()):
            msg = f"{self.model}: is not in {self.store.address}; register it first: "
            msg += "python -m gates register"
            raise GateInputError(msg)

    def _any_version(self) -> Version:
        """Return the newest version, for a log entry that must name one but concerns none."""
        return self._versions[max(self._versions)]

    def _chosen(self, promotion: Promotion, snapshot: Snapshot) -> Version:
        if promotion.number is not None:
            return self.version(promotion.number)
        if promotion.stage == "production":
            current = snapshot.version_in("staging")
            if current is None:
                msg = f"{self.model}: nothing is in staging; promote --to staging first"
                raise RefusedError(msg)
            return self.version(current)
        return self._any_version()

    def _case(
        self,
        promotion: Promotion,
        policy: Policy,
        version: Version,
        snapshot: Snapshot,
        folder: Path,
    ) -> Case:
        rules = _rules(policy)
        current = snapshot.version_in("production")
        since = snapshot.stages["production"].since
        checkpoint = None if current is None else self._checkpoint_of(current)
        production = None if current is None else self._registered(current)
        return Case(
            version=version,
            stage=promotion.stage,
            policy=policy,
            rule=rules.staging if promotion.stage == "staging" else rules.production,
            stages=snapshot.stages,
            production=current,
            production_checkpoint=checkpoint or (since.entry.checkpoint if since else None),
            production_is_gone=current is not None and current not in self._versions,
            production_data=production.fact("data") if production else None,
            baseline=self._baseline(version, production, folder),
            declared=read_declared(policy.folder / rules.data).digests,
            files=folder,
            verdict=promotion.verdict,
            by=self.by,
            approver=promotion.approver,
            now=self._clock(),
        )

    def _files(self, version: Version, snapshot: Snapshot, folder: Path) -> Finding:
        problem = check.problem_of_files(self.store, version, snapshot.history, folder)
        reason = problem or "they are as registered"
        return criterion("files", holds=problem is None, reason=reason)

    def _registered(self, number: int) -> Version | None:
        version = self._versions.get(number)
        return version if version and version.is_registered else None

    def _baseline(self, version: Version, production: Version | None, folder: Path) -> Path | None:
        """Return the predictions of the model in production on the data of `version`, if any.

        On the same data, these are the ones production was registered with. On newer data, they
        were registered with `version`, and `_answers` checks them against the model in production.
        """
        if production is not None and production.fact("data") == version.fact("data"):
            target = folder / "production"
            target.mkdir()
            fetch_checked(self.store, production, [files.PREDICTIONS], target)
            return target / files.PREDICTIONS
        registered = folder / files.BASELINE
        return registered if registered.exists() else None

    def _answers(self, case: Case, rules: PromotionPolicy, snapshot: Snapshot) -> Iterator[Finding]:
        """Try the model before the stage is changed; raise if it cannot be tried here."""
        answers = check.answer_check(rules)
        problem = check.problem_of_answers(answers, case.version, case.files)
        reason = problem or "it answers as when it was judged"
        yield criterion("answers", holds=problem is None, reason=reason)
        production = None if case.production is None else self._registered(case.production)
        if production is None or case.baseline != case.files / files.BASELINE:
            return
        with tempfile.TemporaryDirectory(prefix="gates-") as folder:
            problem = check.problem_of_files(self.store, production, snapshot.history, Path(folder))
            shutil.copy(case.baseline, Path(folder, files.PREDICTIONS))
            problem = problem or check.problem_of_answers(answers, production, Path(folder))
        reason = problem or "the model in production reproduces the baseline's predictions"
        yield criterion("answers of production", holds=problem is None, reason=reason)

    def _settle(self, rules: PromotionPolicy, *, check_unconfirmed: bool = True) -> Snapshot:
        """Complete what an interrupted command left undone, and return the new snapshot.

        Args:
            rules: how an unconfirmed promotion is checked.
            check_unconfirmed: False before a rollback, which replaces the unconfirmed version.

        Raises:
            RefusedError: the log is damaged.
        """
        snapshot = self.read()
        if snapshot.history.open_problems:
            damage = snapshot.history.open_problems[0].text
            msg = f"{self.model}: its history was damaged: {damage}; "
            msg += "run python -m gates history --verify, find out who did it, then run it with "
            msg += "--acknowledge"
            raise RefusedError(msg)
        aligned = self._ledger.align(snapshot)
        if aligned is not snapshot:
            self._say("the aliases did not match the history; corrected them")
        pending = [aligned.stages[stage].unconfirmed for stage in STAGES]
        unconfirmed = list(filter(None, pending)) if check_unconfirmed else []
        for each in unconfirmed:
            what = f"{each.entry.stage}: version {each.entry.after}"
            self._say(f"{what} was promoted but not checked; checking it now")
            problem = self._confirm_or_go_back(each, rules)
            if problem:
                self._say(f"{what} was rolled back: {problem}")
        return self.read() if unconfirmed else aligned

    def _confirm_or_go_back(self, promoted: Held, rules: PromotionPolicy) -> str | None:
        """Check a promoted version, and roll it back if the check fails.

        Returns:
            What is wrong with the version, or which version has replaced it meanwhile; else None.
        """
        stage, number, before = promoted.entry.stage, promoted.entry.after, promoted.entry.before
        assert number is not None  # noqa: S101 - every promotion has a version
        version, snapshot = self._versions.get(number), self.read()
        problem: str | None = "it was deleted"
        if version is not None:
            answers = check.answer_check(rules)
            problem = check.problem_of(self.store, version, snapshot.history, answers)
        if problem is None:
            why = "loaded from the registry; it answers"
            snapshot = self._record_check(promoted, Action.CONFIRM, number, why)
        else:
            why = in_one_line(f"the check after the promotion failed: {problem}")
            why = why[: history.LONGEST_REASON]
            snapshot = self._record_check(promoted, Action.ROLLBACK, before, why)
        current = self._ledger.align(snapshot).version_in(stage)
        return problem if problem or current == number else f"{current or 'none'} has replaced it"

    def _record_check(
        self, promoted: Held, action: Action, after: int | None, why: str
    ) -> Snapshot:
        """Append the result of a promotion's check, unless the promotion is no longer pending."""
        stage = promoted.entry.stage
        while True:
            snapshot = self.read()
            unconfirmed = snapshot.stages[stage].unconfirmed
            if unconfirmed is None or unconfirmed.digest != promoted.digest:
                return snapshot
            entry = self._entry(action, stage, before=promoted.entry.after, after=after, why=why)
            try:
                _, snapshot = self._ledger.append(snapshot, entry, self._any_version())
            except RefusedError:
                continue  # another entry came first, perhaps about the other stage
            return snapshot

    def _rollback_target(self, state: StageState, to: int | None) -> int:
        """Return the version to go back to, skipping deleted ones and the current model's."""
        if to is None:
            current = self._checkpoint_of(state.current) if state.current else None
            for number in reversed(state.versions[:-1]):
                if number in self._versions and self._checkpoint_of(number) != current:
                    return number
            if state.current is None:
                msg = f"{self.model}: nothing is in production, so there is nothing to roll back"
                raise RefusedError(msg)
            msg = f"{self.model}: there is no version before {state.current} to go "
            msg += "back to; python -m gates history lists the versions that were in production"
            raise RefusedError(msg)
        if to not in state.known_good:
            known = ", ".join(str(number) for number in sorted(state.known_good)) or "none"
            msg = f"--to {to}: was never in production; versions that were: {known}"
            raise RefusedError(msg)
        return to

    def _checkpoint_of(self, number: int) -> str | None:
        version = self._versions.get(number)
        return version.checkpoint if version else None

    def _entry(self, action: Action, stage: Stage, *, after: int | None, **more: Any) -> Entry:
        """Return an entry that puts version `after` in `stage`; None leaves the stage empty."""
        words = {
            name: in_one_line(more[name])
            for name in ("why", "approver")
            if more.get(name) is not None
        }
        if len(words["why"]) > history.LONGEST_REASON:
            msg = f"--why: is longer than {history.LONGEST_REASON} characters; shorten it"
            raise ConfigError(msg)
        version = None if after is None else self._versions.get(after)
        facts: dict[str, Any] = {}
        if version is not None and version.is_registered:
            facts = {
                "checkpoint": version.fact("checkpoint"),
                "files": version.files_digest,
                "commit": version.fact("commit") or None,
            }
        return Entry(
            model=self.model,
            action=action,
            stage=stage,
            after=after,
            by=self.by,
            when=self._clock(),
            previous=history.NOTHING_BEFORE,
            **{**facts, **more, **words},
        )

    def _verdict(
        self,
        version: Version,
        policy: Policy,
        findings: Sequence[Finding],
        outcome: Outcome,
        reason: str,
    ) -> Verdict:
        return Verdict(
            gate="promotion",
            outcome=outcome,
            reason=reason,
            findings=tuple(findings),
            metrics={},
            evidence={
                "checkpoint": version.fact("checkpoint"),
                "files": version.files_digest,
                "policy": policy.digest,
            },
            notes={"version": f"{version.number} ({version.fact('model_version')})"},
        )


def who_acts() -> str:
    """Return the user's name: MLflow's user, who started the workflow, or the login name."""
    for name in ("MLFLOW_TRACKING_USERNAME", "GITHUB_ACTOR"):
        if os.environ.get(name):
            return os.environ[name]
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError) as error:
        msg = "the current user has no login name; set MLFLOW_TRACKING_USERNAME or USER"
        raise GateInputError(msg) from error


def _rules(policy: Policy) -> PromotionPolicy:
    if policy.promotion is None:
        msg = "the policy has no section promotion; add one with the criteria of each stage"
        raise ConfigError(msg)
    return policy.promotion
