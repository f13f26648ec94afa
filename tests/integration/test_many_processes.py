"""Do many processes train the same model as one, and can they go on where others were?"""

import re
import shutil
import signal
from pathlib import Path

import pytest
import torch

from tests import judged
from tests.integration.trainings import (
    DRIVER,
    Ended,
    Settings,
    Trainings,
    command,
    files,
    metrics,
    run_folder,
    torchrun,
)
from training.pytorch.outputs import mean_score

from my_project.learner import METHOD, is_right
from my_project.project import PROJECT

KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def settings(training_examples: int, small: Settings) -> Settings:
    """Batches that two do not divide, and a last one of each epoch with a single example."""
    batch_size = (training_examples - 1) // 6
    assert training_examples % batch_size == 1
    assert batch_size % 2 == 1
    # A high rate and a low norm, so that the curve bends and gradients are clipped.
    high = small.but(train__lr=0.03, train__clip_norm=0.1)
    return high.but(train__batch_size=batch_size, train__epochs=2, train__snapshot_every=4)


@pytest.fixture(scope="module")
def alone(
    settings: Settings, trainings: Trainings, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Where one process has trained with these settings."""
    folder = tmp_path_factory.mktemp("alone")
    assert trainings.run(settings, folder).codes == [0]
    return folder


def _assert_same_training(folder: Path, reference: Path) -> None:
    lines, expected = metrics(folder), metrics(reference)
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    for line, one in zip(lines, expected, strict=True):
        assert line["loss"] == pytest.approx(one["loss"], abs=1e-5), f"step {line['step']}"
        assert line["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-4)
        assert line["lr"] == one["lr"]
        assert line.get("validation_accuracy") == one.get("validation_accuracy")
    assert expected[-1]["loss"] < expected[0]["loss"] - 0.1, "a curve, not a line"
    weights, expected_weights = _weights(folder), _weights(reference)
    assert weights.keys() == expected_weights.keys()
    for name, values in weights.items():
        torch.testing.assert_close(values, expected_weights[name], rtol=0, atol=1e-4, msg=name)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(run_folder(folder) / "checkpoint.pt", weights_only=True)
    weights: dict[str, torch.Tensor] = checkpoint["weights"]
    for name, values in weights.items():
        if name.endswith("queries_keys_values.bias"):
            # A bias of the keys moves all scores of a query alike, which softmax does not see:
            # its gradient is rounding alone, and AdamW makes steps of that like of any other.
            _, keys, _ = values.chunk(3)
            keys.zero_()
    return weights


def _assert_only_the_first_speaks(ended: Ended) -> None:
    assert ended.codes == [0] * len(ended.codes), ended.stderr
    assert "checkpoint: outputs/run/checkpoint.pt" in ended.stdout[0]
    assert not any(ended.stdout[1:])
    assert not any(ended.stderr)


@pytest.mark.parametrize("accumulation_steps", [1, 2])
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_processes_train_as_one_does(  # noqa: PLR0913, PLR0917 - pytest passes them by name
    parallelism: str,
    processes: int,
    accumulation_steps: int,
    settings: Settings,
    alone: Path,
    trainings: Trainings,
    tmp_path: Path,
) -> None:
    together = settings.but(
        train__parallelism=parallelism, train__accumulation_steps=accumulation_steps
    )
    ended = trainings.run(together, tmp_path, processes=processes)
    _assert_only_the_first_speaks(ended)
    _assert_same_training(tmp_path, alone)


def test_processes_that_divide_the_batch_train_as_one_does(
    settings: Settings, trainings: Trainings, tmp_path: Path
) -> None:
    even = settings.but(train__batch_size=256)
    for processes in (1, 2, 4):
        (tmp_path / str(processes)).mkdir()
        ended = trainings.run(even, tmp_path / str(processes), processes=processes)
        _assert_only_the_first_speaks(ended)
        _assert_same_training(tmp_path / str(processes), tmp_path / "1")


def test_batches_that_worker_processes_load_are_the_same(
    settings: Settings, alone: Path, trainings: Trainings, tmp_path: Path
) -> None:
    ended = trainings.run(settings.but(data__workers=2), tmp_path, processes=2)
    _assert_only_the_first_speaks(ended)
    _assert_same_training(tmp_path, alone)


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_only_the_first_process_writes_all_but_shards(
    parallelism: str, settings: Settings, alone: Path, trainings: Trainings, tmp_path: Path
) -> None:
    together = settings.but(train__parallelism=parallelism)
    ended = trainings.run(together, tmp_path, processes=2, counts="files")
    assert ended.codes == [0, 0], ended.stderr
    written = [change for change in ended.changes[1] if not change.startswith("os.mkdir")]
    shard = r"open outputs/run/snapshots/\.step-\d{8}\.unfinished/__1_0\.distcp"
    assert all(re.fullmatch(shard, change) for change in written), written
    ours = {name for name in files(tmp_path) if not name.endswith("__1_0.distcp")}
    assert ours == set(files(alone))


@pytest.mark.parametrize(
    ("parallelism", "before", "after"),
    [("ddp", 2, 1), ("ddp", 1, 4), ("fsdp", 2, 1), ("fsdp", 1, 4), ("fsdp", 4, 2)],
)
def test_run_goes_on_with_another_number_of_processes(  # noqa: PLR0913, PLR0917 - pytest passes them by name
    parallelism: str,
    before: int,
    after: int,
    settings: Settings,
    alone: Path,
    trainings: Trainings,
    tmp_path: Path,
) -> None:
    together = settings.but(train__parallelism=parallelism)
    killed = trainings.run(together, tmp_path, processes=before, dies_at=10)
    assert killed.codes[-1] == KILLED, killed.stderr
    resumed = trainings.run(together, tmp_path, processes=after)
    _assert_only_the_first_speaks(resumed)
    assert "resumed at step 8 from" in resumed.stdout[0]
    _assert_same_training(tmp_path, alone)


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_the_best_epoch_is_kept_across_a_resume_on_more_processes(
    parallelism: str, settings: Settings, trainings: Trainings, tmp_path: Path
) -> None:
    # At so high a rate the best epoch is not the last.
    selecting = settings.but(train__lr=0.3, train__epochs=6, train__keep="best", train__patience=2)
    together = selecting.but(train__parallelism=parallelism)
    killed = trainings.run(together, tmp_path, processes=2, dies_at=18)
    assert killed.codes[-1] == KILLED, killed.stderr
    _assert_only_the_first_speaks(trainings.run(together, tmp_path, processes=4))
    scores = {
        line["step"]: line["validation_accuracy"]
        for line in metrics(tmp_path)
        if line["ends_epoch"]
    }
    checkpoint = METHOD.load(run_folder(tmp_path) / "checkpoint.pt")
    assert checkpoint.step == max(scores, key=lambda step: scores[step]) < max(scores)
    validation = PROJECT.examples(checkpoint.config, "validation", "")
    score = mean_score(METHOD.model(checkpoint), validation, is_right)
    assert score == scores[checkpoint.step]


def test_damaged_snapshot_of_two_processes_is_passed_over(
    settings: Settings, alone: Path, trainings: Trainings, tmp_path: Path
) -> None:
    together = settings.but(train__parallelism="fsdp")
    killed = trainings.run(together, tmp_path, processes=2, dies_at=10)
    assert killed.codes[-1] == KILLED, killed.stderr
    (run_folder(tmp_path) / "snapshots" / "step-00000008" / "__1_0.distcp").unlink()
    resumed = trainings.run(together, tmp_path, processes=2)
    _assert_only_the_first_speaks(resumed)
    assert "step-00000008: damaged (__1_0.distcp" in resumed.stdout[0]
    assert "resumed at step 4 from" in resumed.stdout[0]
    _assert_same_training(tmp_path, alone)


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_killed_worker_resumes_by_itself_under_torchrun(
    parallelism: str, settings: Settings, alone: Path, tmp_path: Path
) -> None:
    together = settings.but(train__parallelism=parallelism)
    worker = [str(DRIVER), *together.arguments(), "--run-id", "run", "--resume"]
    ended = command([*torchrun(2, "--max-restarts", "2"), *worker], tmp_path, DIES_AT_STEP="10")
    assert ended.returncode == 0, ended.stderr
    assert "resumed at step 8 from" in ended.stdout
    assert ended.stdout.count("checkpoint: outputs/run/checkpoint.pt") == 1
    _assert_same_training(tmp_path, alone)


def test_run_that_torchrun_may_restart_needs_a_name(
    settings: Settings, trainings: Trainings, tmp_path: Path
) -> None:
    variables = {"TORCHELASTIC_MAX_RESTARTS": "2"}
    refused = trainings.run(settings, tmp_path, "--outputs", "outputs", environment=variables)
    assert refused.codes == [2]
    (line,) = refused.stderr
    assert line.startswith("torchrun --max-restarts needs --run-id and --resume: ")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("mistake", ["data", "name"])
def test_bad_input_is_told_once_by_all_processes_together(
    mistake: str, settings: Settings, tmp_path: Path
) -> None:
    arguments = [*settings.arguments(), "--run-id", "run"]
    if mistake == "data":
        arguments += ["--set", "data.source=absent.parquet"]
        told = "data.source: absent.parquet: cannot be read"
    else:
        (tmp_path / "outputs" / "run").mkdir(parents=True)
        told = "outputs/run: there is a run of that name"
    ended = command([*torchrun(2), "-m", "my_project.train", *arguments], tmp_path)
    assert ended.returncode == 1  # torchrun's own, whatever its workers end with
    lines = ended.stderr.splitlines()
    assert sum(told in line for line in lines) == 1
    # The only traceback is torchrun's: what it lists of its workers is their exit code.
    assert ended.stderr.count("Traceback (most recent call last)") == 1
    # The second may be stopped by torchrun before it ends.
    codes = re.findall(r"exitcode *: (-?\d+)", ended.stderr)
    assert "2" in codes
    assert set(codes) <= {"2", "-15"}


def test_no_thread_of_the_group_is_left_when_the_training_has_ended(
    settings: Settings, tmp_path: Path
) -> None:
    # One that is left may abort the process while Python ends.
    script = tmp_path / "train then look.py"
    script.write_text(
        "import pathlib, sys\n"
        "from my_project import train\n"
        "assert train.main(sys.argv[1:]) == 0\n"
        "names = [file.read_text() for file in pathlib.Path('/proc/self/task').glob('*/comm')]\n"
        "assert names, 'no threads to look at'\n"
        "assert not [name for name in names if 'gloo' in name], names\n"
    )
    ended = command([*torchrun(2), str(script), *settings.arguments(), "--run-id", "run"], tmp_path)
    assert ended.returncode == 0, ended.stderr


def test_torchrun_trains_as_one_process_does(
    settings: Settings, alone: Path, tmp_path: Path
) -> None:
    train = ["-m", "my_project.train", *settings.arguments(), "--run-id", "run"]
    ended = command([*torchrun(2), *train], tmp_path)
    assert ended.returncode == 0, ended.stderr
    spoken = [line.partition(":")[0] for line in ended.stdout.splitlines()]
    assert spoken == ["outputs/run", "epoch 1/2", "epoch 2/2", "checkpoint"]
    _assert_same_training(tmp_path, alone)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_run_is_resumed_and_its_checkpoint_read(
    settings: Settings, alone: Path, tmp_path: Path
) -> None:
    compiled = settings.but(train__compile=True)
    worker = [str(DRIVER), *compiled.arguments(), "--run-id", "run", "--resume"]
    ended = command([*torchrun(2, "--max-restarts", "1"), *worker], tmp_path, DIES_AT_STEP="10")
    assert ended.returncode == 0, ended.stderr
    _assert_same_training(tmp_path, alone)
    evaluation = ["-m", "my_project.eval", "--checkpoint", "outputs/latest.pt"]
    evaluation += ["--config", "outputs/run/config.yaml"]
    # A policy that leaves out the floors: so short a training does not reach those of a release.
    evaluation += ["--policy", str(judged.write_policy(tmp_path / "policy.yaml"))]
    evaluated = command([*evaluation, "--no-baseline", "the first"], tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
