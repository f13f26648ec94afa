"""Several processes train the same model as one, and can resume a run of any other number."""

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
    """Settings with an odd batch size, so that each epoch's last batch has a single example."""
    batch_size = (training_examples - 1) // 6
    assert training_examples % batch_size == 1
    assert batch_size % 2 == 1
    # A high rate makes the curve bend, and a low norm clips gradients.
    high = small.but(train__lr=0.03, train__clip_norm=0.1)
    return high.but(train__batch_size=batch_size, train__epochs=2, train__snapshot_every=4)


@pytest.fixture(scope="module")
def single_process(
    settings: Settings, trainings: Trainings, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder in which one process trained with these settings."""
    folder = tmp_path_factory.mktemp("single_process")
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
    assert expected[-1]["loss"] < expected[0]["loss"] - 0.1, "the loss must change"
    weights, expected_weights = _weights(folder), _weights(reference)
    assert weights.keys() == expected_weights.keys()
    for name, values in weights.items():
        torch.testing.assert_close(values, expected_weights[name], rtol=0, atol=1e-4, msg=name)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(run_folder(folder) / "checkpoint.pt", weights_only=True)
    weights: dict[str, torch.Tensor] = checkpoint["weights"]
    for name, values in weights.items():
        if name.endswith("queries_keys_values.bias"):
            # A bias of the keys shifts all scores of a query equally, and softmax ignores that: the
            # gradient is only rounding error, but AdamW scales it up like any other gradient.
            _, keys, _ = values.chunk(3)
            keys.zero_()
    return weights


def _assert_only_the_first_prints(ended: Ended) -> None:
    assert ended.codes == [0] * len(ended.codes), ended.stderr
    assert "checkpoint: outputs/run/checkpoint.pt" in ended.stdout[0]
    assert not any(ended.stdout[1:])
    assert not any(ended.stderr)


@pytest.mark.parametrize("accumulation_steps", [1, 2])
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_several_processes_train_like_one(  # noqa: PLR0913, PLR0917 - pytest passes them by name
    parallelism: str,
    processes: int,
    accumulation_steps: int,
    settings: Settings,
    single_process: Path,
    trainings: Trainings,
    tmp_path: Path,
) -> None:
    distributed = settings.but(
        train__parallelism=parallelism, train__accumulation_steps=accumulation_steps
    )
    ended = trainings.run(distributed, tmp_path, processes=processes)
    _assert_only_the_first_prints(ended)
    _assert_same_training(tmp_path, single_process)


def test_processes_that_divide_the_batch_evenly_train_like_one(
    settings: Settings, trainings: Trainings, tmp_path: Path
) -> None:
    even = settings.but(train__batch_size=256)
    for processes in (1, 2, 4):
        (tmp_path / str(processes)).mkdir()
        ended = trainings.run(even, tmp_path / str(processes), processes=processes)
        _assert_only_the_first_prints(ended)
        _assert_same_training(tmp_path / str(processes), tmp_path / "1")


def test_batches_loaded_by_workers_are_the_same(
    settings: Settings, single_process: Path, trainings: Trainings, tmp_path: Path
) -> None:
    ended = trainings.run(settings.but(data__workers=2), tmp_path, processes=2)
    _assert_only_the_first_prints(ended)
    _assert_same_training(tmp_path, single_process)


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_other_processes_write_only_shards(
    parallelism: str, settings: Settings, single_process: Path, trainings: Trainings, tmp_path: Path
) -> None:
    distributed = settings.but(train__parallelism=parallelism)
    ended = trainings.run(distributed, tmp_path, processes=2, counts="files")
    assert ended.codes == [0, 0], ended.stderr
    written = [change for change in ended.changes[1] if not change.startswith("os.mkdir")]
    shard = r"open outputs/run/snapshots/\.step-\d{8}\.unfinished/__1_0\.distcp"
    assert all(re.fullmatch(shard, change) for change in written), written
    ours = {name for name in files(tmp_path) if not name.endswith("__1_0.distcp")}
    assert ours == set(files(single_process))


@pytest.mark.parametrize(
    ("parallelism", "before", "after"),
    [("ddp", 2, 1), ("ddp", 1, 4), ("fsdp", 2, 1), ("fsdp", 1, 4), ("fsdp", 4, 2)],
)
def test_run_resumes_with_another_number_of_processes(  # noqa: PLR0913, PLR0917 - pytest passes them by name
    parallelism: str,
    before: int,
    after: int,
    settings: Settings,
    single_process: Path,
    trainings: Trainings,
    tmp_path: Path,
) -> None:
    distributed = settings.but(train__parallelism=parallelism)
    killed = trainings.run(distributed, tmp_path, processes=before, dies_at=10)
    assert killed.codes[-1] == KILLED, killed.stderr
    resumed = trainings.run(distributed, tmp_path, processes=after)
    _assert_only_the_first_prints(resumed)
    assert "resumed at step 8 from" in resumed.stdout[0]
    _assert_same_training(tmp_path, single_process)


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_the_best_epoch_is_kept_across_a_resume_on_more_processes(
    parallelism: str, settings: Settings, trainings: Trainings, tmp_path: Path
) -> None:
    # At this high rate the best epoch is not the last.
    selecting = settings.but(train__lr=0.3, train__epochs=6, train__keep="best", train__patience=2)
    distributed = selecting.but(train__parallelism=parallelism)
    killed = trainings.run(distributed, tmp_path, processes=2, dies_at=18)
    assert killed.codes[-1] == KILLED, killed.stderr
    _assert_only_the_first_prints(trainings.run(distributed, tmp_path, processes=4))
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


def test_damaged_snapshot_of_two_processes_is_skipped(
    settings: Settings, single_process: Path, trainings: Trainings, tmp_path: Path
) -> None:
    distributed = settings.but(train__parallelism="fsdp")
    killed = trainings.run(distributed, tmp_path, processes=2, dies_at=10)
    assert killed.codes[-1] == KILLED, killed.stderr
    (run_folder(tmp_path) / "snapshots" / "step-00000008" / "__1_0.distcp").unlink()
    resumed = trainings.run(distributed, tmp_path, processes=2)
    _assert_only_the_first_prints(resumed)
    assert "step-00000008: damaged (__1_0.distcp" in resumed.stdout[0]
    assert "resumed at step 4 from" in resumed.stdout[0]
    _assert_same_training(tmp_path, single_process)


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_killed_worker_resumes_automatically_under_torchrun(
    parallelism: str, settings: Settings, single_process: Path, tmp_path: Path
) -> None:
    distributed = settings.but(train__parallelism=parallelism)
    worker = [str(DRIVER), *distributed.arguments(), "--run-id", "run", "--resume"]
    ended = command([*torchrun(2, "--max-restarts", "2"), *worker], tmp_path, DIES_AT_STEP="10")
    assert ended.returncode == 0, ended.stderr
    assert "resumed at step 8 from" in ended.stdout
    assert ended.stdout.count("checkpoint: outputs/run/checkpoint.pt") == 1
    _assert_same_training(tmp_path, single_process)


def test_torchrun_with_restarts_needs_a_run_id(
    settings: Settings, trainings: Trainings, tmp_path: Path
) -> None:
    variables = {"TORCHELASTIC_MAX_RESTARTS": "2"}
    refused = trainings.run(settings, tmp_path, "--outputs", "outputs", environment=variables)
    assert refused.codes == [2]
    (line,) = refused.stderr
    assert line.startswith("torchrun --max-restarts needs --run-id and --resume: ")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("mistake", ["data", "name"])
def test_bad_input_is_reported_only_once(mistake: str, settings: Settings, tmp_path: Path) -> None:
    arguments = [*settings.arguments(), "--run-id", "run"]
    if mistake == "data":
        arguments += ["--set", "data.source=absent.parquet"]
        message = "data.source: absent.parquet: cannot be read"
    else:
        (tmp_path / "outputs" / "run").mkdir(parents=True)
        message = "outputs/run: this run exists already"
    ended = command([*torchrun(2), "-m", "my_project.train", *arguments], tmp_path)
    assert ended.returncode == 1  # torchrun's own exit code, regardless of its workers'
    lines = ended.stderr.splitlines()
    assert sum(message in line for line in lines) == 1
    # The only traceback is torchrun's, which lists the exit codes of its workers.
    assert ended.stderr.count("Traceback (most recent call last)") == 1
    # torchrun may terminate the second worker before it exits.
    codes = re.findall(r"exitcode *: (-?\d+)", ended.stderr)
    assert "2" in codes
    assert set(codes) <= {"2", "-15"}


def test_no_process_group_thread_outlives_training(settings: Settings, tmp_path: Path) -> None:
    # A remaining thread may abort the process while Python shuts down.
    script = tmp_path / "train then inspect.py"
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


def test_torchrun_trains_like_one_process(
    settings: Settings, single_process: Path, tmp_path: Path
) -> None:
    train = ["-m", "my_project.train", *settings.arguments(), "--run-id", "run"]
    ended = command([*torchrun(2), *train], tmp_path)
    assert ended.returncode == 0, ended.stderr
    prefixes = [line.partition(":")[0] for line in ended.stdout.splitlines()]
    assert prefixes == ["outputs/run", "epoch 1/2", "epoch 2/2", "checkpoint"]
    _assert_same_training(tmp_path, single_process)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_run_is_resumed_and_its_checkpoint_is_evaluated(
    settings: Settings, single_process: Path, tmp_path: Path
) -> None:
    compiled = settings.but(train__compile=True)
    worker = [str(DRIVER), *compiled.arguments(), "--run-id", "run", "--resume"]
    ended = command([*torchrun(2, "--max-restarts", "1"), *worker], tmp_path, DIES_AT_STEP="10")
    assert ended.returncode == 0, ended.stderr
    _assert_same_training(tmp_path, single_process)
    evaluation = ["-m", "my_project.eval", "--checkpoint", "outputs/latest.pt"]
    evaluation += ["--config", "outputs/run/config.yaml"]
    # A policy without a release's floors, which such a short training does not reach.
    evaluation += ["--policy", str(judged.write_policy(tmp_path / "policy.yaml"))]
    evaluated = command([*evaluation, "--no-baseline", "the first"], tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
