"""The checks of tests/gpu, run on the CPU: they pass, and they fail when they should."""

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
    return agreement.trained_weights()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_step_agrees_with_the_reference(weights: Mapping[str, Tensor], precision: str) -> None:
    config = agreement.config("cpu", precision=precision)
    agreement.assert_step_agrees_with_the_reference(weights, config)


def test_float32_step_is_not_mistaken_for_bfloat16(
    weights: Mapping[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: torch.enable_grad())
    config = agreement.config("cpu", precision="bfloat16")
    with pytest.raises(AssertionError, match="this was computed in float32"):
        agreement.assert_step_agrees_with_the_reference(weights, config)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_step_of_a_wrong_model_is_detected(
    weights: Mapping[str, Tensor], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defect could come from a compiler: one block's MLP is 10 % too weak."""

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


def test_run_resumes_from_a_snapshot(tmp_path: Path) -> None:
    agreement.assert_resumes_on_another_device(tmp_path, "cpu", "cpu")


def test_run_resumed_without_moments_is_detected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore = snapshots.restore

    def restore_and_forget(snapshot: Path, trainer: Trainer, processes: Processes) -> None:
        restore(snapshot, trainer, processes)
        for state in trainer.optimizer.state.values():
            state["exp_avg"].zero_()

    monkeypatch.setattr(snapshots, "restore", restore_and_forget)
    with pytest.raises(AssertionError):
        agreement.assert_resumes_on_another_device(tmp_path, "cpu", "cpu")


def test_different_curve_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # After the snapshot, the rate is 5 % higher.
    rate = loop.learning_rate

    def increased_rate(step: int, steps: int, config: object) -> float:
        del config
        return (1.05 if len(resumed) else 1) * rate(step, steps, agreement.config("cpu").train)

    resumed: list[Path] = []
    restore = snapshots.restore

    def restore_and_record(snapshot: Path, trainer: Trainer, processes: Processes) -> None:
        restore(snapshot, trainer, processes)
        resumed.append(snapshot)

    monkeypatch.setattr(loop, "learning_rate", increased_rate)
    monkeypatch.setattr(snapshots, "restore", restore_and_record)
    with pytest.raises(AssertionError, match=r"^\[\(2\."):
        agreement.assert_resumes_on_another_device(tmp_path, "cpu", "cpu")
