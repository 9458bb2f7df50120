"""Labelled texts as token ids, and the batches that training sees.

Shapes: B texts, N tokens.
"""

import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from saa_core.errors import TextError
from saa_core.model import Model

NO_LABEL = -100
"""Class that PyTorch's cross entropy leaves out."""
POOL = 50
"""Batches that are sorted by length together, so that little is padded."""


@dataclass(frozen=True)
class TokenizedTexts:
    """Texts as token ids, and their labels as indices."""

    ids: Sequence[Sequence[int]]
    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, tokens: int) -> "TokenizedTexts":
        """The first texts of no more than so many tokens together, but at least one."""
        sums = list(accumulate(map(len, self.ids)))
        count = max(1, bisect_right(sums, tokens))
        return TokenizedTexts(self.ids[:count], self.labels[:count])


def tokenize_texts(
    model: Model, texts: Sequence[str], labels: Sequence[int], longest: int
) -> TokenizedTexts:
    """Tokenizes texts and cuts them to a length in tokens.

    Raises:
        TextError: there are no texts.
    """
    if not texts:
        raise TextError("texts is empty; give at least one")
    encoded = model.tokenizer(list(texts), truncation=True, max_length=longest, verbose=False)
    return TokenizedTexts(encoded["input_ids"], list(labels))


def order(examples: TokenizedTexts, batch: int, steps: int, seed: int) -> Iterator[list[int]]:
    """Indices of each batch: shuffled, then sorted by length within a pool, pools shuffled again."""
    draw, made = random.Random(f"order/{seed}"), 0
    while True:
        rows = list(range(len(examples)))
        draw.shuffle(rows)
        for start in range(0, len(rows), batch * POOL):
            pool = sorted(
                rows[start : start + batch * POOL], key=lambda row: len(examples.ids[row])
            )
            batches = [pool[at : at + batch] for at in range(0, len(pool), batch)]
            draw.shuffle(batches)
            for found in batches:
                if made == steps:
                    return
                made += 1
                yield found


def pad_batch(batch: Sequence[Sequence[int]], model: Model) -> tuple[Tensor, Tensor]:
    """Token ids int64 [B, N] and where they are real, bool [B, N]."""
    longest = max(len(ids) for ids in batch)
    fill = model.tokenizer.pad_token_id or 0
    ids = torch.full((len(batch), longest), fill)
    mask = torch.zeros(len(batch), longest, dtype=torch.bool)
    for row, own in enumerate(batch):
        ids[row, : len(own)] = torch.tensor(own)
        mask[row, : len(own)] = True
    return ids.to(model.device), mask.to(model.device)


def replace_words(
    ids_BN: Tensor,
    labels_B: Tensor,
    fixed_BN: Tensor,
    words: Tensor,
    highest: float,
    draw: random.Random,
) -> tuple[Tensor, Tensor]:
    """Half of the texts with some words replaced, and without their label.

    A classifier that knows its training texts by heart shows how it decides only on texts that it does
    not know (word replacement of Tang et al., arXiv 1903.12136, by token).

    Args:
        fixed_BN: where nothing may be replaced.
        words: token ids to draw from; none replaces nothing.
        highest: share of a text's words that are replaced; each text draws its own up to this.
    """
    if not highest or not len(words):
        return ids_BN, labels_B
    noise = torch.Generator().manual_seed(draw.randrange(2**31))
    half_B = torch.rand(len(ids_BN), generator=noise) < 0.5
    share_B = torch.rand(len(ids_BN), generator=noise) * highest
    struck_BN = torch.rand(ids_BN.shape, generator=noise) < (half_B * share_B)[:, None]
    others_BN = words[torch.randint(len(words), ids_BN.shape, generator=noise)].to(ids_BN.device)
    struck_BN = struck_BN.to(ids_BN.device) & ~fixed_BN
    ids_BN = torch.where(struck_BN, others_BN, ids_BN)
    return ids_BN, labels_B.masked_fill(half_B.to(labels_B.device), NO_LABEL)
