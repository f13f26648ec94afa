"""The checks that tests/gpu makes on a GPU, on the CPU: that they hold, and that they can fail."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.unit.my_project import agreement
from training.pytorch import loop, snapshots
from training.pytorch.loop import Trainer
from training.pytorch.processes import Processes


@pytest.fixture(scope="module")
def weights() -> Mapping[str, Tensor]:
    return agreement.some_weights()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_step_is_that_of_the_reference(weights: Mapping[str, Tensor], precision: str) -> None:
    config = agreement.config("cpu", precision=precision)
    agreement.assert_step_agrees_with_the_reference(weights, config)


def test_step_in_float32_is_not_taken_for_one_in_bfloat16(
    weights: Mapping[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: torch.enable_grad())
    config = agreement.config("cpu", precision="bfloat16")
    with pytest.raises(AssertionError, match="this was computed in float32"):
        agreement.assert_step_agrees_with_the_reference(weights, config)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_step_of_a_model_that_computes_something_else_is_noticed(
    weights: Mapping[str, Tensor], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a compiler that leaves one block's perceptron 10 % too weak."""

    def spoil(_: Processes, model: nn.Module, config: object) -> nn.Module:
        if config == spoilt.train:
            layer = model.get_submodule("blocks.1.perceptron")
            layer.register_forward_hook(lambda _module, _inputs, out: 0.9 * out)
        return model

    spoilt = agreement.config("cpu", precision=precision, lr=2e-3)
    whole = {"epochs": 1, "batch_size": 256}
    spoilt = spoilt.model_copy(update={"train": spoilt.train.model_copy(update=whole)})
    monkeypatch.setattr(Processes, "distribute", spoil)
    with pytest.raises(AssertionError):
        agreement.assert_step_agrees_with_the_reference(weights, spoilt)


def test_run_goes_on_from_a_snapshot(tmp_path: Path) -> None:
    agreement.assert_resumes_elsewhere(tmp_path, "cpu", "cpu")


def test_run_that_goes_on_without_its_moments_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore = snapshots.restore

    def restore_and_forget(snapshot: Path, trainer: Trainer, processes: Processes) -> None:
        restore(snapshot, trainer, processes)
        for state in trainer.optimizer.state.values():
            state["exp_avg"].zero_()

    monkeypatch.setattr(snapshots, "restore", restore_and_forget)
    with pytest.raises(AssertionError):
        agreement.assert_resumes_elsewhere(tmp_path, "cpu", "cpu")


def test_curve_that_is_another_one_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # From the snapshot on, at a rate that is 5 % higher.
    rate = loop.learning_rate

    def higher(step: int, steps: int, config: object) -> float:
        del config
        return (1.05 if len(resumed) else 1) * rate(step, steps, agreement.config("cpu").train)

    resumed: list[Path] = []
    restore = snapshots.restore

    def note(snapshot: Path, trainer: Trainer, processes: Processes) -> None:
        restore(snapshot, trainer, processes)
        resumed.append(snapshot)

    monkeypatch.setattr(loop, "learning_rate", higher)
    monkeypatch.setattr(snapshots, "restore", note)
    with pytest.raises(AssertionError, match=r"^\[\(2\."):
        agreement.assert_resumes_elsewhere(tmp_path, "cpu", "cpu")
