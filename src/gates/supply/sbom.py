"""The bill of materials of the lock, as CycloneDX 1.6: the same lock gives the same bytes.

It contains no host name, no path, and no time except the declared one.
"""

import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from gates.errors import GateInputError
from gates.supply.locked import LockedPackage


def declared_time(now: datetime) -> datetime:
    """Return the timestamp for a document: SOURCE_DATE_EPOCH if it is set, else `now`.

    Raises:
        GateInputError: SOURCE_DATE_EPOCH is not a number of seconds.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = datetime.fromtimestamp(int(epoch), UTC) if epoch else now
    except (ValueError, OverflowError, OSError) as error:
        msg = f"SOURCE_DATE_EPOCH is {epoch!r}; expected seconds since 1970"
        raise GateInputError(msg) from error
    return moment.replace(microsecond=0)


def sbom(
    packages: Sequence[LockedPackage],
    licences: Mapping[str, str],
    *,
    project: str,
    properties: Mapping[str, str],
    time: datetime,
) -> dict[str, Any]:
    """Return the bill of materials of `packages`.

    Args:
        packages: the packages to list.
        licences: SPDX expressions, by `NAME==VERSION`.
        project: the name of the project they belong to.
        properties: the document's inputs, such as the lock's digest.
        time: the document's timestamp.
    """
    parts = {package.key: _component(package, licences) for package in packages}
    root = Component(type=ComponentType.APPLICATION, name=project, bom_ref="project")
    edges = {root: list(parts.values())}
    for package in packages:
        required = [f"{name}=={version}" for name, version in package.requires]
        edges[parts[package.key]] = [parts[key] for key in required if key in parts]
    return document(root, edges, properties=properties, time=time)


def document(
    root: Component,
    edges: Mapping[Component, Iterable[Component]],
    *,
    properties: Mapping[str, str],
    time: datetime,
) -> dict[str, Any]:
    """Return a CycloneDX document about `root`.

    Its serial number is derived from its content except the time.

    Args:
        root: the component that the document describes.
        edges: the dependencies of every component, including the root.
        properties: the document's inputs.
        time: the document's timestamp.
    """
    bom = Bom(
        components=[component for component in edges if component is not root],
        serial_number=uuid.UUID(int=0),
    )
    bom.metadata.component = root
    bom.metadata.timestamp = datetime.fromtimestamp(0, UTC)
    bom.metadata.properties.update(Property(name=k, value=v) for k, v in properties.items())
    for component, required in edges.items():
        bom.register_dependency(component, required)
    text = JsonV1Dot6(bom).output_as_string()
    serial = uuid.uuid5(uuid.NAMESPACE_OID, text)
    found: dict[str, Any] = json.loads(text)
    found["serialNumber"] = serial.urn
    found["metadata"]["timestamp"] = time.isoformat()
    return found


def sha256_of(digests: Iterable[str]) -> list[HashType]:
    """Return SHA-256 digests in CycloneDX form."""
    return [HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in digests]


def as_text(found: Mapping[str, Any]) -> str:
    """Return a document as JSON text, validated as CycloneDX.

    Raises:
        GateInputError: the document is not valid.
    """
    text = json.dumps(found, indent=2, sort_keys=True) + "\n"
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error is not None:
        msg = f"not valid CycloneDX 1.6: {str(error.data)[:300]}"
        raise GateInputError(msg)
    return text


def read_document(file: Path) -> dict[str, Any]:
    """Return the CycloneDX document in `file`.

    Raises:
        GateInputError: the file is missing or damaged.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        time_of(found)
        _by_ref(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{file}: not a CycloneDX document ({error}); write it: nox -s sbom"
        raise GateInputError(msg) from error
    return dict(found)


def time_of(found: Mapping[str, Any]) -> datetime:
    """Return the timestamp of a document."""
    return datetime.fromisoformat(found["metadata"]["timestamp"])


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Return one line for each difference of the document `found` from `expected`."""
    ours, theirs = _by_ref(found), _by_ref(expected)
    lines = [f"{ref}: is not in the lock" for ref in sorted(ours.keys() - theirs.keys())]
    lines += [f"{ref}: is missing" for ref in sorted(theirs.keys() - ours.keys())]
    both = sorted(ours.keys() & theirs.keys())
    lines += [f"{ref}: differs from the lock" for ref in both if ours[ref] != theirs[ref]]
    keys = sorted(found.keys() | expected.keys())
    return lines + [
        f"{key}: was changed"
        for key in keys
        if key != "components" and found.get(key) != expected.get(key)
    ]


def _by_ref(found: Mapping[str, Any]) -> dict[str, Any]:
    components: Iterable[Any] = found.get("components", [])
    return {str(each.get("bom-ref")): each for each in components}


def _component(package: LockedPackage, licences: Mapping[str, str]) -> Component:
    purl = PackageURL("pypi", name=package.name, version=package.version)
    licence = licences.get(package.key)
    return Component(
        type=ComponentType.LIBRARY,
        name=package.name,
        version=package.version,
        purl=purl,
        bom_ref=str(purl),
        # A version has a file for each kind of machine; an installed file has one of these hashes.
        hashes=sha256_of({digest for _, digest in package.files}),
        licenses=[LicenseFactory().make_from_string(licence)] if licence else [],
    )
