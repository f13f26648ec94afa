"""Augmentation: the random draws and the effect of each draw on an image."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.config import TorchDataConfig

from my_project import augmentation
from my_project.augmentation import Draws
from my_project.config import ModelConfig, RunConfig, TrainConfig
from my_project.data import Examples

IMAGE = torch.Size((1, 8, 8))
CONFIG = TrainConfig(
    epochs=2,
    batch_size=8,
    accumulation_steps=1,
    lr=0.4,
    weight_decay=0.01,
    warmup_share=0.2,
    clip_norm=1.0,
    distortion=0.0,
    mixup=0.0,
    noise=0.0,
    precision="float32",
    compile=False,
    deterministic=True,
    snapshot_every=10,
    parallelism="ddp",
    device="cpu",
)
EVERYTHING = CONFIG.model_copy(update={"distortion": 1.0, "mixup": 0.4, "noise": 0.2})


def changed(**values: float) -> TrainConfig:
    return CONFIG.model_copy(update=values)


def drawn(seeds: tuple[int, int], size: int, image: torch.Size, train: TrainConfig) -> Draws | None:
    """Draw for a batch of images of shape `image`."""
    model = ModelConfig(
        image_size=image[1],
        channels=image[0],
        classes=10,
        patch_size=1,
        width=8,
        depth=1,
        heads=1,
    )
    where = TorchDataConfig(source="digits", cache_dir="data", workers=0)
    config = RunConfig(seed=0, tracking="none", data=where, model=model, train=train)
    return augmentation.draw(config, seeds, size)


def draws_of(seeds: tuple[int, int], size: int, image: torch.Size, train: TrainConfig) -> Draws:
    draws = drawn(seeds, size, image, train)
    assert draws is not None
    return draws


def test_zero_draws_leave_an_image_unchanged(training_examples: Examples) -> None:
    images = training_examples.images
    same = augmentation.distorted(images, torch.zeros(len(images), 5), 1.0)
    torch.testing.assert_close(same, images)
    some = torch.rand(len(images), 5) * 2 - 1
    torch.testing.assert_close(augmentation.distorted(images, some, 0.0), images)


@pytest.mark.parametrize(
    ("draw", "strength", "moved"),
    [
        ([0.0, 0.0, 0.0, 1.0, 0.0], 4, lambda image: torch.roll(image, -1, 2)),  # a whole pixel
        ([0.0, 0.0, 0.0, 0.0, -1.0], 8, lambda image: torch.roll(image, 2, 1)),
        ([1.0, 0.0, 0.0, 0.0, 0.0], 9, lambda image: torch.rot90(image, 1, (1, 2))),
        ([-1.0, 0.0, 0.0, 0.0, 0.0], 9, lambda image: torch.rot90(image, -1, (1, 2))),
    ],
    ids=["across", "down", "rotated", "rotated back"],
)
def test_each_draw_applies_its_own_distortion(
    draw: list[float], strength: float, moved: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    image = torch.full((1, 8, 8), -1.0)
    image[0, 2:6, 2:5] = torch.rand(4, 3)
    found = augmentation.distorted(image[None], torch.tensor([draw]), strength)[0]
    torch.testing.assert_close(found, moved(image), atol=1e-5, rtol=0)


def test_an_image_is_scaled_about_its_centre() -> None:
    image, half = torch.full((1, 1, 8, 8), -1.0), torch.full((1, 1, 8, 8), -1.0)
    image[..., 2:6, 2:6], half[..., 3:5, 3:5] = 1.0, 1.0
    draw = torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(augmentation.distorted(image, draw, 20.0), half)


def test_an_image_is_sheared_row_by_row() -> None:
    image = torch.rand(1, 1, 8, 8)
    draw = torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]])
    found = augmentation.distorted(image, draw, 20.0)[0, 0]
    for row in range(8):
        places = torch.arange(8) + 2 * row - 7
        is_inside = (places >= 0) & (places < 8)
        expected = torch.where(is_inside, image[0, 0, row, places.clamp(0, 7)], -1.0)
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=0)


def test_each_image_is_distorted_by_its_own_draw(training_examples: Examples) -> None:
    images = training_examples.images[:7]
    draws = torch.rand(7, 5) * 2 - 1
    together = augmentation.distorted(images, draws, 2.0)
    for image, draw, found in zip(images, draws, together, strict=True):
        torch.testing.assert_close(augmentation.distorted(image[None], draw[None], 2.0)[0], found)
    assert not torch.equal(together, images)


def test_draws_depend_only_on_the_seeds() -> None:
    first, repeated, other = (
        draws_of(seeds, 6, IMAGE, EVERYTHING) for seeds in ((3, 1), (3, 1), (3, 2))
    )
    for name in ("partners", "distortions", "shares", "noise"):
        assert torch.equal(getattr(first, name), getattr(repeated, name))
    for name in ("distortions", "shares", "noise"):
        assert not torch.isclose(getattr(first, name), getattr(other, name)).any()


@given(st.integers(1, 40), st.floats(0.05, 10), st.integers(0, 2**32 - 1))
def test_draws_are_in_range_and_no_example_is_its_own_partner(
    size: int, mixup: float, seed: int
) -> None:
    draws = draws_of((seed, 0), size, IMAGE, changed(mixup=mixup, noise=1.0))
    assert draws.distortions.abs().max() <= 1
    assert draws.shares.min() >= 0
    assert draws.shares.max() <= 1
    assert sorted(draws.partners.tolist()) == list(range(size))
    assert size == 1 or (draws.partners != torch.arange(size)).all()
    assert draws.noise.shape == (size, *IMAGE)


def test_shares_and_noise_have_the_configured_spread() -> None:
    draws = draws_of((0, 0), 20_000, torch.Size((1, 2, 2)), changed(mixup=0.4, noise=1.0))
    # Beta(a, a) has a mean of 1/2 and a variance of 1 / (4 (2a + 1)).
    assert draws.shares.mean().item() == pytest.approx(0.5, abs=0.01)
    assert draws.shares.var().item() == pytest.approx(1 / (4 * 1.8), rel=0.03)
    assert draws.noise.std().item() == pytest.approx(1, rel=0.01)


def test_two_images_and_their_classes_are_mixed_by_share(
    training_examples: Examples,
) -> None:
    images, labels = training_examples.images[:4], training_examples.labels[:4]
    config = changed(mixup=1.0)
    draws = draws_of((0, 0), 4, IMAGE, config)
    both = torch.cat([torch.arange(4), draws.partners])
    mixed, targets = augmentation.augmented(images[both], labels[both], draws, config, 10)
    for row, partner in enumerate(draws.partners.tolist()):
        share = draws.shares[row].item()
        expected = share * images[row] + (1 - share) * images[partner]
        torch.testing.assert_close(mixed[row], expected)
        wanted = torch.zeros(10)
        wanted[labels[row]] += share
        wanted[labels[partner]] += 1 - share
        torch.testing.assert_close(targets[row], wanted)


def test_noise_changes_only_the_images(training_examples: Examples) -> None:
    images, labels = training_examples.images[:3], training_examples.labels[:3]
    config = changed(noise=0.2)
    draws = draws_of((0, 0), 3, IMAGE, config)
    found, targets = augmentation.augmented(images, labels, draws, config, 10)
    torch.testing.assert_close(found - images, 0.2 * draws.noise.float())
    assert torch.equal(targets.argmax(dim=1), labels)
    assert torch.equal(targets.sum(dim=1), torch.ones(3))


def test_a_micro_batch_may_be_empty(training_examples: Examples) -> None:
    draws = draws_of((0, 0), 4, IMAGE, EVERYTHING).of(torch.arange(0))
    empty = training_examples.images[:0], training_examples.labels[:0]
    images, targets = augmentation.augmented(*empty, draws, EVERYTHING, 10)
    assert (images.shape, targets.shape) == ((0, *IMAGE), (0, 10))


@pytest.mark.parametrize("key", ["distortion", "mixup", "noise"])
def test_each_augmentation_can_be_used_alone(key: str) -> None:
    assert drawn((0, 0), 4, IMAGE, CONFIG) is None
    assert drawn((0, 0), 4, IMAGE, changed(**{key: 0.5})) is not None
