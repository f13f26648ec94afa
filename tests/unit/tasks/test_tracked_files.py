import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tasks.hooks import tracked_files
from tests import repository


@pytest.mark.parametrize(
    "name",
    ["checkpoint.pt", "weights.safetensors", "data.parquet", "model.PKL", "archive.tar", "x.npz"],
)
def test_models_and_data_are_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    file.write_text("small")
    assert tracked_files.main([str(file)]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{file}: a model or data file")


@pytest.mark.parametrize(("size", "code"), [(1_000_000, 0), (1_000_001, 1)])
def test_size_limit_is_one_megabyte(size: int, code: int, tmp_path: Path) -> None:
    file = tmp_path / "notes.md"
    file.write_bytes(b"x" * size)
    assert tracked_files.main([str(file)]) == code


def test_each_refused_file_has_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / name for name in ("a.pt", "fine.py", "b.onnx")]
    for file in files:
        file.touch()
    assert tracked_files.main(map(str, files)) == 1
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        str(files[0]),
        str(files[2]),
    ]


def test_source_is_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "train.py"
    file.touch()
    assert tracked_files.main([str(file)]) == 0
    assert capsys.readouterr().out == ""


def link(name: str, target: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).symlink_to(target)
        return folder / name

    return make


def file_with(name: str, content: bytes, mode: int = 0o644) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        (folder / name).chmod(mode)
        return folder / name

    return make


def saved_by_torch(folder: Path) -> Path:
    torch.save({"weights": torch.zeros(2)}, folder / "weights.txt")
    return folder / "weights.txt"


def notebook(outputs: list[object]) -> bytes:
    return json.dumps({"cells": [{"outputs": outputs}, {"cell_type": "markdown"}]}).encode()


SAFETENSORS = (8).to_bytes(8, "little") + b'{"a":{}}'
REFUSED = [
    (saved_by_torch, "begins like a zip archive"),
    (file_with("model", pickle.dumps({"a": 1})), "begins like a pickle"),
    (file_with("weights", SAFETENSORS), "begins like safetensors"),
    (file_with("data.csv", b"PAR1...."), "begins like Parquet"),
    (file_with("x.txt", b"\x89HDF\r\n\x1a\n"), "begins like HDF5"),
    (link("a.md", "gone.md"), "links to gone.md, which does not exist"),
    (link("a.md", "/etc/hostname"), "links to /etc/hostname, which is outside the repository"),
    (link("a.md", "../outside.md"), "links to ../outside.md, which is outside the repository"),
    (file_with(".env", b"A=1\n"), "contains one machine's settings"),
    (file_with(".env.production", b"A=1\n"), "contains one machine's settings"),
    (
        file_with("a.md", "one\ntwo \u202e three\n".encode()),
        "line 2 has a character that reverses text",
    ),
    (file_with("a.py", "x = 1  # \u2066\n".encode()), "line 1 has a character"),
    (file_with("a.md", b"text\n", 0o755), "is executable but not a script"),
    (file_with("a.ipynb", notebook([{"text": "secret"}])), "a notebook with outputs"),
    (file_with("b.ipynb", b"{"), "a notebook with outputs"),
    (file_with("Dockerfile", b"FROM x\nENV API_KEY=abc\n"), "API_KEY would stay in a layer"),
    (file_with("Dockerfile.gpu", b"ARG HF_TOKEN = abc\n"), "HF_TOKEN would stay in a layer"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=lambda value: value)
def test_harmful_file_is_refused(
    make: Callable[[Path], Path],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracked_files.main([make(Path()).name]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert message in line


@pytest.mark.parametrize(
    "make",
    [
        link("a.md", "there.md"),
        file_with(".env.example", b"A=\n"),
        file_with("a.ipynb", notebook([])),
        file_with("run", b"#!/bin/sh\n", 0o755),
        file_with("Dockerfile", b"ARG TOKEN\nENV KEYBOARD=de\nENV API_KEY=$TOKEN\n"),
        file_with("a.json", b'{"a": 1}'),
        file_with("a.md", "äöü → 漢字\n".encode()),
    ],
)
def test_harmless_lookalike_is_accepted(
    make: Callable[[Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.md").write_text("")
    assert tracked_files.main([make(Path()).name]) == 0, capsys.readouterr().out


def test_clone_has_the_same_bytes_under_any_git_configuration(tmp_path: Path) -> None:
    origin = repository.copy_of_sessions(tmp_path / "origin")
    clone = tmp_path / "clone"
    done = repository.git(
        "clone", "--quiet", "--config", "core.autocrlf=true", str(origin), str(clone), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for name in ("uv.lock", "pyproject.toml", "src/gates/verdict.schema.json"):
        assert (clone / name).read_bytes() == (origin / name).read_bytes()
