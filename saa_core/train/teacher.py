"""The reference model's answers, which the sparse stage follows.

Its adapter is folded into a copy of the model, which is less work than beside the matrices, and a text
that comes again as it is gets the answer that it got before.

Shapes: B texts, N tokens, C labels.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from saa_core.model import Model
from saa_core.run.varlen import packing_of
from saa_core.train import lora
from saa_core.train.masked import forward_masked, mean_states


class Teacher:
    """Answers of a model with one of its adapters as they are now; nothing learns.

    Args:
        model: of a family that can be packed.
        head: on the mean of a text's final states.
        half: compute in bfloat16.
    """

    def __init__(self, model: Model, adapter: str, head: nn.Module, *, half: bool) -> None:
        self.packing = packing_of(replace(model, hf=lora.fold(model.hf, adapter)))
        self.head, self.half = head, half
        self.known: dict[bytes, Tensor] = {}

    @torch.no_grad()
    def answers(self, ids_BN: Tensor, mask_BN: Tensor, again_B: Tensor) -> Tensor:
        """Logits [B, C].

        Args:
            again_B: which texts may come again; their answers are kept.
        """
        lengths = mask_BN.sum(1)
        keys = [
            own[:length].tobytes() if again else None
            for own, length, again in zip(
                ids_BN.int().cpu().numpy(), lengths.tolist(), again_B.tolist(), strict=True
            )
        ]
        new = [row for row, key in enumerate(keys) if key not in self.known]
        found = {row: self.known[key] for row, key in enumerate(keys) if key in self.known}
        if new:
            longest = int(lengths[new].max())
            answers = self._compute(ids_BN[new, :longest], mask_BN[new, :longest])
            found |= dict(zip(new, answers, strict=True))
        self.known |= {key: found[row] for row, key in enumerate(keys) if key is not None}
        return torch.stack([found[row] for row in range(len(keys))])

    def _compute(self, ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        with torch.autocast(ids_BN.device.type, torch.bfloat16, enabled=self.half):
            # Every token is kept, so which ones are special does not matter.
            states, _ = forward_masked(self.packing, mask_BN, ids_BN, mask_BN, 1.0, None)
        logits: Tensor = self.head(mean_states(states, mask_BN))
        return logits
