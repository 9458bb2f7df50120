"""Where the tokens of a text stand in it, so that no character belongs to two of them.

Tokenizers disagree. A piece that only marks the start of a word is given the word's first character, which the
next piece has too ("中文 中文": 0 to 1, and 0 to 2); the bytes of one character are given the whole character
each; a word may be given the space in front of it. Knows strings and numbers, not a model.
"""

from collections.abc import Sequence

Span = tuple[int, int]
"""First character, and the one behind the last; (0, 0) of a token that was added to the text."""

WORD_MARK = "▁"
SPACES = f"{WORD_MARK}ĠĊĉčÂ"
"""What white space begins with as pieces write it: SentencePiece's mark, and bytes as GPT-2 shows them."""


def spans(
    text: str, tokens: Sequence[str], given: Sequence[Span], added: Sequence[int]
) -> list[Span]:
    """Spans in the order of the text, each beginning where the one before has ended, or behind it.

    A character that several tokens share belongs to the first; the others have an empty span behind it. A
    piece that only marks the start of a word has the white space in front of the word, if there is any.
    No other piece begins with white space unless it is written with it.

    Args:
        tokens: as the tokenizer writes them.
        given: its offsets.
        added: 1 where a token was added, as special tokens are; they have no place in the text.
    """
    found, done = list[Span](), 0
    for token, (start, end), extra in zip(tokens, given, added, strict=True):
        if extra:
            found.append((0, 0))
            continue
        start, end = max(start, done), max(end, done)
        if not token.strip(WORD_MARK) and not text[start:end].isspace():
            span = (done, start) if text[done:start].isspace() else (start, start)
        else:
            span = start if _spaced(token) else _behind_spaces(text, start, end), end
        found.append(span)
        done = span[1]
    return found


def last_whole(own: Sequence[Span], count: int) -> int:
    """Where a text must end to have no more than ``count`` tokens: never inside a character.

    Args:
        own: spans of the text's own tokens, of which there are more than ``count``.
    """
    while count > 1 and own[count][0] == own[count][1] == own[count - 1][1]:
        count -= 1
    return own[count - 1][1]


def _spaced(token: str) -> bool:
    """Whether a piece is written with white space at its start."""
    return token[:1] in SPACES or token[:1].isspace()


def _behind_spaces(text: str, start: int, end: int) -> int:
    """Where the part that is no white space begins; white space alone stays."""
    own = text[start:end]
    return end - len(own.lstrip()) if own.strip() else start
