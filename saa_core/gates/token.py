"""The learned token gate: hidden states -> how much the later layers still need each token.

One set of weights serves every share: the
share only shifts the scores, by an amount that is learned for each layer.

After Learned Token Pruning (arXiv 2107.00910) and Transkimmer (arXiv 2205.07324); what is new is the
share as an input.

Shapes: T tokens, E hidden size, W width of the predictor.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of the token work for which a shift is learned; in between it is interpolated."""


@dataclass(frozen=True)
class TokenGateConfig:
    """Shape of a token gate: E hidden size of the model, W width of the predictor."""

    hidden: int
    width: int = 32

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def fresh_linear(inputs: int, outputs: int, draw: torch.Generator | None) -> nn.Linear:
    """A linear layer with the numbers that PyTorch would give it, drawn from a generator of the caller's:
    the global one is shared by all threads, so that a seed set there promises nothing."""
    layer = skip_init(nn.Linear, inputs, outputs)
    assert isinstance(layer, nn.Linear)
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=draw)
    limit = 1 / math.sqrt(inputs)
    nn.init.uniform_(layer.bias, -limit, limit, generator=draw)
    return layer


class TokenGate(nn.Module):
    """Scores tokens in front of one layer; those above zero stay.

    Parameters: ``norm`` (LayerNorm over E), ``down`` [W, E], ``up`` [1, W], ``shift`` [len(SHARES)].
    ``layer`` is the position of the layer that follows.

    Args:
        draw: where the random numbers come from; torch's global generator by default.
    """

    def __init__(
        self, config: TokenGateConfig, layer: int = 1, draw: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.layer = layer
        self.norm = nn.LayerNorm(config.hidden)
        self.down = fresh_linear(config.hidden, config.width, draw)
        self.up = fresh_linear(config.width, 1, draw)
        shares = torch.tensor(SHARES).clamp(max=0.95)
        self.shift = nn.Parameter(2 * (shares / (1 - shares)).log())

    def forward(self, x_TE: Tensor, share: float) -> Tensor:
        """Scores [T], as log-odds that a token is still needed.

        Args:
            x_TE: hidden states [..., E].
            share: of the token work to be done, in (0, 1).
        """
        return self.unshifted(x_TE) + self.shift_for(share)

    def unshifted(self, x_TE: Tensor) -> Tensor:
        """Scores [T] before the shift of any share."""
        score: Tensor = self.up(nn.functional.gelu(self.down(self.norm(x_TE))))[..., 0]
        return score

    def shift_for(self, share: float) -> Tensor:
        """The learned shift at a share, between the neighbours in SHARES; outside, the nearest."""
        right, part = _between(share)
        return torch.lerp(self.shift[right - 1], self.shift[right], part)

    @property
    def flops_per_token(self) -> int:
        """Multiplications and additions of one token's score (normalisation left out)."""
        return 2 * (self.config.hidden * self.config.width + self.config.width)


def shifts_at(gates: Sequence[TokenGate], share: float) -> Sequence[Tensor]:
    """What :meth:`TokenGate.shift_for` gives for each gate, found for all at once."""
    if not gates:
        return ()
    right, part = _between(share)
    table = torch.stack([gate.shift for gate in gates])
    return torch.lerp(table[:, right - 1], table[:, right], part).unbind()


def _between(share: float) -> tuple[int, float]:
    """The first of SHARES that a share is not above, and how far the share has come from the one before."""
    place = min(max(share, SHARES[0]), SHARES[-1])
    right = next(i for i in range(1, len(SHARES)) if place <= SHARES[i])
    return right, (place - SHARES[right - 1]) / (SHARES[right] - SHARES[right - 1])
