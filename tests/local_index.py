"""A package index in a folder, with wheels built on demand."""

import base64
import hashlib
import io
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Index:
    """A package index: a folder of wheels and the URL that serves it."""

    folder: Path
    url: str

    def publish(self, name: str, version: str) -> None:
        """Add a wheel and a source distribution, as most packages have both."""
        wheel = self.folder / name / f"{name}-{version}-py3-none-any.whl"
        wheel.parent.mkdir(exist_ok=True, parents=True)
        _write_wheel(wheel, name, version)
        _write_sdist(wheel.parent / f"{name}-{version}.tar.gz", name, version)
        links = [
            f'<a href="{file.name}#sha256={hashlib.sha256(file.read_bytes()).hexdigest()}">'
            f"{file.name}</a>"
            for file in sorted(wheel.parent.glob(f"{name}-*"))
        ]
        (wheel.parent / "index.html").write_text("\n".join(links))

    def publish_file(self, name: str, version: str) -> Path:
        """Add only a wheel, directly in the folder, which makes it a flat index."""
        self.folder.mkdir(exist_ok=True)
        wheel = self.folder / f"{name}-{version}-py3-none-any.whl"
        _write_wheel(wheel, name, version)
        return wheel


def _write_wheel(wheel: Path, name: str, version: str) -> None:
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{path},sha256={_record_digest(text)},{len(text)}" for path, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text)


def _write_sdist(sdist: Path, name: str, version: str) -> None:
    """Write a source distribution that builds, with an in-tree build backend."""
    files = {
        "pyproject.toml": f"[project]\nname = {name!r}\nversion = {version!r}\n"
        "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n",
        "backend.py": f"import shutil\n\ndef build_wheel(folder, *_, **__):\n"
        f"    wheel = '{name}-{version}-py3-none-any.whl'\n"
        f"    return shutil.copy(wheel, folder) and wheel\n",
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
    }
    with tarfile.open(sdist, "w:gz") as archive:
        for path, text in files.items():
            member = tarfile.TarInfo(f"{name}-{version}/{path}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
        wheel = sdist.with_name(f"{name}-{version}-py3-none-any.whl")
        archive.add(wheel, f"{name}-{version}/{wheel.name}")


def _record_digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
