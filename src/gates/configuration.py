"""Configuration files: strict YAML, validated against a model, errors reported in one line."""

import difflib
import re
import reprlib
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from gates.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """A section of a configuration: read-only, strictly typed, no unknown keys, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


_PINNED_ADDRESS = re.compile(r"hf://[^@]*@[0-9a-f]{40}(/|$)")


def _pinned(address: str) -> str:
    if "hf://" in address and not _PINNED_ADDRESS.search(address):
        msg = "a branch on the Hub can move; name a commit of 40 digits: hf://…/NAME@COMMIT/…"
        raise ValueError(msg)
    return address


# An address that fsspec opens; an address on the Hugging Face Hub must name a commit.
Address = Annotated[str, Field(min_length=1), AfterValidator(_pinned)]


# Besides its own errors, ruamel lets errors of type constructors through: `2024-13-45`, `!!bool x`.
_INVALID_YAML = (
    YAMLError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the keys and values in the YAML `file`.

    Raises:
        ConfigError: the file is missing or malformed.
    """
    return parse_yaml(read_bytes(file), where=str(file))


def read_bytes(file: Path) -> bytes:
    """Return the content of a configuration `file`.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        msg = f"{file}: cannot be read ({error.strerror}); the configurations are in configs/"
        raise ConfigError(msg) from error


def parse_yaml(content: bytes, *, where: str) -> dict[str, Any]:
    """Return the keys and values of a YAML document; errors name `where` it comes from.

    Raises:
        ConfigError: the document is malformed.
    """
    try:
        tree = _parse(content)
    except MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        msg = f"{where}: {line}not valid YAML: {error.problem}; correct that line"
        raise ConfigError(msg) from error
    except _INVALID_YAML as error:
        msg = f"{where}: not valid YAML: {error}"
        raise ConfigError(msg) from error
    if not isinstance(tree, dict):
        msg = f"{where}: expected keys and values, such as `seed: 0`, found {_name_of_type(tree)}"
        raise ConfigError(msg)
    return tree


def apply_override(tree: dict[str, Any], override: str) -> str:
    """Apply one `--set key=value` to `tree`; return the key.

    Raises:
        ConfigError: `override` is not KEY=VALUE, or a parent of the key is a value.
    """
    key, equals, text = override.partition("=")
    if not (key and equals):
        msg = f"--set {override}: expected KEY=VALUE, as in --set train.epochs=3"
        raise ConfigError(msg)
    try:
        value = _parse(text)
    except _INVALID_YAML as error:
        msg = f"--set {override}: the value is not valid YAML; quote it"
        raise ConfigError(msg) from error
    *parents, leaf = key.split(".")
    section = tree
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            msg = f"--set {override}: {parent} is a value, not a section"
            raise ConfigError(msg)
    section[leaf] = value
    return key


def validate(model: type[Model], tree: Any, *, where: str, overridden: Iterable[str] = ()) -> Model:
    """Return `tree` validated as a `model`.

    Args:
        model: declares the allowed keys and values.
        tree: nested mappings, as read from YAML.
        where: the source that an error names.
        overridden: keys set by `--set`; an error about them names `--set` as the source.

    Raises:
        ConfigError: a key is missing or unknown, or a value is not allowed.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        details = error.errors()
        if isinstance(tree, dict) and tree and model.model_fields.keys().isdisjoint(tree):
            found, wanted = (", ".join(map(str, keys)) for keys in (tree, model.model_fields))
            msg = f"{where}: has the keys {_shown(found)[1:-1]}; expected {wanted}; is this the "
            msg += "right file?"
            raise ConfigError(msg) from error
        # A misspelt key is also reported as missing; the misspelling is the one to report.
        first = min(details, key=lambda detail: detail["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"])
        source = "--set" if any(_overlap(key, other) for other in overridden) else where
        more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
        msg = f"{source}: {key or 'top level'}: {_explain(first, model)}{more}"
        raise ConfigError(msg) from error


def first_problem(error: ValidationError) -> str:
    """Return the place and the reason of the first validation error, in one line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "top level"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message[:1].lower()}{message[1:]}"


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested `tree` by their dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        leaves |= flat(value, f"{dotted}.") if isinstance(value, dict) else {dotted: value}
    return leaves


def _parse(text: str | bytes) -> Any:
    # Pure YAML 1.2: `1e-3` is a number, `no` is a string, a repeated key is an error.
    return YAML(typ="safe", pure=True).load(text)


def _overlap(one: str, other: str) -> bool:
    """Whether two dotted keys are equal, or one is a section that contains the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


# Our wording of pydantic's error types: what was expected, and what was found.
_EXPLANATIONS = {
    "missing": "missing; every key must be given",
    "model_type": "must be a section with keys, got {input}",
    "greater_than": "must be > {gt:g}, got {input}",
    "greater_than_equal": "must be >= {ge:g}, got {input}",
    "less_than": "must be < {lt:g}, got {input}",
    "less_than_equal": "must be <= {le:g}, got {input}",
    "literal_error": "must be {expected}, got {input}",
    "value_error": "{error}",
}


def _explain(error: ErrorDetails, model: type[BaseModel]) -> str:
    if error["type"] == "extra_forbidden":
        return _unknown_key(str(error["loc"][-1]), _keys_at(error["loc"][:-1], model))
    explanation = _EXPLANATIONS.get(error["type"])
    if explanation is None:
        return f"{error['msg'][:1].lower()}{error['msg'][1:]}, got {_shown(error['input'])}"
    return explanation.format(input=_shown(error["input"]), **error.get("ctx", {}))


# YAML aliases can expand a few lines into billions of values, so messages are truncated.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 80, 80


def _shown(value: object) -> str:
    """Return the repr of `value`, truncated to fit on one line."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python refuses to print an integer with thousands of digits
        return "a number with thousands of digits"


def _unknown_key(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(known)}"
    return f"unknown key; {hint}"


def _keys_at(location: Iterable[int | str], model: type[BaseModel]) -> list[str]:
    """Return the keys of the section at `location` in `model`."""
    section: Any = model
    for key in location:
        # In a mapping from names to sections, all sections have the same type.
        is_section = isinstance(section, type) and issubclass(section, BaseModel)
        section = (
            section.model_fields[str(key)].annotation
            if is_section
            else typing.get_args(section)[-1]
        )
    return list(section.model_fields)


def _name_of_type(tree: object) -> str:
    return "nothing" if isinstance(tree, types.NoneType) else f"a {type(tree).__name__}"
