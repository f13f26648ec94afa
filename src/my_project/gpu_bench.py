"""Measure training against what the machine can do: python -m my_project.gpu_bench.

First the machine's own ceilings, how fast it multiplies matrices in bfloat16 and copies memory;
then whole training steps, taken by the loop that trains (forward, backward, clipping, optimiser,
and the wait for the loss that each step ends with), on made-up images in the size of the model.

A share of the ceiling is model FLOPs per second over the fastest matrix product that was measured
in the same minutes, not over a data sheet's peak. Model FLOPs follow Chowdhery et al. (2022),
"PaLM", appendix B: matrix products only, the backward pass twice the forward, nothing recomputed.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gates.display import show
from gates.errors import CommandParser, ExitCode, GateInputError, run_command
from my_project.config import ModelConfig, RunConfig, load

if TYPE_CHECKING:
    import torch  # takes seconds: imported where it is used, after the options are read

    from my_project.data import Examples

SCHEMA = "gpu-bench/1"
CONFIGS = (Path("configs/base.yaml"), Path("configs/gpu-bench.yaml"))

_MATMUL_SIZES = (4096, 8192, 16384)
_COPY_MIB = 1024
_REPEATS = 30  # of a matrix product or a copy, after as many to warm up
_UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How long something took, in milliseconds, over `count` repetitions."""

    count: int
    median: float
    p10: float
    p90: float
    min: float
    max: float


@dataclass(frozen=True, kw_only=True)
class Product:
    """How fast square matrices of one size were multiplied."""

    size: int
    ms: Spread
    tflops: float


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """The most that this machine did when it did nothing else.

    Args:
        matmul_tflops: 10^12 operations per second, of the fastest of `matmuls`.
        matmuls: bfloat16 products of square matrices.
        copy_gb_per_s: 10^9 bytes per second, read and written, of a copy within its memory.
        copy_mib: the size of what was copied.
    """

    matmul_tflops: float
    matmuls: tuple[Product, ...]
    copy_gb_per_s: float
    copy_mib: int


@dataclass(frozen=True, kw_only=True)
class Case:
    """How fast one configuration trains.

    Args:
        name: the configuration file's, without its ending.
        model: its section `model`.
        parameters: how many numbers the model learns.
        precision: of the forward and backward pass.
        compile: whether torch.compile compiled the model.
        batch_size: images in a step.
        warmup_steps: taken before those that count; the first one compiles.
        step_ms: time from the end of one step to the end of the next.
        images_per_s: at the median step.
        model_tflop_per_step: 10^12 operations that a step's matrix products need.
        model_tflops: the same per second, at the median step.
        share_of_matmul_ceiling: `model_tflops` over the measured bfloat16 ceiling.
        peak_memory_gib: the most memory that tensors took; None on a CPU.
    """

    name: str
    model: dict[str, Any]
    parameters: int
    precision: str
    compile: bool
    batch_size: int
    warmup_steps: int
    step_ms: Spread
    images_per_s: float
    model_tflop_per_step: float
    model_tflops: float
    share_of_matmul_ceiling: float
    peak_memory_gib: float | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _bench(options))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m my_project.gpu_bench",
        description="Measure the machine's ceilings and how near to them training comes.",
        epilog="Exit codes: 0 measured, 1 training failed (a loss that is not finite), "
        "2 bad input or no GPU, told in one line.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--device",
        choices=["cuda", "cpu"],
        default="cuda",
        help="cpu tries the command out; choose small sizes (default: %(default)s)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        action="append",
        metavar="FILE",
        dest="configs",
        help=f"what to train; may be repeated (default: {' and '.join(map(str, CONFIGS))})",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change one key of every configuration, as in train.batch_size=64; may be repeated",
    )
    counts: dict[str, tuple[int, str]] = {
        "--steps": (50, "steps that are measured"),
        "--warmup": (10, "steps before them"),
        "--copy-mib": (_COPY_MIB, "size of the copy"),
    }
    for option, (default, meaning) in counts.items():
        help_text = f"{meaning} (default: %(default)s)"
        parser.add_argument(option, type=_count, default=default, metavar="N", help=help_text)
    parser.add_argument(
        "--matmul-size",
        type=_count,
        action="append",
        metavar="N",
        dest="matmul_sizes",
        help=f"rows of a square matrix; may be repeated (default: {_words(_MATMUL_SIZES)})",
    )
    parser.add_argument(
        "--report",
        type=Path,
        default=Path("artifacts/gpu-bench.json"),
        metavar="FILE",
        help="where the figures go, as JSON (default: %(default)s)",
    )
    return parser


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        msg = f"expected a whole number from 1, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return number


def _words(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _bench(options: argparse.Namespace) -> ExitCode:
    files: Sequence[Path] = options.configs or CONFIGS
    _check_names(files)
    configs = {file: load(file, options.overrides) for file in files}
    started = datetime.now(UTC)
    device = _device(options.device)
    sizes = tuple(options.matmul_sizes or _MATMUL_SIZES)
    ceilings = measure_ceilings(device, sizes, options.copy_mib)
    hardware = hardware_of(device)  # while its clocks are those of the work above
    _say(_ceilings_line(ceilings))
    # The deterministic ones last: what they set for cuBLAS stays set for the process.
    ordered = sorted(configs.items(), key=lambda item: item[1].train.deterministic)
    cases = []
    for file, config in ordered:
        case = measure_case(config, device, file, (options.warmup, options.steps), ceilings)
        _say(_case_line(case))
        cases.append(case)
    report = {
        "schema": SCHEMA,
        "started": started.isoformat(timespec="seconds"),
        "source": _source(),
        "hardware": hardware,
        "ceilings": asdict(ceilings),
        "cases": [asdict(case) for case in sorted(cases, key=lambda case: case.name)],
    }
    _write(report, options.report)
    _say(f"report: {options.report}")
    return ExitCode.PASSED


def _check_names(files: Sequence[Path]) -> None:
    names = [file.stem for file in files]
    for name in names:
        if names.count(name) > 1:
            msg = f"--config: two files are named {name}, and a case has its file's name; "
            msg += "rename one"
            raise GateInputError(msg)


def _device(name: str) -> "torch.device":
    import torch  # noqa: PLC0415

    if name == "cuda" and not torch.cuda.is_available():
        msg = f"--device cuda: torch {torch.__version__} sees no GPU here; run this on a machine "
        msg += "with one, or try it out with --device cpu"
        raise GateInputError(msg)
    return torch.device(name)


class Clock:
    """Marks moments in the device's own time: by CUDA events, or a CPU's clock."""

    def __init__(self, device: "torch.device") -> None:
        self._device = device
        self._marks: list[Any] = []

    def mark(self) -> None:
        """Mark the moment at which all work that was given to the device so far is done."""
        if self._device.type == "cuda":
            import torch  # noqa: PLC0415

            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def intervals_ms(self, *, after: int, count: int) -> Spread:
        """Return how long it was from each mark to the next: `count` of them, past `after`."""
        marks = self._marks[after : after + count + 1]
        pairs = list(itertools.pairwise(marks))
        if self._device.type == "cuda":
            marks[-1].synchronize()
            return spread_of([before.elapsed_time(later) for before, later in pairs])
        return spread_of([1e3 * (later - before) for before, later in pairs])


def spread_of(times_ms: Sequence[float]) -> Spread:
    """Return the median and the spread of at least one time."""
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


def measure_ceilings(
    device: "torch.device", matmul_sizes: Sequence[int], copy_mib: int
) -> Ceilings:
    """Return how fast `device` multiplies matrices and copies memory.

    Raises:
        GateInputError: they do not fit its memory.
    """
    import torch  # noqa: PLC0415

    try:
        matmuls = tuple(_measure_product(device, size) for size in matmul_sizes)
        source = torch.ones(copy_mib << 20, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        copy_ms = _repeat(lambda: target.copy_(source), device)
    except torch.OutOfMemoryError as error:
        msg = "--matmul-size, --copy-mib: too large for the memory of this GPU; take less"
        raise GateInputError(msg) from error
    # Read once and written once.
    copy_gb_per_s = 2 * source.nbytes / 1e9 / (copy_ms.median / 1e3)
    return Ceilings(
        matmul_tflops=max(product.tflops for product in matmuls),
        matmuls=matmuls,
        copy_gb_per_s=copy_gb_per_s,
        copy_mib=copy_mib,
    )


def _measure_product(device: "torch.device", size: int) -> Product:
    import torch  # noqa: PLC0415

    # Random numbers: a GPU multiplies zeros with less power and so at higher clocks.
    generator = torch.Generator(device).manual_seed(0)
    left, right = (
        torch.randn(size, size, generator=generator, dtype=torch.bfloat16, device=device)
        for _ in range(2)
    )
    out = torch.empty_like(left)
    ms = _repeat(lambda: torch.mm(left, right, out=out), device)
    return Product(size=size, ms=ms, tflops=_per_second(2 * size**3, ms) / 1e12)


def _repeat(work: Callable[[], object], device: "torch.device") -> Spread:
    clock = Clock(device)
    clock.mark()
    for _ in range(2 * _REPEATS):
        work()
        clock.mark()
    return clock.intervals_ms(after=_REPEATS, count=_REPEATS)


def _per_second(amount: float, ms: Spread) -> float:
    return amount / (ms.median / 1e3)


def measure_case(
    config: RunConfig,
    device: "torch.device",
    file: Path,
    steps: tuple[int, int],
    ceilings: Ceilings,
) -> Case:
    """Return how fast the configuration in `file` trains on `device`.

    Args:
        config: what `file` says; its data and its number of epochs do not matter.
        device: where.
        file: names the case, and the place of an error.
        steps: how many to take to warm up, and how many to measure.
        ceilings: what the figures are compared with.

    Raises:
        GateError: it does not fit, or the loss is not finite.
    """
    import torch  # noqa: PLC0415

    from my_project import determinism, training  # noqa: PLC0415
    from my_project.processes import Processes  # noqa: PLC0415

    warmup, measured = steps
    config, examples = _as_measured(config, device, file, warmup + measured)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    determinism.configure(config)
    alone = Processes(rank=0, count=1, device=device)
    clock = Clock(device)
    try:
        model = alone.distribute(training.new_model(config), config.train)
        trainer = training.new_trainer(model, config.train)
        training.fit(trainer, examples, config, processes=alone, on_step=lambda _: clock.mark())
    except torch.OutOfMemoryError as error:
        msg = f"{file}: does not fit the memory of this GPU; take less: --set train.batch_size="
        msg += str(max(1, config.train.batch_size // 2))
        raise GateInputError(msg) from error
    # The last warm-up step ends where the first measured one begins.
    ms = clock.intervals_ms(after=warmup - 1, count=measured)
    tflop = model_flops(config.model, config.train.batch_size) / 1e12
    tflops = _per_second(tflop, ms)
    return Case(
        name=file.stem,
        model=config.model.model_dump(),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        precision=config.train.precision,
        compile=config.train.compile,
        batch_size=config.train.batch_size,
        warmup_steps=warmup,
        step_ms=ms,
        images_per_s=_per_second(config.train.batch_size, ms),
        model_tflop_per_step=tflop,
        model_tflops=tflops,
        share_of_matmul_ceiling=tflops / ceilings.matmul_tflops,
        peak_memory_gib=torch.cuda.max_memory_allocated() / 2**30
        if device.type == "cuda"
        else None,
    )


def _as_measured(
    config: RunConfig, device: "torch.device", file: Path, steps: int
) -> "tuple[RunConfig, Examples]":
    """Return `config` for `steps` steps on made-up images, and these, in whole batches."""
    from my_project import data, training  # noqa: PLC0415

    examples = data.synthetic(config.model)
    batch_size = config.train.batch_size
    whole = len(examples) // batch_size * batch_size
    if not whole:
        msg = f"{file}: train.batch_size: must be at most {len(examples)} here, got {batch_size}"
        raise GateInputError(msg)
    examples = replace(
        examples,
        ids=examples.ids[:whole],
        images=examples.images[:whole],
        labels=examples.labels[:whole],
        thicknesses=examples.thicknesses[:whole],
    )
    # As many whole epochs as it takes; what comes after the last step that counts is a rest.
    epochs = training.batches_in(steps, whole // batch_size)
    in_memory = config.data.model_copy(update={"source": "synthetic", "workers": 0})
    here = config.train.model_copy(update={"device": device.type, "epochs": epochs})
    return config.model_copy(update={"data": in_memory, "train": here}), examples


def model_flops(model: ModelConfig, batch_size: int) -> int:
    """Return the operations of a step's matrix products: a multiplication and an addition each."""
    tokens = (model.image_size // model.patch_size) ** 2
    patches = tokens * model.channels * model.patch_size**2 * model.width
    # Queries, keys and values 3, output 1, perceptron 4 + 4 products of a token with width x width.
    block = 12 * tokens * model.width**2 + 2 * tokens**2 * model.width
    head = model.width * model.classes
    # Backward: the gradients of both factors; the images need none.
    multiplications = 2 * patches + 3 * (model.depth * block + head)
    return 2 * multiplications * batch_size


def hardware_of(device: "torch.device") -> dict[str, str]:
    """Return what was measured on: the machine, and the GPU with its driver and clocks."""
    import torch  # noqa: PLC0415

    from gates.evidence import provenance  # noqa: PLC0415

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
    """Return what the driver says of itself and of the clocks of `gpu`, a UUID."""
    asked = {
        "driver": "driver_version",
        "sm_clock_mhz": "clocks.sm",
        "largest_sm_clock_mhz": "clocks.max.sm",
        "power_limit_w": "power.limit",
    }
    query = f"--query-gpu={','.join(asked.values())}"
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits", f"--id={gpu}"]
    try:
        answer = subprocess.run(  # noqa: S603 - arguments of our own
            command, capture_output=True, text=True, check=True, timeout=60
        ).stdout
        return dict(zip(asked, map(str.strip, answer.split(",")), strict=True))
    except (OSError, ValueError, subprocess.SubprocessError):
        return dict.fromkeys(asked, _UNKNOWN)  # a container may lack the program


def _source() -> dict[str, Any]:
    from gates.evidence import provenance  # noqa: PLC0415

    source = provenance.source_state(Path(__file__).parent)
    return {"commit": source.commit, "is_clean": source.is_clean}


def _write(report: dict[str, Any], file: Path) -> None:
    from gates.files import write_text  # noqa: PLC0415

    write_text(file, json.dumps(report, indent=2, allow_nan=False) + "\n")


def _ceilings_line(ceilings: Ceilings) -> str:
    return (
        f"ceilings: {ceilings.matmul_tflops:.4g} TFLOP/s in bfloat16, "
        f"{ceilings.copy_gb_per_s:.4g} GB/s copied"
    )


def _case_line(case: Case) -> str:
    return (
        f"{case.name}: {case.step_ms.median:.2f} ms a step "
        f"({case.step_ms.p10:.2f} to {case.step_ms.p90:.2f}), {case.images_per_s:,.0f} images/s, "
        f"{case.model_tflops:.4g} TFLOP/s, {case.share_of_matmul_ceiling:.1%} of the ceiling"
    )


def _say(line: str) -> None:
    show(line)


if __name__ == "__main__":
    sys.exit(main())
