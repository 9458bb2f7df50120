"""What a token is called in a chart or a table."""

import collections

from saa_core import Trace

CONTINUED = "·"
"""A token that only continues a character, in the strip."""
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
"""Number of a token among those that share a character."""


def labels(trace: Trace) -> list[str]:
    """What each token looks like to a reader: its characters, white space made visible.

    Tokens that share a character, as in Japanese, are numbered: "朝₁", "朝₂".
    """
    if trace.text is not None and trace.offsets is not None:
        raw = [trace.text[start:end] for start, end in trace.offsets]
        shared = collections.Counter(trace.offsets)
        seen: collections.Counter[tuple[int, int]] = collections.Counter()
        for at, place in enumerate(trace.offsets):
            if shared[place] > 1 and place[1] > place[0]:
                seen[place] += 1
                raw[at] += str(seen[place]).translate(SUBSCRIPTS)
    elif trace.tokens is not None:
        raw = [
            token.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n") for token in trace.tokens
        ]
    else:
        raw = [str(token) for token in trace.token_ids]
    return [visible(token) for token in raw]


def visible(token: str) -> str:
    bare = token.strip(" ")
    bare = bare.replace("\r", "").replace("\n", "↵").replace("\t", "→")
    return bare or "␣"


def prefix(position: int, names: list[str]) -> str:
    """Repeated tokens stay apart; the axis cuts the first six characters off."""
    return f"{position:05d} {names[position]}"
