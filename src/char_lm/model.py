"""A character-level language model: an LSTM, which learns faster on a CPU than a transformer.

Differs from Karpathy (2015), "The Unreasonable Effectiveness of Recurrent Neural Networks": each
passage is read independently, starting with a newline, and the head starts at zero, so that the
first loss is exactly ln(symbols).
"""

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the conventional name

from char_lm.config import ModelConfig
from char_lm.vocabulary import NEWLINE, SYMBOLS


class CharacterModel(nn.Module):
    """Predicts each symbol of a passage from the symbols before it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, config.embedding)
        self.lstm = nn.LSTM(config.embedding, config.width, config.layers, batch_first=True)
        self.head = nn.Linear(config.width, SYMBOLS)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, symbols: Tensor) -> Tensor:
        """Return logits (batch, length, symbols) for each position in (batch, length)."""
        before = F.pad(symbols[:, :-1], (1, 0), value=NEWLINE)
        # Padding may be read as any symbol, because no real symbol follows it.
        states, _ = self.lstm(self.embedding(before.long().clamp(min=0)))
        logits: Tensor = self.head(states)
        return logits
