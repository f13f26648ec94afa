"""The processes that train together: one, or as many as `torchrun` has started."""

import contextlib
import gc
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from gates.errors import ConfigError, ExitCode
from training.config import TrainConfig
from training.group import Group

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Processes(Group):
    """The processes of a run, as one of them sees them.

    Args:
        rank: which one this is, from 0.
        count: how many there are.
        device: where this one computes.
    """

    device: torch.device

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of `value` over all processes."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def first_does(self, work: Callable[[], Result]) -> Result:
        """Return what `work` comes to in the first process, which alone does it, everywhere.

        If it fails, the first process raises the error; the others end without a word and with
        the same exit code.
        """
        if self.count == 1:
            return work()
        outcome: list[Any] = [None, None]
        failure: Exception | None = None
        if self.is_first:
            try:
                outcome[0] = work()
            except Exception as error:  # noqa: BLE001 - raised below, when the others know
                failure = error
                outcome[1] = getattr(error, "exit_code", ExitCode.COULD_NOT_JUDGE).value
        dist.broadcast_object_list(outcome, src=0)
        result, exit_code = outcome
        if failure is not None:
            raise failure
        if exit_code is not None:
            raise SystemExit(exit_code)
        return cast("Result", result)

    def distribute(self, model: nn.Module, config: TrainConfig) -> nn.Module:
        """Return `model`, compiled and shared among the processes as `config` says.

        Gradients are averaged over the processes in both kinds of sharing. FSDP2 shards each of
        the model's `blocks`, if it has an attribute of that name, and then what is left.
        """
        if self.count > 1 and config.parallelism == "fsdp":
            # Half a second to import, which one process need not wait for.
            from torch.distributed.fsdp import fully_shard  # noqa: PLC0415

            mesh = init_device_mesh(self.device.type, (self.count,))
            for block in cast("Iterable[nn.Module]", getattr(model, "blocks", ())):
                fully_shard(block, mesh=mesh)
            fully_shard(model, mesh=mesh)
        if config.compile:
            model.compile()
        if self.count > 1 and config.parallelism == "ddp":
            return DistributedDataParallel(model)
        return model

    @contextlib.contextmanager
    def reducing(self, model: nn.Module, *, now: bool) -> Iterator[None]:
        """Average gradients in the backward pass of this block only if `now`."""
        if self.count == 1:
            yield
            return
        from torch.distributed.fsdp import FSDPModule  # noqa: PLC0415 - see distribute

        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(now)
            yield
        elif isinstance(model, DistributedDataParallel) and not now:
            with model.no_sync():
                yield
        else:
            yield


def device_of(config: TrainConfig) -> torch.device:
    """Return the device that the configuration asks for, this process's own if it is a GPU.

    Raises:
        ConfigError: it asks for CUDA where there is none.
    """
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        msg = "train.device: must be auto or cpu here, as torch sees no GPU; got cuda"
        raise ConfigError(msg)
    if config.device == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", number_in("LOCAL_RANK", 0))


@contextlib.contextmanager
def joined(config: TrainConfig) -> Iterator[Processes]:
    """Join the other processes that `torchrun` has started, if there are any, for this block."""
    device = device_of(config)
    count = number_in("WORLD_SIZE", 1)
    rank = number_in("RANK", 0)
    if count == 1:
        yield Processes(rank=0, count=1, device=device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=_store(), rank=rank, world_size=count)
    try:
        yield Processes(rank=rank, count=count, device=device)
        dist.barrier()  # a process that leaves early would break off what others still send
    finally:
        # Models refer to the group in circles. While one is left, gloo's threads go on, and one
        # that still lets go of a tensor when Python ends aborts the process.
        gc.collect()
        dist.destroy_process_group()


def _store() -> PrefixStore:
    """Return where the processes find each other.

    torchrun keeps one store over its restarts, and in it the addresses of those that died
    (https://github.com/pytorch/pytorch/issues/167288): so each restart gets a part of its own.
    Hosts count their restarts apart, so several of them need TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1.
    """
    store, _, _ = next(rendezvous("env://"))
    is_one_host = os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if is_one_host else "0"
    return PrefixStore(f"restart-{restarts}", store)


def number_in(variable: str, default: int) -> int:
    """Return the number in an environment variable, such as torchrun sets.

    Raises:
        ConfigError: it is something else.
    """
    value = os.environ.get(variable, str(default))
    if not (value.isascii() and value.isdigit()):
        msg = f"{variable} is {value!r}; expected a whole number, as torchrun sets it, or no such "
        msg += "variable"
        raise ConfigError(msg)
    return int(value)
