import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the conventional name
from torch import nn

from my_project.config import ModelConfig
from my_project.model import Attention, Block, VisionTransformer

TINY = ModelConfig(image_size=8, channels=1, classes=10, patch_size=2, width=8, depth=1, heads=2)
SIZES = [
    pytest.param(TINY, id="tiny"),
    pytest.param(
        ModelConfig(image_size=12, channels=3, classes=2, patch_size=4, width=6, depth=2, heads=3),
        id="colour",
    ),
    pytest.param(
        ModelConfig(image_size=4, channels=2, classes=7, patch_size=4, width=4, depth=3, heads=1),
        id="one_patch",
    ),
]


def model_and_images(
    config: ModelConfig, *, examples: int = 5
) -> tuple[VisionTransformer, torch.Tensor]:
    torch.manual_seed(0)
    images = torch.randn(examples, config.channels, config.image_size, config.image_size)
    return VisionTransformer(config).eval(), images


@pytest.mark.parametrize("config", SIZES)
def test_each_image_gets_a_logit_per_class(config: ModelConfig) -> None:
    model, images = model_and_images(config)
    assert model(images).shape == (5, config.classes)


@pytest.mark.parametrize("config", SIZES)
def test_initial_loss_is_the_log_of_the_number_of_classes(config: ModelConfig) -> None:
    model, images = model_and_images(config)
    loss = F.cross_entropy(model(images), torch.arange(5) % config.classes)
    assert loss.item() == pytest.approx(math.log(config.classes), abs=1e-6)


@pytest.mark.parametrize("config", SIZES)
@torch.inference_mode()
def test_order_of_the_batch_does_not_matter(config: ModelConfig) -> None:
    model, images = model_and_images(config)
    nn.init.normal_(model.head.weight)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(model(images[order]), model(images)[order])


@torch.inference_mode()
def test_order_of_the_patches_matters() -> None:
    model, images = model_and_images(TINY)
    nn.init.normal_(model.head.weight)
    moved = images.roll(shifts=TINY.patch_size, dims=-1)
    assert (model(moved) - model(images)).abs().max() > 0.01


@torch.inference_mode()
def test_without_positions_the_order_of_the_patches_does_not_matter() -> None:
    model, images = model_and_images(TINY)
    nn.init.normal_(model.head.weight)
    model.positions.zero_()
    moved = images.roll(shifts=TINY.patch_size, dims=-1)
    torch.testing.assert_close(model(moved), model(images))


def test_parameter_count_of_a_worked_example() -> None:
    # patches 8·4+8, positions 16·8, the block's norms 2·16, attention (8·24+24)+(8·8+8),
    # MLP (8·32+32)+(32·8+8), last norm 16, head 8·10+10
    expected = 40 + 128 + 32 + 216 + 72 + 288 + 264 + 16 + 90
    model = VisionTransformer(TINY)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected == 1146


def test_depth_adds_blocks() -> None:
    deeper = VisionTransformer(TINY.model_copy(update={"depth": 3}))
    assert sum(parameter.numel() for parameter in deeper.parameters()) == 1146 + 2 * 872


def test_every_parameter_learns() -> None:
    model, images = model_and_images(TINY)
    # The head starts at zero and passes no gradient before its first step.
    nn.init.normal_(model.head.weight)
    F.cross_entropy(model(images), torch.arange(5)).backward()
    idle = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert idle == []


@pytest.mark.parametrize("heads", [1, 2, 4])
@torch.inference_mode()
def test_attention_agrees_with_torch(heads: int) -> None:
    torch.manual_seed(0)
    tokens = torch.randn(3, 16, 8, dtype=torch.float64)
    theirs = nn.MultiheadAttention(8, heads, batch_first=True).double()
    ours = Attention(8, heads).double()
    ours.queries_keys_values.weight.copy_(theirs.in_proj_weight)
    ours.queries_keys_values.bias.copy_(theirs.in_proj_bias)
    ours.out.weight.copy_(theirs.out_proj.weight)
    ours.out.bias.copy_(theirs.out_proj.bias)
    expected, _ = theirs(tokens, tokens, tokens)
    torch.testing.assert_close(ours(tokens), expected)


@torch.inference_mode()
def test_block_agrees_with_torch() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(3, 16, 8, dtype=torch.float64)
    theirs = nn.TransformerEncoderLayer(
        8, 2, dim_feedforward=32, dropout=0, activation="gelu", batch_first=True, norm_first=True
    ).double()
    ours = Block(8, 2).double()
    weights = zip(ours.state_dict().values(), in_our_order(theirs), strict=True)
    for mine, yours in weights:
        mine.copy_(yours.normal_())
    torch.testing.assert_close(ours(tokens), theirs(tokens))


def in_our_order(layer: nn.TransformerEncoderLayer) -> list[torch.Tensor]:
    attention = layer.self_attn
    return [
        *layer.norm1.parameters(),
        attention.in_proj_weight,
        attention.in_proj_bias,
        *attention.out_proj.parameters(),
        *layer.norm2.parameters(),
        *layer.linear1.parameters(),
        *layer.linear2.parameters(),
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_residual_stream_has_the_precision_of_the_step(dtype: torch.dtype) -> None:
    model, images = model_and_images(TINY.model_copy(update={"depth": 3}))
    seen: list[torch.dtype] = []
    for block in model.blocks:
        block.register_forward_hook(
            lambda _block, inputs, out: seen.extend([inputs[0].dtype, out.dtype])
        )
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        model(images)
    assert seen == [dtype] * 6
