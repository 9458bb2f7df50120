"""Memory that the layers of one call share: what one layer wrote is read before the next one writes."""

import torch
from torch import Tensor


class Workspace:
    """Named tensors of one call. They stay where they are, so that a captured graph finds them again."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._held: dict[tuple[str, tuple[int, ...], torch.dtype], Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor of this name and shape, with whatever was written to it last."""
        key = name, shape, dtype
        if key not in self._held:
            self._held[key] = torch.empty(shape, dtype=dtype, device=self.device)
        return self._held[key]
