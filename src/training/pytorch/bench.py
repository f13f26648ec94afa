"""Compare training speed with the machine's measured limits.

The benchmark first measures two ceilings: bfloat16 matrix multiplication and memory copies. It
then measures complete training steps in the real training loop (forward, backward, clipping,
optimiser, and reading back the loss) on synthetic examples of the size the model takes.

`share_of_matmul_ceiling` is model FLOP/s divided by the speed of the fastest matrix product in the
same run, not by a data sheet's peak. Model FLOPs follow Chowdhery et al. (2022), "PaLM", appendix
B: matrix products only, a backward pass counts twice a forward pass, and no recomputation.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt

from gates.display import show
from gates.errors import CommandParser, ExitCode, GateInputError, run_command
from gates.evidence import provenance
from gates.files import write_text
from training import config as configs
from training.config import TorchConfig
from training.project import Project, Settings

if TYPE_CHECKING:
    import torch  # takes seconds to import, so functions import it after options are parsed

    from training.pytorch.ceilings import Ceilings, Spread
    from training.pytorch.learner import Batch, TensorExamples
    from training.pytorch.method import TorchMethod

Torch = TypeVar("Torch", bound=TorchConfig)

SCHEMA = "gpu-bench/2"

_MATMUL_SIZES = (4096, 8192, 16384)
_COPY_MIB = 1024


@dataclass(frozen=True, kw_only=True)
class Subject(Generic[Torch]):
    """What is measured.

    Args:
        settings: of a project whose data source `synthetic` generates examples of the size the
            model takes.
        configs: the configurations to measure by default.
        flops: returns the operations of a step's matrix products, counting a multiply-add as two.
    """

    settings: Settings[Torch]
    configs: Sequence[Path]
    flops: Callable[[Torch], int]


@dataclass(frozen=True, kw_only=True)
class Case:
    """The training speed of one configuration.

    Args:
        name: the name of the configuration file, without its suffix.
        model: its section `model`.
        parameters: number of trainable parameters.
        precision: the precision of the forward and backward pass.
        compile: whether torch.compile compiled the model.
        batch_size: examples in a step.
        warmup_steps: steps before the measured ones; the first one compiles.
        step_ms: time from the end of one step to the end of the next.
        examples_per_s: throughput at the median step time.
        model_tflop_per_step: 10^12 operations in a step's matrix products.
        model_tflops: 10^12 operations per second, at the median step time.
        share_of_matmul_ceiling: `model_tflops` divided by the measured bfloat16 ceiling.
        peak_memory_gib: peak memory allocated for tensors; None on a CPU.
    """

    name: str
    model: dict[str, Any]
    parameters: int
    precision: str
    compile: bool
    batch_size: int
    warmup_steps: int
    step_ms: "Spread"
    examples_per_s: float
    model_tflop_per_step: float
    model_tflops: float
    share_of_matmul_ceiling: float
    peak_memory_gib: float | None


def main(subject: Subject[Torch], arguments: Sequence[str] | None = None) -> int:
    """Run `python -m NAME.gpu_bench`; return its exit code."""
    options = _parser(subject).parse_args(arguments)
    return run_command(lambda: _bench(subject, options))


def _parser(subject: Subject[Torch]) -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"python -m {subject.settings.package}.gpu_bench",
        description="Measure the machine's ceilings and how close training comes to them.",
        epilog="Exit codes: 0 measured, 1 training failed (the loss is not finite), "
        "2 bad input or no GPU, reported in one line.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--device",
        choices=["cuda", "cpu"],
        default="cuda",
        help="cpu is for trying out the command, with small sizes (default: %(default)s)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        action="append",
        metavar="FILE",
        dest="configs",
        help="the configuration to measure; may be repeated "
        f"(default: {' and '.join(map(str, subject.configs))})",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override one key of every configuration, as in train.batch_size=64; may be repeated",
    )
    counts: dict[str, tuple[int, str]] = {
        "--steps": (50, "steps to measure"),
        "--warmup": (10, "warm-up steps before the measured ones"),
        "--copy-mib": (_COPY_MIB, "size of the memory copy, in MiB"),
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
        help="number of rows of the square matrices; may be repeated "
        f"(default: {_words(_MATMUL_SIZES)})",
    )
    parser.add_argument(
        "--report",
        type=Path,
        default=Path("artifacts/gpu-bench.json"),
        metavar="FILE",
        help="where to write the results, as JSON (default: %(default)s)",
    )
    return parser


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        msg = f"expected a whole number of at least 1, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return number


def _words(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _bench(subject: Subject[Torch], options: argparse.Namespace) -> ExitCode:
    from training.pytorch.ceilings import hardware_of, measure_ceilings  # noqa: PLC0415

    files: Sequence[Path] = options.configs or subject.configs
    _check_names(files)
    kind = subject.settings.config
    loaded = {file: configs.load(kind, file, options.overrides) for file in files}
    started = datetime.now(UTC)
    device = _device(options.device)
    sizes = tuple(options.matmul_sizes or _MATMUL_SIZES)
    ceilings = measure_ceilings(device, sizes, options.copy_mib)
    hardware = hardware_of(device)  # immediately, while the GPU still runs at the measured clocks
    _say(_ceilings_line(ceilings))
    # Deterministic configurations last: their cuBLAS setting stays in effect for the process.
    ordered = sorted(loaded.items(), key=lambda item: item[1].train.deterministic)
    cases = []
    for file, config in ordered:
        steps = (options.warmup, options.steps)
        case = measure_case(subject, config, file, device=device, steps=steps, ceilings=ceilings)
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
            msg = f"--config: two files are named {name}, but a case is named after its file; "
            msg += "rename one"
            raise GateInputError(msg)


def _device(name: str) -> "torch.device":
    import torch  # noqa: PLC0415

    if name == "cuda" and not torch.cuda.is_available():
        msg = f"--device cuda: torch {torch.__version__} sees no GPU here; run this on a machine "
        msg += "with one, or try the command out with --device cpu"
        raise GateInputError(msg)
    return torch.device(name)


def measure_case(
    subject: Subject[Torch],
    config: Torch,
    file: Path,
    *,
    device: "torch.device",
    steps: tuple[int, int],
    ceilings: "Ceilings",
) -> Case:
    """Measure how fast the configuration in `file` trains on `device`.

    Args:
        subject: what is measured.
        config: the configuration in `file`; its data and number of epochs are ignored.
        file: names the case and appears in error messages.
        device: the device to train on.
        steps: the number of warm-up steps and of measured steps.
        ceilings: the measured ceilings of the machine.

    Raises:
        GateError: the batch does not fit in memory, or the loss is not finite.
    """
    import torch  # noqa: PLC0415

    from training.pytorch import determinism, loop  # noqa: PLC0415
    from training.pytorch.ceilings import Clock, per_second  # noqa: PLC0415
    from training.pytorch.processes import Processes  # noqa: PLC0415

    project = subject.settings.project
    learner = cast("TorchMethod[Torch]", project.method).learner
    warmup, measured = steps
    config, examples = _as_measured(project, config, device, file, warmup + measured)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    determinism.configure(config)
    alone = Processes(rank=0, count=1, device=device)
    clock = Clock(device)
    try:
        model = alone.distribute(loop.new_model(learner, config), config.train)
        trainer = loop.new_trainer(model, config.train)
        loop.fit(
            trainer,
            examples,
            config,
            learner,
            processes=alone,
            on_step=lambda _: clock.mark(),
        )
    except torch.OutOfMemoryError as error:
        msg = f"{file}: does not fit in this GPU's memory; try --set train.batch_size="
        msg += str(max(1, config.train.batch_size // 2))
        raise GateInputError(msg) from error
    # The first measured step begins at the end of the last warm-up step.
    ms = clock.intervals_ms(after=warmup - 1, count=measured)
    tflop = subject.flops(config) / 1e12
    tflops = per_second(tflop, ms)
    return Case(
        name=file.stem,
        model=config.model_dump().get("model", {}),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        precision=config.train.precision,
        compile=config.train.compile,
        batch_size=config.train.batch_size,
        warmup_steps=warmup,
        step_ms=ms,
        examples_per_s=per_second(config.train.batch_size, ms),
        model_tflop_per_step=tflop,
        model_tflops=tflops,
        share_of_matmul_ceiling=tflops / ceilings.matmul_tflops,
        peak_memory_gib=torch.cuda.max_memory_allocated() / 2**30
        if device.type == "cuda"
        else None,
    )


@dataclass(frozen=True)
class _WholeBatches:
    """The first `count` of `examples`, as `TensorExamples`."""

    examples: "TensorExamples"
    count: int

    @property
    def ids(self) -> npt.NDArray[np.str_]:
        return self.examples.ids[: self.count]

    @property
    def data_digest(self) -> str:
        return self.examples.data_digest

    @property
    def tensors(self) -> "Batch":
        return tuple(tensor[: self.count] for tensor in self.examples.tensors)

    def __len__(self) -> int:
        return self.count


def _as_measured(
    project: Project[Torch, Any], config: Torch, device: "torch.device", file: Path, steps: int
) -> tuple[Torch, _WholeBatches]:
    """Return `config` changed to take `steps` synthetic steps, and examples in whole batches."""
    from training.pytorch import loop  # noqa: PLC0415

    in_memory = config.data.model_copy(update={"source": "synthetic", "workers": 0})
    config = config.model_copy(update={"data": in_memory})
    examples = project.examples(config, "train", str(file))
    batch_size = config.train.batch_size
    whole = len(examples) // batch_size * batch_size
    if not whole:
        msg = f"{file}: train.batch_size: must be at most {len(examples)} here, got {batch_size}"
        raise GateInputError(msg)
    # Round up to whole epochs; steps after the last measured one are ignored.
    epochs = loop.batches_in(steps, whole // batch_size)
    here = config.train.model_copy(update={"device": device.type, "epochs": epochs})
    return config.model_copy(update={"train": here}), _WholeBatches(examples, whole)


def _source() -> dict[str, Any]:
    source = provenance.source_state(Path(__file__).parent)
    return {"commit": source.commit, "is_clean": source.is_clean}


def _write(report: dict[str, Any], file: Path) -> None:
    write_text(file, json.dumps(report, indent=2, allow_nan=False) + "\n")


def _ceilings_line(ceilings: "Ceilings") -> str:
    return (
        f"ceilings: {ceilings.matmul_tflops:.4g} TFLOP/s in bfloat16, "
        f"{ceilings.copy_gb_per_s:.4g} GB/s copied"
    )


def _case_line(case: Case) -> str:
    return (
        f"{case.name}: {case.step_ms.median:.2f} ms a step "
        f"({case.step_ms.p10:.2f} to {case.step_ms.p90:.2f}), "
        f"{case.examples_per_s:,.0f} examples/s, "
        f"{case.model_tflops:.4g} TFLOP/s, {case.share_of_matmul_ceiling:.1%} of the ceiling"
    )


def _say(line: str) -> None:
    show(line)
