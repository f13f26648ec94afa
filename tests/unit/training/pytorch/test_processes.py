import pytest
import torch
import torch.distributed as dist
from torch import nn

from gates.errors import ConfigError, ExitCode
from training.pytorch import loop, processes
from training.pytorch.processes import Processes

from toy.config import RunConfig
from toy.learner import LEARNER

ALONE = Processes(rank=0, count=1, device=torch.device("cpu"))


def with_train(config: RunConfig, **changes: object) -> RunConfig:
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def test_single_process_is_the_first() -> None:
    assert ALONE.is_first
    assert not Processes(rank=1, count=2, device=torch.device("cpu")).is_first


def test_sum_over_one_process_is_its_value() -> None:
    value = torch.tensor([1.0, 2.0])
    assert ALONE.sum(value) is value
    assert value.tolist() == [1, 2]


@pytest.mark.parametrize("value", ["a name", None])
def test_first_does_returns_the_result_without_a_process_group(value: str | None) -> None:
    assert ALONE.on_first_process(lambda: value) == value
    assert not dist.is_initialized()


@pytest.mark.parametrize("now", [True, False])
def test_gradients_of_one_process_are_not_reduced(*, now: bool) -> None:
    model = nn.Linear(2, 1, bias=False)
    with ALONE.reducing(model, now=now):
        model(torch.tensor([[3.0, 4.0]])).sum().backward()
    assert model.weight.grad is not None
    assert model.weight.grad.tolist() == [[3, 4]]


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_model_of_one_process_is_not_wrapped(config: RunConfig, parallelism: str) -> None:
    model = loop.new_model(LEARNER, config)
    train = with_train(config, parallelism=parallelism).train
    assert ALONE.distribute(model, train) is model


def test_model_is_compiled_if_configured(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[nn.Module] = []

    def record(module: nn.Module) -> None:
        compiled.append(module)

    monkeypatch.setattr(nn.Module, "compile", record)
    model = loop.new_model(LEARNER, config)
    ALONE.distribute(model, config.train)
    assert compiled == []
    assert ALONE.distribute(model, with_train(config, compile=True).train) is model
    assert compiled == [model]


def test_process_without_torchrun_is_alone(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(variable, raising=False)
    with processes.joined(config.train) as joined:
        assert joined == ALONE
        assert not dist.is_initialized()


def test_torchrun_with_one_process_runs_it_alone(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(variable, value)
    with processes.joined(config.train) as joined:
        assert joined == ALONE


def test_auto_uses_the_gpu_if_there_is_one(config: RunConfig) -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert processes.device_of(with_train(config, device="auto").train).type == expected


def test_cpu_is_used_if_configured(config: RunConfig) -> None:
    assert processes.device_of(config.train) == torch.device("cpu")


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_each_process_uses_its_own_gpu(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    train = with_train(config, device=device).train
    assert processes.device_of(train) == torch.device("cuda", 3)


def test_missing_gpu_is_bad_input(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError) as raised:
        processes.device_of(with_train(config, device="cuda").train)
    assert str(raised.value) == (
        "train.device: must be auto or cpu here, as torch sees no GPU; got cuda"
    )
    assert raised.value.exit_code == ExitCode.COULD_NOT_JUDGE
