import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gates.errors import GateInputError
from gates.files import atomic_write, check_writable, refuse_to_overwrite, sha256, write_text


@pytest.fixture
def umask() -> Iterator[int]:
    mask = 0o027
    before = os.umask(mask)
    yield mask
    os.umask(before)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(chunks=st.lists(st.binary()), before=st.none() | st.binary())
def test_successful_block_writes_the_whole_file(
    chunks: list[bytes], before: bytes | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("folder") / "file"
    if before is not None:
        file.write_bytes(before)
    with atomic_write(file) as stream:
        for chunk in chunks:
            stream.write(chunk)
    assert file.read_bytes() == b"".join(chunks)
    assert list(file.parent.iterdir()) == [file]


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    written=st.binary(),
    before=st.none() | st.binary(),
    kind=st.sampled_from([ValueError, OSError, KeyboardInterrupt]),
)
def test_block_that_raises_changes_nothing(
    written: bytes,
    before: bytes | None,
    kind: type[BaseException],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    file = tmp_path_factory.mktemp("folder") / "file"
    if before is not None:
        file.write_bytes(before)

    def write_and_raise() -> None:
        with atomic_write(file) as stream:
            stream.write(written)
            raise kind

    # An OSError, such as a full disk, may be turned into a GateInputError.
    with pytest.raises((kind, GateInputError)):
        write_and_raise()
    assert list(file.parent.iterdir()) == ([] if before is None else [file])
    assert before is None or file.read_bytes() == before


def test_old_content_stays_until_the_block_ends(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    with atomic_write(file) as stream:
        stream.write(b"new")
        stream.flush()
        assert file.read_text() == "old"
    assert file.read_text() == "new"


def test_process_killed_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    program = """
import sys
from pathlib import Path
from gates.files import atomic_write

with atomic_write(Path(sys.argv[1])) as stream:
    stream.write(b"new" * 100_000)
    stream.flush()
    print("half-way", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half-way\n"
        process.kill()
    assert process.returncode == -9
    assert file.read_text() == "old"


def test_leftovers_of_a_killed_process_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / ".file.abandoned").write_text("half")
    with atomic_write(tmp_path / "file") as stream:
        stream.write(b"new")
    assert (tmp_path / "file").read_text() == "new"


def test_missing_folder_is_created(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "deeper" / "file"
    with atomic_write(file) as stream:
        stream.write(b"new")
    assert file.read_bytes() == b"new"


def test_file_permissions_follow_the_umask(tmp_path: Path, umask: int) -> None:
    with atomic_write(tmp_path / "file") as stream:
        stream.write(b"new")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


def test_umask_is_restored(tmp_path: Path, umask: int) -> None:
    with atomic_write(tmp_path / "file"):
        pass
    assert os.umask(umask) == umask


def test_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    file = tmp_path / "taken" / "file"
    with pytest.raises(GateInputError, match=f"^{file}: cannot be written "), atomic_write(file):
        pass
    assert (tmp_path / "taken").read_text() == "mine"


def test_folder_where_the_file_should_be_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    folder.mkdir()
    with (
        pytest.raises(GateInputError, match=f"^{folder}: cannot be written "),
        atomic_write(folder),
    ):
        pass
    assert list(tmp_path.iterdir()) == [folder]


def test_full_disk_is_an_input_error(tmp_path: Path) -> None:
    def fill() -> None:
        with atomic_write(tmp_path / "file") as stream:
            # From here on every write fails, as on a full disk.
            os.dup2(full, stream.fileno())
            stream.write(b"new")

    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(GateInputError, match=r"file: cannot be written \(No space left on device"):
        fill()
    os.close(full)
    assert not list(tmp_path.iterdir())


def test_sha256_of_a_published_example(tmp_path: Path) -> None:
    # FIPS 180-2, appendix B.1.
    file = tmp_path / "abc"
    file.write_text("abc")
    assert sha256(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_sha256_of_a_missing_file_names_it(tmp_path: Path) -> None:
    file = tmp_path / "absent"
    with pytest.raises(GateInputError) as raised:
        sha256(file)
    assert str(raised.value) == f"{file}: cannot be read (No such file or directory)"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        check_writable(pipe)
        write_text(pipe, "a report")
        assert os.read(reader, 100) == b"a report"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_device_is_written_to_and_not_replaced() -> None:
    write_text(Path(os.devnull), "a report")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_is_kept_and_its_target_replaced(*, is_there: bool, tmp_path: Path) -> None:
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    target.parent.mkdir()
    if is_there:
        target.write_text("before")
    link.symlink_to("folder/target")
    write_text(link, "after")
    assert link.is_symlink()
    assert target.read_text() == "after"


def test_overwriting_an_input_or_another_output_is_refused(tmp_path: Path) -> None:
    file, other, link, hard = (tmp_path / name for name in ("file", "other", "link", "hard"))
    file.write_text("data")
    link.symlink_to(file)
    hard.hardlink_to(file)
    for same in (file, link, hard, tmp_path / "x" / ".." / "file"):
        with pytest.raises(GateInputError, match=f"would overwrite {file}, which is an input"):
            refuse_to_overwrite([None, file], written=[other, same])
    with pytest.raises(GateInputError, match=f"would overwrite {other}, which is another output"):
        refuse_to_overwrite([file], written=[other, None, tmp_path / "." / "other"])
    null = Path(os.devnull)
    refuse_to_overwrite([file, null], written=[other, null, null])
