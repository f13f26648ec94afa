"""Measures a machine's upper limits for training: matrix multiplication and memory copies."""

import itertools
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gates.errors import GateInputError
from gates.evidence import provenance

_REPEATS = 30  # measured repetitions, after as many for warm-up
_UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The distribution of a time, in milliseconds, over `count` repetitions."""

    count: int
    median: float
    p10: float
    p90: float
    min: float
    max: float


@dataclass(frozen=True, kw_only=True)
class Product:
    """The measured speed of multiplying two square matrices with `size` rows."""

    size: int
    ms: Spread
    tflops: float


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """The highest speeds measured on this machine.

    Args:
        matmul_tflops: 10^12 operations per second in the fastest of `matmuls`.
        matmuls: bfloat16 products of square matrices.
        copy_gb_per_s: 10^9 bytes per second, read and written, in a copy within device memory.
        copy_mib: the size of the copy.
    """

    matmul_tflops: float
    matmuls: tuple[Product, ...]
    copy_gb_per_s: float
    copy_mib: int


class Clock:
    """Measures times on the device, with CUDA events or a CPU clock."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[Any] = []

    def mark(self) -> None:
        """Mark the time at which the device has finished all work submitted so far."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def intervals_ms(self, *, after: int, count: int) -> Spread:
        """Return the spread of `count` intervals between marks, starting at mark `after`."""
        marks = self._marks[after : after + count + 1]
        pairs = list(itertools.pairwise(marks))
        if self._device.type == "cuda":
            marks[-1].synchronize()
            return spread_of([before.elapsed_time(later) for before, later in pairs])
        return spread_of([1e3 * (later - before) for before, later in pairs])


def spread_of(times_ms: Sequence[float]) -> Spread:
    """Return the distribution of at least one time."""
    ordered = sorted(times_ms)
    last = len(ordered) - 1
    return Spread(
        count=len(ordered),
        median=statistics.median(ordered),
        p10=ordered[round(0.1 * last)],
        p90=ordered[round(0.9 * last)],
        min=ordered[0],
        max=ordered[-1],
    )


def measure_ceilings(device: torch.device, matmul_sizes: Sequence[int], copy_mib: int) -> Ceilings:
    """Measure how fast `device` multiplies matrices and copies memory.

    Raises:
        GateInputError: the matrices or the copy do not fit in its memory.
    """
    try:
        matmuls = tuple(_measure_product(device, size) for size in matmul_sizes)
        source = torch.ones(copy_mib << 20, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        copy_ms = _repeat(lambda: target.copy_(source), device)
    except torch.OutOfMemoryError as error:
        msg = "--matmul-size, --copy-mib: too large for this GPU's memory; choose smaller sizes"
        raise GateInputError(msg) from error
    # Each byte is read once and written once.
    copy_gb_per_s = 2 * source.nbytes / 1e9 / (copy_ms.median / 1e3)
    return Ceilings(
        matmul_tflops=max(product.tflops for product in matmuls),
        matmuls=matmuls,
        copy_gb_per_s=copy_gb_per_s,
        copy_mib=copy_mib,
    )


def _measure_product(device: torch.device, size: int) -> Product:
    # Random numbers, because a GPU multiplying zeros uses less power and so runs at higher clocks.
    generator = torch.Generator(device).manual_seed(0)
    left, right = (
        torch.randn(size, size, generator=generator, dtype=torch.bfloat16, device=device)
        for _ in range(2)
    )
    out = torch.empty_like(left)
    ms = _repeat(lambda: torch.mm(left, right, out=out), device)
    return Product(size=size, ms=ms, tflops=per_second(2 * size**3, ms) / 1e12)


def _repeat(work: Callable[[], object], device: torch.device) -> Spread:
    clock = Clock(device)
    clock.mark()
    for _ in range(2 * _REPEATS):
        work()
        clock.mark()
    return clock.intervals_ms(after=_REPEATS, count=_REPEATS)


def per_second(amount: float, ms: Spread) -> float:
    """Return `amount` per second, given the median time that it takes."""
    return amount / (ms.median / 1e3)


def hardware_of(device: torch.device) -> dict[str, str]:
    """Return a description of the machine, and of the GPU with its driver and clocks."""
    versions = {**provenance.machine(), "torch": torch.__version__}
    if device.type == "cpu":
        return {**versions, "device": "cpu", "threads": str(torch.get_num_threads())}
    properties = torch.cuda.get_device_properties(device)
    return {
        **versions,
        "device": properties.name,
        "memory_gib": f"{properties.total_memory / 2**30:.1f}",
        "multiprocessors": str(properties.multi_processor_count),
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        **driver_facts(f"GPU-{properties.uuid}"),
    }


def driver_facts(gpu: str) -> dict[str, str]:
    """Return the driver's version and the clocks and power limit of `gpu`, a UUID."""
    fields = {
        "driver": "driver_version",
        "sm_clock_mhz": "clocks.sm",
        "largest_sm_clock_mhz": "clocks.max.sm",
        "power_limit_w": "power.limit",
    }
    query = f"--query-gpu={','.join(fields.values())}"
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits", f"--id={gpu}"]
    try:
        answer = subprocess.run(  # noqa: S603 - no outside input
            command, capture_output=True, text=True, check=True, timeout=60
        ).stdout
        return dict(zip(fields, map(str.strip, answer.split(",")), strict=True))
    except (OSError, ValueError, subprocess.SubprocessError):
        return dict.fromkeys(fields, _UNKNOWN)  # a container may lack nvidia-smi
