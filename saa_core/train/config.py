"""How gates, adapters and tasks are trained: the configurations, with their defaults.

Plain values, so that the command line can show them without PyTorch.
"""

from dataclasses import dataclass
from typing import Any

from saa_core.errors import PolicyError

CANDIDATES = 1024
"""Positions among which joint training looks for the hardest."""
RELIABILITY_MASSES = (0.8, 0.9, 0.95, 0.98)
RELIABILITY_LENGTHS = (128, 300, 1024)
OOD_LENGTHS = (16, 64, 256, 1024)
OOD_FIT_WINDOWS = 1500
OOD_LIMIT_WINDOWS = 2000
SHORTEST = 8
"""Tokens of the shortest window or text that anything can be learned from."""


@dataclass(frozen=True)
class TrainConfig:
    """How gates are trained.

    Args:
        steps: windows to train on, those before a checkpoint included.
        lengths: window lengths in tokens, drawn at random.
        rate: highest learning rate (Adam, linear warm-up, cosine decay).
        rows: query rows per layer and step that the true mass is computed for.
        pooled: neighbouring queries that share one score row; None leaves the gates as they are.
        seed: of the windows and the sampled rows.
        checkpoint: folder to resume from and to write every ``save_every`` steps.
    """

    steps: int = 500
    lengths: tuple[int, ...] = (512, 1024, 1024, 2048)
    rate: float = 3e-3
    rows: int = 256
    pooled: int | None = None
    seed: int = 0
    checkpoint: str | None = None
    save_every: int = 50

    def __post_init__(self) -> None:
        _check_whole(self, "steps", "rows", "save_every")
        _check_lengths(self)
        _check_rates(self, "rate")


@dataclass(frozen=True)
class JointConfig:
    """How model and gates are trained together.

    Args:
        steps: windows to train on, those before a checkpoint included.
        lengths: window lengths in tokens, drawn at random.
        rank: of the adapter; its scale is 2.
        rate: highest learning rate of the adapter (Adam, linear warm-up, cosine decay).
        gate_rate: of the gates.
        masses: lowest and highest mass of the policy, drawn anew for each window, so that one
            adapter serves them all.
        rows: query rows per layer and step that the gates learn from.
        positions: positions per window whose predictions are compared, drawn at random.
        hard: further positions per window: those of CANDIDATES others at which sparse and dense
            differ most, because averages hide the few predictions that need one far-away pair.
        start: folder of an adapter, with its gates, to go on from; None starts afresh.
        pooled: neighbouring queries that share one score row; None leaves the gates as they are.
        recompute: activations are computed again on the way back, not held: less memory, more time.
        seed: of everything that is drawn.
        checkpoint: folder to resume from and to write every ``save_every`` steps.
    """

    steps: int = 400
    lengths: tuple[int, ...] = (1024, 1024, 1024, 2048)
    rank: int = 16
    rate: float = 5e-4
    gate_rate: float = 5e-4
    masses: tuple[float, float] = (0.75, 0.95)
    rows: int = 128
    positions: int = 256
    hard: int = 0
    start: str | None = None
    pooled: int | None = None
    recompute: bool = False
    seed: int = 0
    checkpoint: str | None = None
    save_every: int = 20

    def __post_init__(self) -> None:
        _check_whole(self, "steps", "rank", "rows", "positions", "save_every")
        if not 0 <= self.hard <= CANDIDATES:
            raise PolicyError(f"hard={self.hard!r} must be a whole number from 0 to {CANDIDATES}")
        _check_lengths(self)
        _check_rates(self, "rate", "gate_rate")
        _check_two_shares(self, "masses")


@dataclass(frozen=True)
class TokenConfig:
    """How a task is trained.

    Args:
        steps: batches of the dense and of the sparse stage.
        batch: texts per batch.
        longest: tokens that a text is cut to.
        rank: of the adapters; their scale is 2.
        rate, adapter_rate, gate_rate: highest learning rate of the matrices in the dense stage, of the
            adapter in the sparse one and the heads in both, and of the gates (Adam, linear warm-up,
            cosine decay).
        shares: lowest and highest share of the token work, drawn anew for each batch.
        distil: weight of the divergence from the dense side's answers.
        replaced: highest share of the words of half of the texts that become random ones in the
            sparse stage (drawn from all training texts; the share is drawn per text). 0 changes none.
        hold: weight of the distance between the share that is kept and the one that was drawn.
        width: of the gates.
        seed: of everything that is drawn.
        half: compute in bfloat16 where that is safe and fast; weights that learn stay float32.
        checkpoint: folder to resume from and to write every ``save_every`` batches.
    """

    steps: tuple[int, int] = (600, 600)
    batch: int = 32
    longest: int = 256
    rank: int = 32
    rate: float = 1e-4
    adapter_rate: float = 3e-4
    gate_rate: float = 3e-3
    shares: tuple[float, float] = (0.3, 0.9)
    distil: float = 4.0
    replaced: float = 0.4
    hold: float = 8.0
    width: int = 32
    seed: int = 0
    half: bool = True
    checkpoint: str | None = None
    save_every: int = 100

    def __post_init__(self) -> None:
        if len(self.steps) != 2 or not all(isinstance(n, int) and n >= 1 for n in self.steps):
            raise PolicyError(f"steps={self.steps!r} must be two whole numbers >= 1")
        _check_whole(self, "batch", "rank", "width", "save_every")
        for name in ("distil", "hold"):
            if not getattr(self, name) >= 0:
                raise PolicyError(f"{name}={getattr(self, name)!r} must be a number >= 0")
        if self.longest < SHORTEST:
            raise PolicyError(f"longest={self.longest!r} must be at least {SHORTEST} tokens")
        _check_rates(self, "rate", "adapter_rate", "gate_rate")
        _check_two_shares(self, "shares")
        if not 0 <= self.replaced < 1:
            raise PolicyError(f"replaced={self.replaced!r} must be a share from 0 to below 1")


def _check_whole(config: Any, *names: str) -> None:
    """Whole numbers from 1 on."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise PolicyError(f"{name}={value!r} must be a whole number >= 1")


def _check_rates(config: Any, *names: str) -> None:
    """Learning rates."""
    for name in names:
        if not 0 < getattr(config, name) < 1:
            raise PolicyError(f"{name}={getattr(config, name)!r} must be in (0, 1)")


def _check_two_shares(config: Any, name: str) -> None:
    """The ends of a range of shares."""
    low, high = getattr(config, name)
    if not 0 < low <= high <= 1:
        raise PolicyError(
            f"{name}={getattr(config, name)!r} must be two shares in (0, 1], lowest first"
        )


def _check_lengths(config: Any) -> None:
    """Window lengths in tokens."""
    if not config.lengths or min(config.lengths) < SHORTEST:
        raise PolicyError(
            f"lengths={config.lengths!r} must be window lengths of at least {SHORTEST} tokens"
        )


MASS_LIMIT = 0.01
"""Highest increase of perplexity that a default mass may cost, as a share."""
MASS_CHOICES = (0.8, 0.84, 0.87, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)
MASS_LENGTHS = (512, 1024, 2048, 4096, 8192)
MASS_BLOCKS = ((32, 16), (128, 64))
"""What a default mass is chosen of and for (certify/masses.py)."""
