"""Sessions of a release: the packages, their version, the changelog, and the list of uploads."""

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
from tasks.errors import abort
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
    """Check the messages of new commits, and that schema-breaking commits are marked as breaking.

    New commits are those that the branch has and its target does not; on the target itself, the
    last one. A squash merge uses the pull request's title as its message, so PULL_REQUEST_TITLE is
    checked as well, and must not hide a breaking change or a feature. Skipped in a shallow clone,
    which is an error with CI=true. After --: --since COMMIT.
    """
    parser = Options("commits")
    parser.add_argument("--since", metavar="COMMIT")
    options = parser.parse_args(session.posargs)
    _need_history(session)
    since = options.since or messages.base(ROOT, os.environ.get("GITHUB_BASE_REF"))
    if git.output("rev-parse", "--verify", "--quiet", f"{since}^{{commit}}", cwd=ROOT) is None:
        abort(f"commits: git finds no commit {since} here")
    new = messages.read(since, ROOT).commits
    problems = [line for commit in new for line in messages.problems(commit, ROOT)]
    title = os.environ.get("PULL_REQUEST_TITLE")
    if title:
        whole = messages.problems_of_title(title, since, ROOT)
        problems += [f"the pull request's title: {each}" for each in whole]
    show(*problems)
    if problems:
        text = f"{len(problems)} problem(s) found; to reword a commit: git rebase --interactive"
        session.error(text)
    session.log(f"Commits since {since[:8]}: {len(new)}, all valid")


@session(tiers=["release"], timeout_minutes=30, inputs=[*_PACKAGED, "configs"])
def build(session: nox.Session) -> None:
    """Build every package twice, compare the bytes, and test each wheel in an empty environment.

    Builds from clean clones of HEAD in different folders, with different locale, time zone, umask
    and file times, and each wheel a third time from its source distribution. Then runs twine check,
    checks the archives' contents, and installs each wheel with the locked versions of its declared
    dependencies: its modules must import, and a project must train. Writes dist/ and
    artifacts/SHA256SUMS.
    """
    commit = _commit()
    if git.output("status", "--porcelain", cwd=ROOT):
        session.warn("Builds the last commit; uncommitted changes are not included")
    tools = environment.prepare(environment.of_release(environment.default_python()))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        files = _build_reproducibly(session, tools, commit, place)
        # Hash the files before third-party code runs, which could change them.
        sums = _sums(files)
        problems = wheels.problems_of_contents(files, place / "here")
        show(*problems)
        if problems:
            text = f"the archives' contents differ from the commit: {len(problems)} problem(s)"
            session.error(text)
        environment.run(session, tools, "twine", "check", "--strict", *map(str, files))
        _test_wheels(session, files, place / "here")
        if sums != _sums(files):
            session.error("the built files changed while they were checked; nothing is kept")
        _keep(files, sums)
    for line in (ROOT / SUMS).read_text(encoding="utf-8").splitlines():
        session.log(line)


def _build_reproducibly(session: nox.Session, tools: Path, commit: str, place: Path) -> list[Path]:
    """Build in two folders and from the source distribution; return the first build's files."""
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
            session.error(f"two builds of {name} created files with different names")
        pairs = [*zip(made, again, strict=True), (_wheel(made), built)]
        found += [line for pair in pairs for line in wheels.differences(*pair)]
        files += made
    show(*found)
    if found:
        session.error(f"two builds of {commit[:8]} are not identical: {len(found)} difference(s)")
    session.log(f"Two builds of {commit[:8]} and one from the source distributions are identical")
    return files


def _wheel(files: list[Path]) -> Path:
    return next(file for file in files if file.suffix == ".whl")


# Imports only the modules next to __init__.py: modules that need an extra are in subfolders, or
# import it lazily.
_IMPORT_MODULES = """\
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.iter_modules(package.__path__):
    if not module.ispkg and module.name != "__main__":
        importlib.import_module(f"{sys.argv[1]}.{module.name}")
"""


def _test_wheels(session: nox.Session, files: Sequence[Path], source: Path) -> None:
    """Test each wheel with only its declared dependencies, in their locked versions."""
    built = {file.name.partition("-")[0]: file for file in files if file.suffix == ".whl"}
    for name in built:
        folder = environment.prepare(environment.of_wheel(name, Cell(environment.default_python())))
        python = f"--python={folder / 'bin' / 'python'}"
        install = ("pip", "install", "--reinstall", "--no-deps", "--no-index", python)
        needed = [str(built[each]) for each in (name, *needed_members(name, source))]
        problem = uv.problem(*install, *needed, cwd=ROOT)
        problem = problem or uv.problem("pip", "check", python, cwd=ROOT)
        if problem:
            session.error(f"the wheel of {name} does not match the lock: {problem}")
        with tempfile.TemporaryDirectory() as empty, session.chdir(empty):
            environment.run(session, folder, "python", "-c", _IMPORT_MODULES, name)
            for project in WORKSPACE.projects:
                if project.package == name:
                    _train_with(session, folder, project, source)


def _train_with(session: nox.Session, folder: Path, project: Project, source: Path) -> None:
    """Train the tiny configuration."""
    config = source / project.configs / "ci-tiny.yaml"
    training = ("-m", f"{project.package}.train", "--config", str(config))
    environment.run(session, folder, "python", *training)


def _keep(files: Sequence[Path], lines: Sequence[str]) -> None:
    """Replace dist/ with the files and write their digests to SHA256SUMS."""
    dist, sums = ROOT / DIST, ROOT / SUMS
    shutil.rmtree(dist, ignore_errors=True)
    dist.mkdir()
    for file in files:
        shutil.copy(file, dist / file.name)
    sums.parent.mkdir(exist_ok=True)
    sums.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _sums(files: Sequence[Path]) -> list[str]:
    """Return a SHA256SUMS line, as sha256sum reads it, for each file of dist/."""
    return [f"{wheels.digest(file)}  {DIST}/{file.name}" for file in files]


@session(tiers=["release"], timeout_minutes=5, inputs=["."])
def version(session: nox.Session) -> None:
    """Print the packages' next version and the reason, commit by commit since the last tag.

    Fails if HEAD's tag differs from the version in pyproject.toml, or is lower than its commits
    require. After --: --write writes the version to every pyproject.toml and to uv.lock.
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
        session.log(f"Every pyproject.toml and uv.lock now have version {release.version}")


def write_version(new: str, root: Path) -> None:
    """Write the version to every package's pyproject.toml, the workspace's, and uv.lock."""
    for folder in (root, *members(root)):
        name = re.sub(r"[-_.]+", "-", project_table(folder)["name"]).lower()
        _write_version(new, name, folder / "pyproject.toml", root / "uv.lock")


def _write_version(new: str, name: str, pyproject: Path, lock: Path) -> None:
    entry = rf'(^\[\[package\]\]\nname = "{re.escape(name)}"\nversion = )"[^"]*"'
    for file, pattern in ((pyproject, r'(^version = )"[^"]*"'), (lock, entry)):
        text = file.read_text(encoding="utf-8")
        changed, count = re.subn(pattern, rf'\g<1>"{new}"', text, flags=re.MULTILINE)
        if count != 1:
            abort(
                f"version: {file.name}: expected one line with the version of {name}, got {count}"
            )
        file.write_text(changed, encoding="utf-8")


@session(tiers=["release"], timeout_minutes=5, inputs=["."])
def changelog(session: nox.Session) -> None:
    """Move the unreleased section of CHANGELOG.md to the next version; write the release notes.

    Keeps text written by hand. Adds a line for each commit since the last tag that did not change
    CHANGELOG.md, except in a first release that already has text. A second run changes nothing.
    artifacts/release-notes.md contains the section and the model version of each project.
    """
    _need_history(session)
    declared = _declared()
    release = versions.of_head(declared, ROOT)
    new = release.tagged or release.version
    if new is None:
        session.skip(versions.account(release)[-1])
    text = (ROOT / _CHANGELOG).read_text(encoding="utf-8")
    if release.tagged and log.section(text, new) is None:
        text = f"v{new} is tagged but has no section in CHANGELOG.md; run changelog before tagging"
        session.error(text)
    has_text = release.last is None and log.has_unreleased_text(text)
    more = "" if has_text else log.missing(release, ROOT)
    date = dt.datetime.now(tz=dt.UTC).date().isoformat()
    try:
        changed = log.release(text, new, date, more)
    except log.ChangelogError as error:
        abort(f"changelog: {error}")
    if changed == text:
        session.log(f"CHANGELOG.md already has a section for {new}")
    else:
        (ROOT / _CHANGELOG).write_text(changed, encoding="utf-8")
        session.log(f"CHANGELOG.md: wrote the section for {new}; review and commit it")
    models = {each.model: _model_version(session, each) for each in WORKSPACE.projects}
    file = ROOT / NOTES
    file.parent.mkdir(exist_ok=True)
    for name, model in models.items():
        if model and not model.startswith(_commit()[:8]):
            session.warn(f"{name}: {model} was not trained from {_commit()[:8]}; train it again")
    notes = log.notes(new, _commit(), models, log.section(changed, new) or "")
    file.write_text(notes, encoding="utf-8")
    listed = ", ".join(f"{name} {model or '(none)'}" for name, model in models.items())
    session.log(f"{NOTES}: {new} is released with the models {listed}")


def _model_version(session: nox.Session, project: Project) -> str | None:
    """Return the version of a project's newest model; its provenance must match its checkpoint."""
    checkpoint = ROOT / project.latest
    train = f'nox -s "train({project.package})"'
    if not checkpoint.exists():
        reason = f"there is no {project.latest}; run: {train}"
        if environment.in_ci():
            abort(f"changelog: {reason}; with CI=true, release notes must name every model")
        session.warn(f"The release notes name no model of {project.package}: {reason}")
        return None
    provenance = checkpoint.resolve().parent / "provenance.json"
    shown = provenance.relative_to(ROOT)
    try:
        document = json.loads(provenance.read_text(encoding="utf-8"))
        subject = document["subject"][0]["digest"]["sha256"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        abort(f"changelog: {shown}: cannot be read as provenance ({error}); run: {train}")
    if subject != wheels.digest(checkpoint):
        session.error(f"{shown} describes another checkpoint; train again: {train}")
    folder = environment.prepare_default_cell()
    code = (
        "import pathlib, sys; from gates.evidence import provenance; "
        "print(provenance.model_version(provenance.read(pathlib.Path(sys.argv[1]))))"
    )
    return environment.output(folder, "python", "-c", code, str(provenance)).strip()


@session(tiers=["release"], timeout_minutes=5, inputs=["."])
def publish(session: nox.Session) -> None:
    """Print what a release would upload and where; only release.yml uploads.

    Fails if dist/ differs from the output of `build`, or has another version than pyproject.toml,
    or if HEAD is not on the branch that DEFAULT_BRANCH names (release.yml sets it).
    """
    _must_be_on(session, os.environ.get("DEFAULT_BRANCH"))
    if not (ROOT / SUMS).exists():
        abort(f"publish: there is no {SUMS}; run first: nox -s build")
    declared = _declared()
    files = sorted((ROOT / DIST).iterdir()) if (ROOT / DIST).is_dir() else []
    sums = _sums(files)
    if sums != (ROOT / SUMS).read_text(encoding="utf-8").splitlines():
        session.error("dist/ differs from the output of nox -s build; run it again")
    names = "|".join(folder.name for folder in members(ROOT))
    ours = re.compile(rf"({names})-{re.escape(declared)}(-|\.tar)")
    strangers = [file.name for file in files if not ours.match(file.name)]
    if strangers:
        session.error(f"{strangers[0]} is not a package of {declared}; run again: nox -s build")
    tagged = versions.of_head(declared, ROOT).tagged
    when = f"HEAD is v{tagged}" if tagged else f"not yet: HEAD has no tag v{declared}"
    print(f"Dry run. release.yml uploads only when the tag v{declared} is pushed ({when}):")
    for file, line in zip(files, sums, strict=True):
        print(f"  {line}, {file.stat().st_size:,} bytes")
        name = file.name.partition("-")[0]
        print(f"    to PyPI as {name} {declared}, by trusted publishing: environment `pypi`")
        print("    its provenance to this repository's attestations on GitHub")
    state = "written" if (ROOT / NOTES).exists() else "not yet written: nox -s changelog"
    print(f"  {NOTES} ({state})\n    to the workflow run, in the artifact `notes`")


def _must_be_on(session: nox.Session, branch: str | None) -> None:
    """End the session if HEAD is not on `branch`, whose commits have been reviewed."""
    if branch is None:
        return
    remote = f"refs/remotes/origin/{branch}"
    if git.output("rev-parse", "--verify", "--quiet", remote, cwd=ROOT) is None:
        session.error(
            f"origin/{branch} is not in this clone, so HEAD cannot be checked against it; "
            f"run: git fetch origin {branch}"
        )
    if git.output("merge-base", "--is-ancestor", "HEAD", remote, cwd=ROOT) is None:
        session.error(
            f"HEAD is not on origin/{branch}, so it has not been reviewed; release a commit that is"
        )


def _need_history(session: nox.Session) -> None:
    """End the session if git lacks part of the history."""
    _commit()
    if messages.is_shallow(ROOT):
        reason = (
            "a shallow clone lacks commits; run git fetch --unshallow --tags, or set fetch-depth: 0"
        )
        if environment.in_ci():
            abort(f"{session.name}: {reason}; with CI=true, it must not be skipped")
        session.skip(reason)


def _commit() -> str:
    found = git.output("rev-parse", "--verify", "--quiet", "HEAD", cwd=ROOT)
    if found is None:
        reason = git.problem(ROOT) or "there is none yet"
        abort(f"a release needs a commit, but git finds none here: {reason}")
    return found.strip()


def _declared() -> str:
    """Return the version that all packages share."""
    declared: str = project_table(ROOT)["version"]
    if not versions.is_version(declared):
        abort(f"pyproject.toml: version is {declared!r}; write MAJOR.MINOR.PATCH")
    for folder in members(ROOT):
        found = project_table(folder)["version"]
        if found != declared:
            file = f"src/{folder.name}/pyproject.toml"
            abort(f"{file}: version is {found}; all packages share {declared}, so write that")
    return declared
