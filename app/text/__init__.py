"""Every sentence a person reads, by language and key.

`Words` looks keys up and formats numbers the way all pages write them.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saa_core.report.sentences import LANGUAGES, sentences

__all__ = ["LANGUAGES", "Words", "flatten", "load", "plain"]
SPACE = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Words:
    """The sentences of one language. ``words("explore.run")`` is one of them."""

    lang: str
    table: Mapping[str, str]

    def __call__(self, key: str, /, **fields: Any) -> str:
        return self.table[key].format(**fields)

    def percent(self, share: float, digits: int = 0) -> str:
        """0.64 -> "64 %". Only all is 100 %, and only nothing is 0 %."""
        step = 10.0**-digits
        value = round(100 * share, digits)
        if share < 1 and value >= 100:
            value = 100 - step
        if share > 0 and value <= 0:
            return f"< {step:.{digits}f}{SPACE}%"
        return f"{value:.{digits}f}{SPACE}%"

    def signed(self, share: float, digits: int = 0) -> str:
        """-0.64 -> "−64 %", 0.64 -> "+64 %"."""
        return ("−" if share < 0 else "+") + self.percent(abs(share), digits)

    def milliseconds(self, value: float) -> str:
        """Three significant digits: 8.31 ms, 83.1 ms, 831 ms, 8,310 ms."""
        digits = 0 if value >= 100 else 1 if value >= 10 else 2
        return f"{value:,.{digits}f}{SPACE}ms"


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested tables to dotted keys."""
    flat: dict[str, str] = {}
    for name, value in table.items():
        key = prefix + name
        flat |= flatten(value, key + ".") if isinstance(value, Mapping) else {key: str(value)}
    return flat


@functools.cache
def load(lang: str) -> Words:
    """The sentences of "en" or "ja"."""
    return Words(lang, flatten(sentences(__name__, lang)))


def plain(raw: str) -> str:
    """Somebody's text as Markdown that shows exactly this text, on one line."""
    marks = r"\`*_{}[]()<>#+-.!|~$:^="
    one_line = " ".join(raw.split())
    return "".join("\\" + sign if sign in marks else sign for sign in one_line)
