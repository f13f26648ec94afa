import math
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from char_lm.learner import bits_per_character, loss
from char_lm.vocabulary import PADDING, SYMBOLS, encode


class Fixed(nn.Module):
    """Gives `a` a probability of 1/2 everywhere; the other symbols share the rest equally."""

    def forward(self, symbols: Tensor) -> Tensor:
        probabilities = torch.full((SYMBOLS,), 0.5 / (SYMBOLS - 1))
        probabilities[int(encode("a")[0])] = 0.5
        return probabilities.log().expand(*symbols.shape, SYMBOLS)


def batch(*texts: str) -> tuple[Tensor]:
    symbols = np.full((len(texts), 6), PADDING, np.int8)
    for row, text in zip(symbols, texts, strict=True):
        row[: len(text)] = encode(text)
    return (torch.from_numpy(symbols),)


def test_loss_is_the_mean_over_the_characters_of_a_passage() -> None:
    right, wrong = -math.log(0.5), -math.log(0.5 / 96)
    expected = [right, wrong, (2 * right + wrong) / 3, (5 * right + wrong) / 6]
    found = loss(Fixed(), batch("a", "b", "aba", "aaaaab"))
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_bits_are_the_loss_in_base_2() -> None:
    found = bits_per_character(Fixed(), batch("a", "aa", "aaaaaa"))
    assert found.tolist() == pytest.approx([1, 1, 1], rel=1e-6)


def test_padding_has_no_gradient() -> None:
    logits = torch.zeros(1, 6, SYMBOLS, requires_grad=True)

    class FixedLogits(nn.Module):
        def forward(self, symbols: Tensor) -> Tensor:
            del symbols
            return logits

    loss(FixedLogits(), batch("abc")).sum().backward()
    gradient = cast("Tensor", logits.grad)[0]
    assert (gradient[:3] != 0).any(dim=1).all()
    assert (gradient[3:] == 0).all()
