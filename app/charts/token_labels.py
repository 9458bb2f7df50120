"""What a token is called in a chart or a table."""

import collections
from collections.abc import Sequence

from saa_core import Trace

CONTINUED = "·"
"""A token that only continues a character, in the strip."""
MARK = "▁"
"""Of the start of a word, as SentencePiece writes it."""
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
"""Number of a token among those that share a character."""


def labels(trace: Trace) -> list[str]:
    """What each token looks like to a reader: its characters, white space made visible.

    Tokens that share a character, as in Japanese, are numbered: "朝₁", "朝₂".
    """
    if trace.text is not None and trace.offsets is not None:
        raw = [trace.text[start:end] for start, end in trace.offsets]
        places = _characters(trace.offsets)
        shared = collections.Counter(places)
        seen: collections.Counter[tuple[int, int]] = collections.Counter()
        for at, place in enumerate(places):
            start, end = place
            if shared[place] > 1 and end > start:
                seen[place] += 1
                number = str(seen[place]).translate(SUBSCRIPTS)
                raw[at] = (raw[at] or trace.text[end - 1 : end]) + number
            elif end == start and trace.tokens is not None:  # it was added to the text
                raw[at] = trace.tokens[at].replace(MARK, " ")
    elif trace.tokens is not None:
        raw = [
            token.replace("Ġ", " ").replace(MARK, " ").replace("Ċ", "\n") for token in trace.tokens
        ]
    else:
        raw = [str(token) for token in trace.token_ids]
    return [visible(token) for token in raw]


def _characters(offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where the characters of each token stand: a token that has none of its own goes on with the one before.

    In runs that were recorded before, it has the same place as that one already.
    """
    found, before = list[tuple[int, int]](), (0, 0)
    for start, end in offsets:
        if start < end:
            before = start, end
        found.append(before if start == end == before[1] else (start, end))
    return found


def visible(token: str) -> str:
    bare = token.strip(" ")
    bare = bare.replace("\r", "").replace("\n", "↵").replace("\t", "→")
    return bare or "␣"


def prefix(position: int, names: list[str]) -> str:
    """Repeated tokens stay apart; the axis cuts the first six characters off."""
    return f"{position:05d} {names[position]}"
