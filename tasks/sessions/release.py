"""Sessions of a release: the package, its version, the changelog, and what would be uploaded."""

import datetime as dt
import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nox

from tasks import git
from tasks.catalogue import session
from tasks.display import show
from tasks.environments import environment, uv
from tasks.errors import stop
from tasks.options import Options
from tasks.packaging import changelog as log
from tasks.packaging import commits as messages
from tasks.packaging import versions, wheels
from tasks.project import (
    ROOT,
    WORKSPACE,
    Cell,
    Project,
    members,
    needed_members,
    project_table,
)

# Relative to the root.
DIST = "dist"
SUMS = "artifacts/SHA256SUMS"
NOTES = "artifacts/release-notes.md"
_CHANGELOG = "CHANGELOG.md"
_PACKAGED = ("src",)


@session(tiers=["pr"], timeout_minutes=5, inputs=["."], parallel=True)
def commits(session: nox.Session) -> None:
    """Check the messages of the new commits, and that one which breaks a schema says so.

    The new commits are those that the branch has and its target does not; on the target itself, the
    last one. A squash makes one commit of them, with the pull request's title, so
    PULL_REQUEST_TITLE is checked as well, and must not hide a breaking change or a feature. Skipped
    in a shallow clone (with CI=true that is an error). After --: --since COMMIT.
    """
    parser = Options("commits")
    parser.add_argument("--since", metavar="COMMIT")
    options = parser.parse_args(session.posargs)
    _need_history(session)
    since = options.since or messages.base(ROOT, os.environ.get("GITHUB_BASE_REF"))
    if git.output("rev-parse", "--verify", "--quiet", f"{since}^{{commit}}", cwd=ROOT) is None:
        stop(f"commits: git knows no commit {since} here")
    new = messages.read(since, ROOT).commits
    problems = [line for commit in new for line in messages.problems(commit, ROOT)]
    title = os.environ.get("PULL_REQUEST_TITLE")
    if title:
        whole = messages.problems_of_title(title, since, ROOT)
        problems += [f"the pull request's title: {each}" for each in whole]
    show(*problems)
    if problems:
        session.error(f"{len(problems)} found; to reword a commit: git rebase --interactive")
    session.log(f"Commits since {since[:8]}: {len(new)}, each in the form")


@session(tiers=["release"], timeout_minutes=30, inputs=[*_PACKAGED, "configs"])
def build(session: nox.Session) -> None:
    """Build every package twice, alike to the byte, and try each wheel in an empty environment.

    From clean clones of HEAD in different places, under different locale, time zone, umask and
    file times, and each wheel a third time from its source distribution; then twine check, what
    the archives hold, and each wheel with the locked versions of what it says that it needs: its
    modules are imported, and a project trains. Leaves dist/ and artifacts/SHA256SUMS.
    """
    commit = _commit()
    if git.output("status", "--porcelain", cwd=ROOT):
        session.warn("Builds the last commit: what is not committed is not in it")
    tools = environment.prepare(environment.of_release(environment.default_python()))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        files = _build_alike(session, tools, commit, place)
        # Before anybody else's code runs beside them.
        sums = _sums(files)
        problems = wheels.problems_of_contents(files, place / "here")
        show(*problems)
        if problems:
            session.error(f"what is in the archives is not what is committed: {len(problems)}")
        environment.run(session, tools, "twine", "check", "--strict", *map(str, files))
        _try_each(session, files, place / "here")
        if sums != _sums(files):
            session.error("what was built has changed while it was checked; nothing is kept")
        _keep(files, sums)
    for line in (ROOT / SUMS).read_text(encoding="utf-8").splitlines():
        session.log(line)


def _build_alike(session: nox.Session, tools: Path, commit: str, place: Path) -> list[Path]:
    """Build in two places and from the source distribution; return the files of the first."""
    epoch = wheels.commit_time(commit, ROOT)
    one = wheels.clone(commit, place / "here", wheels.HERE, ROOT)
    other = wheels.clone(commit, place / "else where", wheels.ELSEWHERE, ROOT)
    files: list[Path] = []
    found: list[str] = []
    for folder in members(one):
        name = folder.name
        made = wheels.build(tools, folder, place / "1" / name, epoch, wheels.HERE)
        source = other / "src" / name
        again = wheels.build(tools, source, place / "2" / name, epoch, wheels.ELSEWHERE)
        sdist = next(file for file in again if file.suffix != ".whl")
        unpacked = wheels.unpack(sdist, place / "unpacked" / name)
        (built,) = wheels.build(tools, unpacked, place / "3" / name, epoch, wheels.HERE, ["wheel"])
        if [file.name for file in made] != [file.name for file in again]:
            session.error(f"two builds of {name} made files of different names")
        pairs = [*zip(made, again, strict=True), (_wheel(made), built)]
        found += [line for pair in pairs for line in wheels.differences(*pair)]
        files += made
    show(*found)
    if found:
        session.error(f"two builds of {commit[:8]} are not alike; they differ in {len(found)}")
    session.log(f"Two builds of {commit[:8]} and one from the source distributions are alike")
    return files


def _wheel(files: list[Path]) -> Path:
    return next(file for file in files if file.suffix == ".whl")


# Those beside its __init__.py: what needs an extra is in a folder of its own, or imported late.
_IMPORT_MODULES = """\
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.iter_modules(package.__path__):
    if not module.ispkg and module.name != "__main__":
        importlib.import_module(f"{sys.argv[1]}.{module.name}")
"""


def _try_each(session: nox.Session, files: Sequence[Path], source: Path) -> None:
    """Use each wheel with nothing but the locked packages that it says it needs."""
    built = {file.name.partition("-")[0]: file for file in files if file.suffix == ".whl"}
    for name in built:
        folder = environment.prepare(environment.of_wheel(name, Cell(environment.default_python())))
        python = f"--python={folder / 'bin' / 'python'}"
        install = ("pip", "install", "--reinstall", "--no-deps", "--no-index", python)
        needed = [str(built[each]) for each in (name, *needed_members(name, source))]
        problem = uv.problem(*install, *needed, cwd=ROOT)
        problem = problem or uv.problem("pip", "check", python, cwd=ROOT)
        if problem:
            session.error(f"the wheel of {name} and the lock do not fit together: {problem}")
        with tempfile.TemporaryDirectory() as empty, session.chdir(empty):
            environment.run(session, folder, "python", "-c", _IMPORT_MODULES, name)
            for project in WORKSPACE.projects:
                if project.package == name:
                    _train_with(session, folder, project, source)


def _train_with(session: nox.Session, folder: Path, project: Project, source: Path) -> None:
    """Train a little."""
    config = source / project.configs / "ci-tiny.yaml"
    training = ("-m", f"{project.package}.train", "--config", str(config))
    environment.run(session, folder, "python", *training)


def _keep(files: Sequence[Path], lines: Sequence[str]) -> None:
    """Put the files into dist/, where nothing of an earlier build stays, with their digests."""
    dist, sums = ROOT / DIST, ROOT / SUMS
    shutil.rmtree(dist, ignore_errors=True)
    dist.mkdir()
    for file in files:
        shutil.copy(file, dist / file.name)
    sums.parent.mkdir(exist_ok=True)
    sums.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _sums(files: Sequence[Path]) -> list[str]:
    """Return the lines with which sha256sum checks files of dist/."""
    return [f"{wheels.digest(file)}  {DIST}/{file.name}" for file in files]


@session(tiers=["release"], timeout_minutes=5, inputs=["."])
def version(session: nox.Session) -> None:
    """Print the package's next version and why, commit by commit since the last tag.

    Fails if HEAD is tagged with another version than pyproject.toml has, or a lower one than its
    commits ask for. After --: --write puts the version into pyproject.toml and uv.lock.
    """
    parser = Options("version")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(session.posargs)
    _need_history(session)
    declared = _declared()
    release = versions.of_head(declared, ROOT)
    show(*versions.account(release))
    problems = versions.problems(release, declared)
    if problems:
        session.error("; ".join(problems))
    if options.write and release.version:
        write_version(release.version, ROOT)
        session.log(f"Every pyproject.toml and uv.lock say {release.version}")


def write_version(new: str, root: Path) -> None:
    """Put the packages' version into their pyproject.toml, the workspace's, and uv.lock."""
    for folder in (root, *members(root)):
        name = re.sub(r"[-_.]+", "-", project_table(folder)["name"]).lower()
        _write_version(new, name, folder / "pyproject.toml", root / "uv.lock")


def _write_version(new: str, name: str, pyproject: Path, lock: Path) -> None:
    entry = rf'(^\[\[package\]\]\nname = "{re.escape(name)}"\nversion = )"[^"]*"'
    for file, pattern in ((pyproject, r'(^version = )"[^"]*"'), (lock, entry)):
        text = file.read_text(encoding="utf-8")
        changed, count = re.subn(pattern, rf'\g<1>"{new}"', text, flags=re.MULTILINE)
        if count != 1:
            stop(f"version: {file.name}: no single line with the version of {name} to write")
        file.write_text(changed, encoding="utf-8")


@session(tiers=["release"], timeout_minutes=5, inputs=["."])
def changelog(session: nox.Session) -> None:
    """Move what is unreleased in CHANGELOG.md under the next version; write the release notes.

    The text written by hand stays. Commits since the last tag that brought no text of their own
    get a line each (none in a first release that has text). Run again, it changes nothing.
    artifacts/release-notes.md has the section, and which model goes with the package.
    """
    _need_history(session)
    declared = _declared()
    release = versions.of_head(declared, ROOT)
    new = release.tagged or release.version
    if new is None:
        session.skip(versions.account(release)[-1])
    text = (ROOT / _CHANGELOG).read_text(encoding="utf-8")
    if release.tagged and log.section(text, new) is None:
        session.error(f"v{new} is tagged without a section in CHANGELOG.md; tag after changelog")
    has_text = release.last is None and log.has_unreleased_text(text)
    more = "" if has_text else log.missing(release, ROOT)
    date = dt.datetime.now(tz=dt.UTC).date().isoformat()
    try:
        changed = log.release(text, new, date, more)
    except log.ChangelogError as error:
        stop(f"changelog: {error}")
    if changed == text:
        session.log(f"CHANGELOG.md has a section of {new} already")
    else:
        (ROOT / _CHANGELOG).write_text(changed, encoding="utf-8")
        session.log(f"CHANGELOG.md: {new}; read it, then commit it")
    models = {each.model: _model_version(session, each) for each in WORKSPACE.projects}
    file = ROOT / NOTES
    file.parent.mkdir(exist_ok=True)
    for name, model in models.items():
        if model and not model.startswith(_commit()[:8]):
            session.warn(f"{name}: {model} was not made from {_commit()[:8]}; train it again")
    notes = log.notes(new, _commit(), models, log.section(changed, new) or "")
    file.write_text(notes, encoding="utf-8")
    told = ", ".join(f"{name} {model or '(none)'}" for name, model in models.items())
    session.log(f"{NOTES}: {new} goes with the models {told}")


def _model_version(session: nox.Session, project: Project) -> str | None:
    """Return the version of a project's newest model, which its provenance must be about."""
    checkpoint = ROOT / project.latest
    again = f'nox -s "train({project.package})"'
    if not checkpoint.exists():
        reason = f"there is no {project.latest}: {again} makes one"
        if environment.in_ci():
            stop(f"changelog: {reason}; CI=true allows no release notes without it")
        session.warn(f"The release notes name no model of {project.package}: {reason}")
        return None
    provenance = checkpoint.resolve().parent / "provenance.json"
    shown = provenance.relative_to(ROOT)
    try:
        document = json.loads(provenance.read_text(encoding="utf-8"))
        subject = document["subject"][0]["digest"]["sha256"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        stop(f"changelog: {shown}: cannot be read as provenance ({error}); {again}")
    if subject != wheels.digest(checkpoint):
        session.error(f"{shown} is about another checkpoint; make both again: {again}")
    folder = environment.prepare_default_cell()
    code = (
        "import pathlib, sys; from gates.evidence import provenance; "
        "print(provenance.model_version(provenance.read(pathlib.Path(sys.argv[1]))))"
    )
    return environment.output(folder, "python", "-c", code, str(provenance)).strip()


@session(tiers=["release"], timeout_minutes=5, inputs=["."])
def publish(session: nox.Session) -> None:
    """Say what a release would upload and where; uploads nothing itself, release.yml does.

    Fails if dist/ is not what `build` left, or of another version than pyproject.toml; and if HEAD
    is not on the branch that DEFAULT_BRANCH names, as release.yml does.
    """
    _must_be_on(session, os.environ.get("DEFAULT_BRANCH"))
    if not (ROOT / SUMS).exists():
        stop(f"publish: there is no {SUMS}; run first: nox -s build")
    declared = _declared()
    files = sorted((ROOT / DIST).iterdir()) if (ROOT / DIST).is_dir() else []
    sums = _sums(files)
    if sums != (ROOT / SUMS).read_text(encoding="utf-8").splitlines():
        session.error("dist/ is not what nox -s build left there; run it again")
    names = "|".join(folder.name for folder in members(ROOT))
    ours = re.compile(rf"({names})-{re.escape(declared)}(-|\.tar)")
    strangers = [file.name for file in files if not ours.match(file.name)]
    if strangers:
        session.error(f"{strangers[0]} is no package of {declared}; run again: nox -s build")
    tagged = versions.of_head(declared, ROOT).tagged
    when = f"HEAD is v{tagged}" if tagged else f"not yet: HEAD has no tag v{declared}"
    print(f"Dry run. release.yml uploads on a pushed tag v{declared} only ({when}):")
    for file, line in zip(files, sums, strict=True):
        print(f"  {line}, {file.stat().st_size:,} bytes")
        name = file.name.partition("-")[0]
        print(f"    to PyPI as {name} {declared}, by trusted publishing: environment `pypi`")
        print("    its provenance to GitHub's attestations of this repository")
    state = "written" if (ROOT / NOTES).exists() else "not yet written: nox -s changelog"
    print(f"  {NOTES} ({state})\n    to the workflow run, in the artifact `notes`")


def _must_be_on(session: nox.Session, branch: str | None) -> None:
    """End the session if HEAD is not a commit of `branch`, which reviews have let in."""
    if branch is None:
        return
    remote = f"refs/remotes/origin/{branch}"
    if git.output("rev-parse", "--verify", "--quiet", remote, cwd=ROOT) is None:
        session.error(
            f"origin/{branch} is not in this clone, so nothing shows that HEAD is on it; git fetch "
            f"origin {branch}"
        )
    if git.output("merge-base", "--is-ancestor", "HEAD", remote, cwd=ROOT) is None:
        session.error(
            f"HEAD is not on origin/{branch}, so nobody has reviewed it; release a commit that is"
        )


def _need_history(session: nox.Session) -> None:
    """End the session where git cannot tell all the commits."""
    _commit()
    if messages.is_shallow(ROOT):
        reason = "a shallow clone lacks commits; git fetch --unshallow --tags, or fetch-depth: 0"
        if environment.in_ci():
            stop(f"{session.name}: {reason}; CI=true allows no skip")
        session.skip(reason)


def _commit() -> str:
    found = git.output("rev-parse", "--verify", "--quiet", "HEAD", cwd=ROOT)
    if found is None:
        reason = git.problem(ROOT) or "there is none yet"
        stop(f"a release is made from a commit, and git cannot tell one here: {reason}")
    return found.strip()


def _declared() -> str:
    """Return the version that every package has."""
    declared: str = project_table(ROOT)["version"]
    if not versions.is_version(declared):
        stop(f"pyproject.toml: version is {declared!r}; write MAJOR.MINOR.PATCH")
    for folder in members(ROOT):
        found = project_table(folder)["version"]
        if found != declared:
            file = f"src/{folder.name}/pyproject.toml"
            stop(f"{file}: version is {found}, and all packages share {declared}; write that")
    return declared
