"""A decision as lists of key blocks per query block: what attention kernels on a GPU go through.

Shapes: B batch, H query heads, M, S query and key blocks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from saa_core.pairs import Decision
from saa_core.triton import padded
from saa_core.triton.workspace import Workspace

NAMES = ("full_count", "full_index", "part_count", "part_index")


@dataclass(frozen=True)
class Lists:
    """Kept key blocks of each query block, ascending; beyond the count an index means nothing.

    Args:
        block: (queries, keys) per block in tokens.
        full_count: blocks in which every pair is allowed, int32 [B, H, M].
        full_index: which they are, int32 [B, H, M, S].
        part_count, part_index: the same of blocks in which some pair is not allowed.
    """

    block: tuple[int, int]
    full_count: Tensor
    full_index: Tensor
    part_count: Tensor
    part_index: Tensor

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.full_count, self.full_index, self.part_count, self.part_index

    def keep(self) -> Tensor:
        """The same as a map, bool [B, H, M, S]."""
        places = torch.arange(self.full_index.shape[-1], device=self.full_index.device)
        kept = torch.zeros_like(self.full_index, dtype=torch.int32)
        for count, index in (
            (self.full_count, self.full_index),
            (self.part_count, self.part_index),
        ):
            listed = places < count[..., None]
            kept.scatter_add_(-1, index.long().where(listed, 0), listed.int())
        return kept > 0


def empty_lists(
    block: tuple[int, int], shape: tuple[int, int, int, int], workspace: Workspace
) -> Lists:
    """Lists to be written, for [B, H, M, S] blocks."""
    sizes = (shape[:3], shape, shape[:3], shape)
    taken = (
        workspace.take(name, size, torch.int32) for name, size in zip(NAMES, sizes, strict=True)
    )
    return Lists(block, *taken)


def lists_of(decision: Decision) -> Lists:
    """The lists of a decision, in one launch."""
    from saa_core.triton.list_blocks import list_blocks

    B, H, M, S = decision.keep.shape
    lists = empty_lists(decision.block, (B, H, M, S), Workspace(decision.keep.device))
    count = decision.count.contiguous()
    if lists.full_count.numel():
        list_blocks[(B * H * M,)](
            *(decision.keep.contiguous().view(torch.uint8), count, *lists.tensors),
            *(M * S if len(count) > 1 else 0, H, M, S),
            PAIRS=decision.block[0] * decision.block[1],
            WIDE=padded(S),
        )
    return lists
