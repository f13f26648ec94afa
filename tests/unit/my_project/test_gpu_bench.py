"""The operations of a training step, and the command that measures its speed."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the conventional name
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tasks.project import ROOT
from training import config as configs

from my_project.config import ModelConfig, RunConfig
from my_project.gpu_bench import main, model_flops
from my_project.model import VisionTransformer


@pytest.mark.parametrize("attention", [SDPBackend.MATH])
def test_model_flops_match_torchs_counter(attention: SDPBackend) -> None:
    """Attention must not be fused here: torch would also count the operations it recomputes."""
    config = ModelConfig(
        image_size=12, channels=3, classes=7, patch_size=4, width=24, depth=2, heads=3
    )
    model = VisionTransformer(config)
    images, labels = torch.randn(5, 3, 12, 12), torch.zeros(5, dtype=torch.int64)
    with sdpa_kernel(attention), FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(images), labels).backward()
    assert model_flops(with_model(config, 5)) == counter.get_total_flops()


def with_model(model: ModelConfig, batch_size: int) -> RunConfig:
    """Return a configuration with `model` and `batch_size`."""
    config = configs.load(RunConfig, ROOT / "configs" / "gpu-bench.yaml")
    train = config.train.model_copy(update={"batch_size": batch_size})
    return config.model_copy(update={"model": model, "train": train})


def test_model_flops_of_vit_l_16() -> None:
    config = configs.load(RunConfig, ROOT / "configs" / "gpu-bench.yaml")
    assert config.train.batch_size == 128
    # Dosovitskiy et al. (2021), table 1: 307 M parameters. Torchvision's table for vit_l_16 at 224:
    # 61.6 G multiplications per image, with a class token and so 197 tokens instead of 196.
    forward = model_flops(with_model(config.model, 1)) / 3 / 2
    assert forward == pytest.approx(61.55e9, rel=0.01)
    # At this size, a step of 117 ms is 52 % of 770 TFLOP/s.
    share = model_flops(config) / 0.117 / 770e12
    assert share == pytest.approx(0.52, abs=0.005)


def test_command_reports_the_operations_of_the_model(config_file: Path, tmp_path: Path) -> None:
    report = tmp_path / "gpu-bench.json"
    small = ["--device", "cpu", "--matmul-size", "16", "--copy-mib", "1"]
    few = ["--steps", "1", "--warmup", "1"]
    assert main([*small, *few, "--config", str(config_file), "--report", str(report)]) == 0
    (case,) = json.loads(report.read_text())["cases"]
    assert case["parameters"] == 1146
    flops = model_flops(configs.load(RunConfig, config_file))
    assert case["model_tflop_per_step"] == flops / 1e12
