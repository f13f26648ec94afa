from pathlib import Path

import pytest

from tasks import tracked_files


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
def test_a_megabyte_is_the_most(size: int, code: int, tmp_path: Path) -> None:
    file = tmp_path / "notes.md"
    file.write_bytes(b"x" * size)
    assert tracked_files.main([str(file)]) == code


def test_each_offender_has_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / name for name in ("a.pt", "fine.py", "b.onnx")]
    for file in files:
        file.touch()
    assert tracked_files.main(map(str, files)) == 1
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        str(files[0]),
        str(files[2]),
    ]


def test_source_is_welcome(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "train.py"
    file.touch()
    assert tracked_files.main([str(file)]) == 0
    assert capsys.readouterr().out == ""


def test_a_link_is_judged_by_itself_not_by_what_it_points_to(tmp_path: Path) -> None:
    link = tmp_path / "link.md"
    link.symlink_to(tmp_path / "gone.md")
    assert tracked_files.main([str(link)]) == 0
