"""Compares the manifests of two checkouts, to show whether their sessions did the same."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from tasks.display import harmless
from tasks.errors import abort
from tasks.evidence import manifest
from tasks.evidence.manifest import DamagedManifestError, Manifest, UsedEnvironment

_SHOWN_FILES = 5


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The sessions in both sets, and one line per difference; all of it is safe to print."""

    sessions: list[str]
    differences: list[str]


def of_folders(arguments: Sequence[str]) -> Comparison:
    """Compare the manifests in two folders: yours and CI's.

    Raises:
        SystemExit: with exit code 2 and one line, if a folder is missing or empty, or a manifest
            is damaged or exists twice.
    """
    if len(arguments) != 2:  # noqa: PLR2004 - yours and CI's
        abort("parity: name two folders of manifests, as in: nox -s parity -- local/ ci/")
    yours, ci = (_read_all(Path(folder)) for folder in arguments)
    both = sorted(yours.keys() & ci.keys())
    found: dict[str, list[str]] = {}
    for name in both:
        for difference in _differences(yours[name], ci[name]):
            found.setdefault(difference, []).append(name)
    lines = [f"{', '.join(names)}: {difference}" for difference, names in found.items()]
    return Comparison(
        sessions=[harmless(name) for name in both],
        differences=[harmless(line) for line in (*_missing(yours, ci), *lines)],
    )


def _read_all(folder: Path) -> dict[str, Manifest]:
    """Return the manifests in `folder` and its subfolders; CI's come in one folder per job."""
    if not folder.is_dir():
        abort(f"parity: {folder}: no such folder; nox leaves manifests in artifacts/manifests")
    found_json = sorted(folder.rglob("*.json"))
    # CI's jobs also leave other JSON files, such as verdicts.
    manifests = [file for file in found_json if file.parent.name == manifest.FOLDER.name]
    files = manifests or found_json
    if not files:
        abort(f"parity: {folder}: contains no manifest (*.json)")
    found: dict[str, tuple[Manifest, Path]] = {}
    for file in files:
        try:
            read = manifest.read(file)
        except DamagedManifestError as error:
            abort(f"parity: {error}")
        if read.session in found:
            both = f"{found[read.session][1]} and {file}"
            line = f"parity: {both}: two manifests of {read.session}; keep one"
            abort(harmless(line))
        found[read.session] = (read, file)
    return {name: read for name, (read, _) in found.items()}


def _missing(yours: Mapping[str, Manifest], ci: Mapping[str, Manifest]) -> Iterator[str]:
    """Report sessions that only one side ran, except those in no tier, which are run by hand."""
    for name in sorted(yours.keys() ^ ci.keys()):
        if name in yours:
            run, line = yours[name], "you ran it, but CI has no manifest of it"
        else:
            run, line = ci[name], "CI ran it, but you have no manifest of it"
        if run.tiers:
            yield f"{name}: {line}"


def _differences(yours: Manifest, ci: Manifest) -> Iterator[str]:
    if yours.result != ci.result:
        yield f"CI {_result(ci)}, you {_result(yours)}"
    if "skipped" in {yours.result, ci.result}:
        return  # a skipped session ran nothing that could be compared
    if yours.platform != ci.platform:
        yield f"CI ran on {ci.platform}, you on {yours.platform}"
    yield from _compare_versions(yours.tools, ci.tools)
    if not yours.environments and not ci.environments and yours.interpreter != ci.interpreter:
        yield f"CI ran Python {ci.interpreter}, you have {yours.interpreter}"
    for folder in sorted(yours.environments.keys() | ci.environments.keys()):
        yield from _compare_environments(
            folder, yours.environments.get(folder), ci.environments.get(folder)
        )
    yield from _compare_commands(yours.commands, ci.commands)
    yield from _compare_variables(yours.variables, ci.variables)
    yield from _compare_inputs(yours.inputs, ci.inputs)


def _result(run: Manifest) -> str:
    return f"{run.result} ({run.reason})" if run.reason else run.result


def _compare_versions(yours: Mapping[str, str], ci: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(yours.keys() | ci.keys()):
        here, there = yours.get(name), ci.get(name)
        if here == there:
            continue
        ran = f"ran {name} {there}" if there else f"has no {name}"
        yield f"CI {ran}, you have {here or 'none'}"


def _compare_environments(
    folder: str, yours: UsedEnvironment | None, ci: UsedEnvironment | None
) -> Iterator[str]:
    if yours is None or ci is None:
        side, other = ("CI", "you") if yours is None else ("you", "CI")
        yield f"{side} used the environment {folder}, {other} did not"
        return
    if yours.python != ci.python:
        yield f"CI ran Python {ci.python}, you have {yours.python}"
    yield from _compare_versions(yours.packages, ci.packages)
    if yours.packages == ci.packages and yours.requirements != ci.requirements:
        yield f"{folder} has the same versions with different hashes; compare uv.lock"


def _compare_commands(yours: Sequence[str], ci: Sequence[str]) -> Iterator[str]:
    for here, there in zip_longest(yours, ci):
        if here != there:
            yield f"CI ran {_quoted(there)}, you ran {_quoted(here)}"


def _quoted(command: str | None) -> str:
    return "nothing" if command is None else f"`{command}`"


def _compare_variables(yours: Mapping[str, str], ci: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(yours.keys() | ci.keys()):
        here, there = (
            f"{name}={variables[name]!r}" if name in variables else f"no {name}"
            for variables in (yours, ci)
        )
        if here != there:
            yield f"CI had {there}, you have {here}"


def _compare_inputs(yours: Mapping[str, str] | None, ci: Mapping[str, str] | None) -> Iterator[str]:
    if yours is None or ci is None:
        if yours is not ci:
            side = "your" if yours is None else "CI's"
            yield f"{side} inputs are unknown, because that run was not in a git repository"
        return
    files = sorted(name for name in yours.keys() | ci.keys() if yours.get(name) != ci.get(name))
    for name in files[:_SHOWN_FILES]:
        if name not in ci:
            yield f"only you have {name}"
        elif name not in yours:
            yield f"only CI has {name}"
        else:
            yield f"{name} differs"
    if len(files) > _SHOWN_FILES:
        yield f"{len(files) - _SHOWN_FILES} more files differ"
