"""The processes that train together: one, or all that `torchrun` has started."""

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
    """The processes of a run, as seen from one of them.

    Args:
        rank: index of this process, from 0.
        count: number of processes.
        device: the device of this process.
    """

    device: torch.device

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of `value` over all processes; may change `value` in place."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def on_first_process(self, work: Callable[[], Result]) -> Result:
        """Call `work` in the first process only; return its result in every process.

        If it fails, the first process raises the error; the others exit silently with the same
        exit code.
        """
        if self.count == 1:
            return work()
        outcome: list[Any] = [None, None]
        failure: Exception | None = None
        if self.is_first:
            try:
                outcome[0] = work()
            except Exception as error:  # noqa: BLE001 - raised below, after telling the others
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
        """Return `model`, compiled and distributed over the processes as `config` says.

        Both kinds of parallelism average gradients over the processes. FSDP2 shards each of the
        model's `blocks`, if it has that attribute, and then the remaining parameters.
        """
        if self.count > 1 and config.parallelism == "fsdp":
            # Takes half a second to import, and a single process does not need it.
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
        """Average gradients over the processes in this block's backward pass only if `now`."""
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
    """Return the device that the configuration asks for; each process has its own GPU.

    Raises:
        ConfigError: the configuration asks for CUDA, but there is no GPU.
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
    """Join the process group of `torchrun`, if it started several, while this block runs."""
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
        dist.barrier()  # a process that leaves early would break the others' communication
    finally:
        # Models refer to the group in reference cycles. As long as one is alive, gloo's threads
        # keep running, and a thread that frees a tensor while Python exits aborts the process.
        gc.collect()
        dist.destroy_process_group()


def _store() -> PrefixStore:
    """Return the store through which the processes find each other.

    torchrun keeps one store across restarts, with the addresses of dead processes in it
    (https://github.com/pytorch/pytorch/issues/167288), so each restart gets a separate prefix.
    Each host counts its own restarts, so several hosts need TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1.
    """
    store, _, _ = next(rendezvous("env://"))
    is_one_host = os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if is_one_host else "0"
    return PrefixStore(f"restart-{restarts}", store)


def number_in(variable: str, default: int) -> int:
    """Return the number in an environment variable, such as torchrun sets.

    Raises:
        ConfigError: the value is not a whole number.
    """
    value = os.environ.get(variable, str(default))
    if not (value.isascii() and value.isdigit()):
        msg = f"{variable} is {value!r}; expected a whole number, as torchrun sets it; correct or "
        msg += "unset it"
        raise ConfigError(msg)
    return int(value)
