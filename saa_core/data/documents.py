"""Long documents as labelled passages: help pages and manual pages, which nobody labelled by hand.

What a page is about stands in where it lies: the part of the office suite that a help page belongs to, the
section of a manual page. All passages of a document name it, so that they stay on one side of a split. A
page of the help exists in every language under the same name.
"""

import gzip
import html
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LONG, SHORT = 240, 60
"""Characters of a Japanese passage: from how many on it ends with its paragraph, and the least."""
ENGLISH = 2.2
"""Characters of an English text by those of its Japanese translation."""
LEAST_JAPANESE = 0.3
"""Share of kana and kanji; a page or passage with fewer was not translated."""
MOST_PASSAGES = 12
"""Of one document, evenly chosen, so that a few long ones do not count for all."""
JAPANESE = re.compile(r"[\u3041-\u30ff\u3400-\u9fff\uff66-\uff9f]")

HELP = {
    "sbasic": "basic",
    "scalc": "calc",
    "schart": "chart",
    "simpress": "impress",
    "smath": "math",
    "swriter": "writer",
}
"""Folders of the help, and their labels. Left out are pages that all parts share, and of Draw, whose pages
are Impress's."""
SECTIONS = {
    "1": "commands",
    "4": "devices",
    "5": "files",
    "6": "games",
    "7": "overviews",
    "8": "administration",
}
"""Of the manual."""


@dataclass(frozen=True)
class Passage:
    """A part of a document, with the document's label."""

    text: str
    label: str
    document: str


def help_pages(file: Path, *, japanese: bool) -> Iterator[Passage]:
    """Passages of the help pages in an archive of the package's folder.

    Args:
        japanese: leaves out pages and passages that were not translated.
    """
    with zipfile.ZipFile(file) as archive:
        for name in sorted(archive.namelist()):
            label = HELP.get(name.partition("/")[0])
            if label is None or not name.endswith(".html"):
                continue
            paragraphs = _paragraphs_of_html(archive.read(name).decode("utf-8"))
            if not japanese or is_japanese("".join(paragraphs)):
                for text in passages(paragraphs, japanese=japanese):
                    yield Passage(text, label, name)


def manual_pages(file: Path) -> Iterator[Passage]:
    """Passages of the Japanese manual pages in an archive of the package's folder."""
    with zipfile.ZipFile(file) as archive:
        for name in sorted(archive.namelist()):
            found = re.fullmatch(r"man(\d)/(.+)\.\d\w*\.gz", name)
            if found is None or found[1] not in SECTIONS:
                continue
            paragraphs = _paragraphs_of_roff(gzip.decompress(archive.read(name)).decode("utf-8"))
            if is_japanese("".join(paragraphs)):
                for text in passages(paragraphs, japanese=True):
                    yield Passage(text, SECTIONS[found[1]], name)


def is_japanese(text: str) -> bool:
    """Whether more than LEAST_JAPANESE of what is no white space is kana or kanji."""
    letters = "".join(text.split())
    return bool(letters) and len(JAPANESE.findall(letters)) / len(letters) > LEAST_JAPANESE


def passages(paragraphs: list[str], *, japanese: bool) -> list[str]:
    """Whole paragraphs behind each other, cut where a passage is long enough; what is left is one more if it
    is long enough to be read by itself."""
    scale = 1.0 if japanese else ENGLISH
    found, part = list[str](), list[str]()
    for paragraph in (line for each in paragraphs for line in _lines(each, 2 * LONG * scale)):
        part.append(paragraph)
        if sum(map(len, part)) >= LONG * scale:
            found.append("\n".join(part))
            part = []
    if sum(map(len, part)) >= SHORT * scale:
        found.append("\n".join(part))
    found = [text for text in found if not japanese or is_japanese(text)]
    if len(found) <= MOST_PASSAGES:
        return found
    return [found[at * len(found) // MOST_PASSAGES] for at in range(MOST_PASSAGES)]


def _lines(paragraph: str, longest: float) -> list[str]:
    """A paragraph, or its sentences where it is too long."""
    if len(paragraph) <= longest:
        return [paragraph]
    return [
        line for part in re.split(r"(?<=[。.!?])\s+|(?<=。)", paragraph) if (line := part.strip())
    ]


BLOCKS = re.compile(
    r"</?(?:br|d[dlt]|div|h[1-6r]|li|ol|p|pre|table|t[dhr]|ul)\b[^>]*>", re.IGNORECASE
)
UNREAD = re.compile(
    r'<!--.*?-->|<(script|style|svg)\b.*?</\1\s*>|<div class="relatedtopics">.*',
    re.IGNORECASE | re.DOTALL,
)
"""What is no sentence of the page; the names of related pages are the end of it."""


def _paragraphs_of_html(page: str) -> list[str]:
    """Of the part that the page shows as its own; its frame is the same everywhere."""
    start = page.find('<div id="DisplayArea"')
    end = page.find('<div id="SearchFrame"')
    body = UNREAD.sub("", page[max(start, 0) : end if end >= 0 else len(page)])
    body = BLOCKS.sub("\x00", body.replace("\n", " "))
    text = html.unescape(re.sub(r"<[^>]*>", "", body))
    return [line for part in text.split("\x00") if (line := " ".join(part.split()))]


FONT = re.compile(r"\\f(?:\[[^]]*\]|\(..|.)|\\s[+-]?\d|\\[&|^%/,c]|\\\*(?:\[[^]]*\]|\(..|.)")
"""Changes of font and size, marks without a width, and strings that are defined elsewhere."""
SPECIAL = re.compile(r"\\(?:\[([^]]*)\]|\((..))")
SIGNS = {
    "aq": "'",
    "bu": "•",
    "co": "©",
    "cq": "'",
    "dq": '"',
    "em": "—",
    "en": "–",
    "ha": "^",
    "hy": "-",
    "lq": "“",
    "oq": "'",
    "rq": "”",
    "rs": "\\",
    "ti": "~",
}
SAID = re.compile(
    r"[.']\s*(?:B|I|R|BI|BR|IB|IR|RB|RI|SB|SM|SH|SS|IP|UR|Sh|Ss|Nm|Nd|Fl|Ar|Pa|Xr|Cm|Em|Li|Dq|Sq|Ql"
    r"|It|Op|Ev|Dv|Va|Fn|Ic|Sy|Bq|Pq)\s+(.*)"
)
"""Requests whose arguments are read; all others only say how a page looks."""
NEW = re.compile(r"[.']\s*(?:SH|SS|PP|P|LP|TP|IP|HP|Sh|Ss|Pp|It)\b")
REFERENCE = re.compile(r"\s*\((?:\d[a-z]*)\)")
"""The section behind the name of a page, which would give the label away."""


ASIDE = re.compile(
    r"[.']\s*(?:SH|Sh)\s+\"?(?:著者|作者|著作権|翻訳|関連項目|入手方法|バグの?報告|AUTHOR|COPYRIGHT|SEE ALSO"
    r"|AVAILABILITY|REPORTING)"
)
"""Sections that say nothing about what a page describes."""
TABLES = re.compile(r"^\.TS\b.*?^\.TE\b", re.MULTILINE | re.DOTALL)


def _paragraphs_of_roff(page: str) -> list[str]:
    """The sentences of a manual page without what says how they look; title line and tables are left out."""
    found, part, aside = list[str](), list[str](), False
    for line in TABLES.sub("", page).split("\n"):
        if re.match(r"[.']\s*S[Hh]\b", line):
            aside = ASIDE.match(line) is not None
        if aside:
            continue
        if NEW.match(line) or not line.strip():
            found.append(" ".join(part))
            part = []
        said = SAID.match(line)
        if said is not None:
            part.append(said[1].replace('"', ""))
        elif not line.startswith((".", "'", '\\"', '.\\"')):
            part.append(line)
    found.append(" ".join(part))
    return [text for raw in found if (text := _plain(raw))]


def _plain(raw: str) -> str:
    """Escapes of roff as what they print."""
    text = FONT.sub("", raw)
    text = SPECIAL.sub(lambda sign: SIGNS.get(sign[1] or sign[2], ""), text)
    text = re.sub(r"\\[ ~0]", " ", text).replace("\\-", "-").replace("\\e", "\\\\")
    text = REFERENCE.sub("", re.sub(r"\\([^\\])", r"\1", text))
    return " ".join(text.split())
