"""Register, promote, roll back: each arrow of the pipeline, and what it takes."""

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
from gates.registry.ledger import Ledger, Now, RefusedError
from gates.registry.stages import Occupancy
from gates.registry.store import Caller, Store, Version, fetch_checked
from gates.verdicts.verdict import Finding, Outcome, Verdict, read_verdict

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """What is to be promoted.

    Args:
        stage: where to.
        number: the version; None for the newest, or for production the one in staging.
        verdict: one that is newer than the registered one, such as against what is in production
            by now.
        approver: who else agrees.
        why: in the words of who promotes.
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
        say: is told what is done on the way.
        by: who acts; None for the name that the server knows or, without one, the system.
        now: the clock; None for the server's or, without one, that of this machine.
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
        """Who acts: whoever else the environment names, a server knows whom it has let in."""
        known = self._caller.user if self._caller else None
        return in_one_line(self._by or known or who_acts())

    @functools.cached_property
    def _caller(self) -> Caller | None:
        return self.store.caller()

    @functools.cached_property
    def _clock(self) -> Callable[[], datetime]:
        if self._now is not None:
            return self._now
        ahead = self._caller.time - history.now() if self._caller else timedelta()
        return lambda: history.now() + ahead

    def read(self) -> Now:
        """Return the log, checked, and who is where."""
        return self._ledger.read()

    def version(self, number: int) -> Version:
        """Return one version.

        Raises:
            GateInputError: there is no such version.
        """
        if number not in self._versions:
            self._look()
        if number not in self._versions:
            known = ", ".join(str(each) for each in self._versions) or "none"
            msg = f"{self.model}: has no version {number} in {self.store.address}; it has {known}"
            raise GateInputError(msg)
        return self._versions[number]

    def _look(self) -> list[Version]:
        found = self.store.versions(self.model)
        self._versions = {each.number: each for each in found}
        return found

    def register(self, submission: Submission) -> tuple[Version, bool]:
        """Keep a run as a version; return it, and whether it is a new one.

        What is registered already is not registered again. The same checkpoint with other files
        beside it, such as an SBOM or a newer verdict, is another version.
        """
        known = self._version_of(submission)
        if known is not None:
            return known, False
        made = self.store.add(
            self.model,
            submission.files,
            {
                **submission.facts,
                "registered_by": self.by,
                "registered": self._clock().isoformat(timespec="seconds"),
            },
        )
        first = self._version_of(submission)
        if first is not None and first.number < made.number:
            # Two at once: the later one goes.
            self.store.remove(made)
            return first, False
        return made, True

    def promote(self, promotion: Promotion, policy: Policy) -> Verdict:
        """Move a version to a stage if it meets every criterion; return the verdict.

        Afterwards the model is loaded from the registry and must answer; if it cannot, the stage
        goes back to what it was.

        Raises:
            RefusedError: the log was damaged, or somebody else was quicker.
            GateInputError: there is no such version, or the registry cannot be reached.
        """
        rules = _rules(policy)
        if promotion.verdict is not None:
            read_verdict(promotion.verdict)  # what cannot be read decides nothing
        self._look()
        now = self._settle(rules)
        self.check_registered()
        if now.unexplained:
            msg = (
                f"{self.model}: {now.unexplained[0]}; find out who did, then take the alias away, "
            )
            msg += "or take it as it is: gates history --acknowledge"
            raise RefusedError(msg)
        version = self._chosen(promotion, now)
        there = now.version_in(promotion.stage)
        with tempfile.TemporaryDirectory(prefix="gates-") as folder:
            findings = [self._files(version, now, Path(folder))]
            if there == version.number and findings[0].outcome == Outcome.PASS:
                reason = f"version {version.number} is in {promotion.stage} already; nothing to do"
                return self._verdict(version, policy, findings, Outcome.PASS, reason)
            case = self._case(promotion, policy, version, now, Path(folder))
            findings += judge(case)
            if all(each.holds for each in findings):
                findings += self._answers(case, rules, now)
            missing = [each.check for each in findings if each.outcome != Outcome.PASS]
            if missing:
                reason = f"version {version.number} "
                reason += "should not be in" if there == version.number else "stays out of"
                reason += f" {promotion.stage}, for want of: {', '.join(missing)}"
                return self._verdict(version, policy, findings, Outcome.FAIL, reason)
            digest = sha256(case.verdict_file)
            if promotion.verdict is not None:
                self.store.attach(version, promotion.verdict, f"verdict-{digest[:12]}.json")
        entry = self._entry(
            Action.PROMOTE,
            promotion.stage,
            before=there,
            after=version.number,
            why=promotion.why,
            verdict=digest,
            approver=promotion.approver,
        )
        promoted, now = self._ledger.append(now, entry, version)
        self._ledger.align(now)
        problem = self._confirm_or_go_back(promoted, rules)
        if problem:
            findings.append(criterion("check after the promotion", holds=False, reason=problem))
            reason = f"version {version.number} in {promotion.stage}: {problem}"
            return self._verdict(version, policy, findings, Outcome.FAIL, reason)
        reason = f"version {version.number} is in {promotion.stage}"
        reason += f" in place of {there}" if there else ""
        return self._verdict(version, policy, findings, Outcome.PASS, reason)

    def rollback(self, policy: Policy, *, to: int | None = None, why: str = "") -> Version:
        """Bring production back to an earlier version; return that.

        Raises:
            RefusedError: there is none, or it is not what was registered or does not answer; or
                somebody else was quicker.
            GateInputError: there is no such version, or the registry cannot be reached.
        """
        rules = _rules(policy)
        self._look()
        now = self._settle(rules, check_unconfirmed=False)
        self.check_registered()
        place = now.stages["production"]
        version = self.version(self._way_back(place, to))
        problem = check.problem_of(self.store, version, now.history, check.answer_check(rules))
        if problem:
            what = "is in" if version.number == place.current else "cannot go back to"
            msg = f"{version}: {what} production: {problem}"
            raise RefusedError(msg)
        if version.number == place.current:
            self._say(f"version {version.number} is in production already; nothing to do")
            return version
        entry = self._entry(
            Action.ROLLBACK, "production", before=place.current, after=version.number, why=why
        )
        _, now = self._ledger.append(now, entry, version)
        self._ledger.align(now)
        return version

    def acknowledge(self, why: str) -> None:
        """Let a damaged log go on: its damage stays on record, with who looked at it and why.

        What an alias names without an entry, or against a damaged log, is taken as it is.

        Raises:
            ConfigError: no reason is given.
            RefusedError: what is to be taken is not what was registered, or somebody was quicker.
        """
        if not why.strip():
            msg = "--acknowledge: say why, as it goes on record"
            raise ConfigError(msg)
        self.check_registered()
        now = self.read()
        damage = now.history.open_problems
        adopted = [
            stage
            for stage, number in now.aliases.items()
            if stage in now.foreign
            or (damage and stage in STAGES and number != now.stages[stage].to_load)
        ]
        if not damage and not adopted:
            self._say("the history is whole; nothing to acknowledge")
            return
        for stage in adopted:
            self._check_adoptable(now, now.aliases[stage])
        for stage in adopted or ["production"]:
            before = now.version_in(stage)
            after = now.aliases[stage] if adopted else before
            entry = self._entry(
                Action.ACKNOWLEDGE,
                stage,
                before=before,
                after=after,
                why=why,
                forgives=tuple(each.digest for each in damage),
            )
            _, now = self._ledger.append(now, entry, self._any_version())
            # Whatever was noted before: this is the newest that somebody vouches for.
            self.store.note_head(self.model, now.history.head)
            if adopted:
                self._say(f"{stage}: version {after} is taken as it is")

    def _check_adoptable(self, now: Now, number: int) -> None:
        """Refuse to vouch for files that are not what was registered."""
        version = self.version(number)
        if not version.is_registered:
            return  # by other means, and nothing says what its files must be
        with tempfile.TemporaryDirectory(prefix="gates-") as folder:
            problem = check.problem_of_files(self.store, version, now.history, Path(folder))
        if problem:
            msg = f"{version}: cannot be taken as it is: {problem}"
            raise RefusedError(msg)

    def _version_of(self, submission: Submission) -> Version | None:
        """Return the version that is the same checkpoint with the same verdicts."""
        same = files.identity(submission.digests)
        known = (each for each in self._look() if each.is_registered)
        return next((each for each in known if files.identity(each.listed) == same), None)

    def check_registered(self) -> None:
        """Raise a `GateInputError` unless the registry has a version of the model."""
        if not (self._versions or self._look()):
            msg = f"{self.model}: is not in {self.store.address}; register it first: "
            msg += "python -m gates register"
            raise GateInputError(msg)

    def _any_version(self) -> Version:
        """Return a version for an entry that is about none: it says where the log's entry lives."""
        return self._versions[max(self._versions)]

    def _chosen(self, promotion: Promotion, now: Now) -> Version:
        if promotion.number is not None:
            return self.version(promotion.number)
        if promotion.stage == "production":
            there = now.version_in("staging")
            if there is None:
                msg = f"{self.model}: nothing is in staging; promote --to staging first"
                raise RefusedError(msg)
            return self.version(there)
        return self._any_version()

    def _case(
        self,
        promotion: Promotion,
        policy: Policy,
        version: Version,
        now: Now,
        folder: Path,
    ) -> Case:
        rules = _rules(policy)
        there = now.version_in("production")
        since = now.stages["production"].since
        checkpoint = None if there is None else self._checkpoint_of(there)
        production = None if there is None else self._registered(there)
        return Case(
            version=version,
            stage=promotion.stage,
            policy=policy,
            rule=rules.staging if promotion.stage == "staging" else rules.production,
            stages=now.stages,
            production=there,
            production_checkpoint=checkpoint or (since.entry.checkpoint if since else None),
            production_is_gone=there is not None and there not in self._versions,
            production_data=production.fact("data") if production else None,
            baseline=self._baseline(version, production, folder),
            declared=read_declared(policy.folder / rules.data).digests,
            files=folder,
            verdict=promotion.verdict,
            by=self.by,
            approver=promotion.approver,
            now=self._clock(),
        )

    def _files(self, version: Version, now: Now, folder: Path) -> Finding:
        problem = check.problem_of_files(self.store, version, now.history, folder)
        reason = problem or "they are what was registered"
        return criterion("files", holds=problem is None, reason=reason)

    def _registered(self, number: int) -> Version | None:
        version = self._versions.get(number)
        return version if version and version.is_registered else None

    def _baseline(self, version: Version, production: Version | None, folder: Path) -> Path | None:
        """Return the predictions of the model in production on the data of `version`, if any.

        Those that it was registered with; on newer data, those that were registered with `version`,
        which `_answers` then holds against the model in production.
        """
        if production is not None and production.fact("data") == version.fact("data"):
            there = folder / "production"
            there.mkdir()
            fetch_checked(self.store, production, [files.PREDICTIONS], there)
            return there / files.PREDICTIONS
        registered = folder / files.BASELINE
        return registered if registered.exists() else None

    def _answers(self, case: Case, rules: PromotionPolicy, now: Now) -> Iterator[Finding]:
        """Try the model before anything is moved; what cannot be tried here is moved by nobody."""
        answers = check.answer_check(rules)
        problem = check.problem_of_answers(answers, case.version, case.files)
        yield criterion("answers", holds=problem is None, reason=problem or "as when judged")
        production = None if case.production is None else self._registered(case.production)
        if production is None or case.baseline != case.files / files.BASELINE:
            return
        with tempfile.TemporaryDirectory(prefix="gates-") as folder:
            problem = check.problem_of_files(self.store, production, now.history, Path(folder))
            shutil.copy(case.baseline, Path(folder, files.PREDICTIONS))
            problem = problem or check.problem_of_answers(answers, production, Path(folder))
        reason = problem or "the model in production answers as the baseline's predictions say"
        yield criterion("answers of production", holds=problem is None, reason=reason)

    def _settle(self, rules: PromotionPolicy, *, check_unconfirmed: bool = True) -> Now:
        """Finish what an earlier command did not, and return what holds then.

        Args:
            rules: how an unconfirmed promotion is checked.
            check_unconfirmed: whether to: not before a rollback, which is away from it.

        Raises:
            RefusedError: the log was damaged.
        """
        now = self.read()
        if now.history.open_problems:
            msg = f"{self.model}: its history was damaged: {now.history.open_problems[0].text}; "
            msg += "see gates history --verify, find out who did it, then gates history "
            msg += "--acknowledge"
            raise RefusedError(msg)
        aligned = self._ledger.align(now)
        if aligned is not now:
            self._say("the aliases did not name what the history says: put right")
        waiting = [aligned.stages[stage].unconfirmed for stage in STAGES]
        unconfirmed = list(filter(None, waiting)) if check_unconfirmed else []
        for each in unconfirmed:
            what = f"{each.entry.stage}: version {each.entry.after}"
            self._say(f"{what} was promoted and not checked yet: checking it")
            problem = self._confirm_or_go_back(each, rules)
            if problem:
                self._say(f"{what} was put back: {problem}")
        return self.read() if unconfirmed else aligned

    def _confirm_or_go_back(self, promoted: Held, rules: PromotionPolicy) -> str | None:
        """Check a promoted version; return what is wrong with it, or why it is no longer there."""
        stage, number, before = promoted.entry.stage, promoted.entry.after, promoted.entry.before
        assert number is not None  # noqa: S101 - a promotion leads somewhere
        version, now = self._versions.get(number), self.read()
        problem: str | None = "it was deleted"
        if version is not None:
            answers = check.answer_check(rules)
            problem = check.problem_of(self.store, version, now.history, answers)
        if problem is None:
            why = "loaded from the registry; it answers"
            now = self._record_check(promoted, Action.CONFIRM, number, why)
        else:
            why = in_one_line(f"the check after the promotion failed: {problem}")
            why = why[: history.LONGEST_REASON]
            now = self._record_check(promoted, Action.ROLLBACK, before, why)
        there = self._ledger.align(now).version_in(stage)
        return problem if problem or there == number else f"{there or 'none'} is there by now"

    def _record_check(self, promoted: Held, action: Action, after: int | None, why: str) -> Now:
        """Add what the check of a promotion came to, unless somebody has checked it or gone on."""
        stage = promoted.entry.stage
        while True:
            now = self.read()
            unconfirmed = now.stages[stage].unconfirmed
            if unconfirmed is None or unconfirmed.digest != promoted.digest:
                return now
            entry = self._entry(action, stage, before=promoted.entry.after, after=after, why=why)
            try:
                _, now = self._ledger.append(now, entry, self._any_version())
            except RefusedError:
                continue  # an entry of somebody else's came first, about something else perhaps
            return now

    def _way_back(self, place: Occupancy, to: int | None) -> int:
        """Return the version to go back to; one that was deleted, or is the same model, is none."""
        if to is None:
            current = self._checkpoint_of(place.current) if place.current else None
            for number in reversed(place.versions[:-1]):
                if number in self._versions and self._checkpoint_of(number) != current:
                    return number
            if place.current is None:
                msg = f"{self.model}: nothing is in production, so there is nothing to go back from"
                raise RefusedError(msg)
            msg = f"{self.model}: there is no version before {place.current} to go "
            msg += "back to; gates history names those that were in production"
            raise RefusedError(msg)
        if to not in place.known_good:
            known = ", ".join(str(number) for number in sorted(place.known_good)) or "none was"
            msg = f"--to {to}: was never in production; of those that were: {known}"
            raise RefusedError(msg)
        return to

    def _checkpoint_of(self, number: int) -> str | None:
        version = self._versions.get(number)
        return version.checkpoint if version else None

    def _entry(self, action: Action, stage: Stage, *, after: int | None, **more: Any) -> Entry:
        """Return an entry after which version `after` is in `stage`, or nothing is."""
        words = {
            name: in_one_line(more[name])
            for name in ("why", "approver")
            if more.get(name) is not None
        }
        if len(words["why"]) > history.LONGEST_REASON:
            msg = f"--why: is longer than {history.LONGEST_REASON} letters"
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
    """Return the name of who runs this: on a server its user, in a workflow who started it."""
    for name in ("MLFLOW_TRACKING_USERNAME", "GITHUB_ACTOR"):
        if os.environ.get(name):
            return os.environ[name]
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError) as error:
        msg = "nobody is logged in by a name; set MLFLOW_TRACKING_USERNAME or USER"
        raise GateInputError(msg) from error


def _rules(policy: Policy) -> PromotionPolicy:
    if policy.promotion is None:
        msg = "the policy has no section promotion, so nothing says what a promotion takes"
        raise ConfigError(msg)
    return policy.promotion
