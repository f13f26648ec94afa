"""Register, promote, roll back: each arrow of the pipeline, and what it takes."""

import getpass
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from gates import files
from gates.errors import ConfigError, GateInputError, in_one_line
from gates.policy import Policy, PromotionPolicy
from gates.registry import check, history
from gates.registry.criteria import Case, criterion, judge
from gates.registry.files import Submission
from gates.registry.history import STAGES, Action, Entry, Held, Stage
from gates.registry.ledger import Ledger, Now, RefusedError
from gates.registry.stages import Occupancy
from gates.registry.store import Store, Version, as_tags
from gates.verdict import Finding, Outcome, Verdict, read_verdict

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
        by: who acts; None for the name that the system or the server knows.
        now: the clock.
    """

    def __init__(
        self,
        store: Store,
        model: str,
        *,
        say: Say,
        by: str | None = None,
        now: Callable[[], datetime] = history.now,
    ) -> None:
        self.store = store
        self.model = model
        self.by = in_one_line(by or who_acts())
        self._say = say
        self._now = now
        self._ledger = Ledger(store, model)
        self._versions: dict[int, Version] = {}

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
                "registered": self._now().isoformat(timespec="seconds"),
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
            findings = [self._files(version, Path(folder))]
            if there == version.number and findings[0].outcome == Outcome.PASS:
                reason = f"version {version.number} is in {promotion.stage} already; nothing to do"
                return self._verdict(version, policy, findings, Outcome.PASS, reason)
            case = self._case(promotion, policy, version, now, Path(folder))
            findings += judge(case)
            missing = [each.check for each in findings if each.outcome != Outcome.PASS]
            if missing:
                reason = f"version {version.number} "
                reason += "should not be in" if there == version.number else "stays out of"
                reason += f" {promotion.stage}, for want of: {', '.join(missing)}"
                return self._verdict(version, policy, findings, Outcome.FAIL, reason)
            check.answer_check(rules)  # before anything is changed
            digest = files.sha256(case.verdict_file)
            if promotion.verdict is not None:
                self.store.attach(version, promotion.verdict, f"verdict-{digest[:12]}.json")
        entry = self._entry(
            Action.PROMOTE,
            promotion.stage,
            version,
            before=there,
            why=promotion.why,
            verdict=digest,
            approver=promotion.approver,
        )
        promoted, now = self._ledger.append(now, entry, version)
        problem = self._confirm_or_go_back(promoted, rules, self._ledger.align(now))
        if problem:
            findings.append(criterion("check after the promotion", holds=False, reason=problem))
            reason = f"version {version.number} did not stay in {promotion.stage}: {problem}"
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
        entry = self._entry(Action.ROLLBACK, "production", version, before=place.current, why=why)
        _, now = self._ledger.append(now, entry, version)
        self._ledger.align(now)
        return version

    def acknowledge(self, why: str) -> None:
        """Let a damaged log go on: its damage stays on record, with who looked at it and why.

        What an alias names without an entry is taken as it is.

        Raises:
            ConfigError: no reason is given.
            GateInputError: nobody registered what an alias names.
            RefusedError: somebody else was quicker.
        """
        if not why.strip():
            msg = "--acknowledge: say why, as it goes on record"
            raise ConfigError(msg)
        self.check_registered()
        now = self.read()
        if not now.history.open_problems and not now.foreign:
            self._say("the history is whole; nothing to acknowledge")
            return
        for stage in now.foreign or ["production"]:
            before = now.version_in(stage)
            after = now.aliases[stage] if stage in now.foreign else before
            entry = self._entry(
                Action.ACKNOWLEDGE,
                stage,
                None if after is None else self.version(after),
                before=before,
                why=why,
                forgives=tuple(each.digest for each in now.history.open_problems),
            )
            _, now = self._ledger.append(now, entry, self._any_version())
        # Whatever was noted before: this is the newest that somebody vouches for.
        self.store.note_head(self.model, now.history.head)

    def _version_of(self, submission: Submission) -> Version | None:
        """Return the version that is the same checkpoint with the same files."""
        same = as_tags({name: submission.facts[name] for name in ("checkpoint", "files")})
        return next((each for each in self._look() if same.items() <= each.tags.items()), None)

    def check_registered(self) -> None:
        """Raise a `GateInputError` unless the registry has a version of the model."""
        if not self._look():
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
        return Case(
            version=version,
            stage=promotion.stage,
            policy=policy,
            rule=rules.staging if promotion.stage == "staging" else rules.production,
            stages=now.stages,
            production=None if there is None else self.version(there),
            files=folder,
            verdict=promotion.verdict,
            by=self.by,
            approver=promotion.approver,
            now=self._now(),
        )

    def _files(self, version: Version, folder: Path) -> Finding:
        problem = check.problem_of_files(self.store, version, folder)
        reason = problem or "they are what was registered"
        return criterion("files", holds=problem is None, reason=reason)

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
            problem = self._confirm_or_go_back(each, rules, self.read())
            if problem:
                self._say(f"{what} was put back: {problem}")
        return self.read() if unconfirmed else aligned

    def _confirm_or_go_back(self, promoted: Held, rules: PromotionPolicy, now: Now) -> str | None:
        """Check a promoted version; return why it is no longer there, or None.

        Args:
            promoted: the promotion.
            rules: with the check.
            now: what the registry says.
        """
        stage, number, before = promoted.entry.stage, promoted.entry.after, promoted.entry.before
        assert number is not None  # noqa: S101 - a promotion leads somewhere
        version = self._versions.get(number)
        problem: str | None = "it was deleted"
        if version is not None:
            answers = check.answer_check(rules)
            problem = check.problem_of(self.store, version, now.history, answers)
        action, why, after = Action.CONFIRM, "loaded from the registry; it answers", version
        if problem is not None:
            action, why = Action.ROLLBACK, f"the check after the promotion failed: {problem}"
            after = None if before is None else self._versions.get(before)
        why = in_one_line(why)[: history.LONGEST_REASON]
        entry = self._entry(action, stage, after, before=number, why=why)
        try:
            if now.history.head.digest == promoted.digest:
                _, now = self._ledger.append(now, entry, after or self._any_version())
        except RefusedError:
            # Somebody has gone on from here, and with that checked it or gone back.
            now = self.read()
        there = self._ledger.align(now).version_in(stage)
        return None if there == number else problem or f"{there or 'none'} is there by now"

    def _way_back(self, place: Occupancy, to: int | None) -> int:
        if to is None:
            if place.before is None:
                msg = f"{self.model}: there is no version before {place.current or 'none'} to go "
                msg += "back to; gates history names those that were in production"
                raise RefusedError(msg)
            return place.before
        if to not in place.known_good:
            known = ", ".join(str(number) for number in sorted(place.known_good)) or "none was"
            msg = f"--to {to}: was never in production; of those that were: {known}"
            raise RefusedError(msg)
        return to

    def _entry(self, action: Action, stage: Stage, version: Version | None, **more: Any) -> Entry:
        """Return an entry after which `version` is in `stage`, or nothing is."""
        words = {
            name: in_one_line(more[name])
            for name in ("why", "approver")
            if more.get(name) is not None
        }
        if len(words["why"]) > history.LONGEST_REASON:
            msg = f"--why: is longer than {history.LONGEST_REASON} letters"
            raise ConfigError(msg)
        facts: dict[str, Any] = {"after": None}
        if version is not None:
            facts = {
                "after": version.number,
                "checkpoint": version.fact("checkpoint"),
                "files": version.files_digest,
                "commit": version.fact("commit") or None,
            }
        return Entry(
            model=self.model,
            action=action,
            stage=stage,
            by=self.by,
            when=self._now(),
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
