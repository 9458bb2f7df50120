"""Mails of the SpamAssassin corpus as people wrote them, and web pages as text.

Knows nothing about labels, splits or training.
"""

import email
import html
import re
import tarfile
from collections.abc import Iterator
from email.header import decode_header, make_header
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple

MEMBER = re.compile(r"package/data/(spam|easy-ham|hard-ham)-\d/.*\.txt")
PAGE = re.compile(r"<(?:html|body|table|font|center|div)\b|<a\s+href", re.IGNORECASE)
"""Marks a web page that is declared as plain text."""


class Mail(NamedTuple):
    """``folder`` is "spam", "easy-ham" or "hard-ham"; ``text`` what the sender wrote."""

    folder: str
    subject: str
    text: str


def read(file: Path) -> Iterator[Mail]:
    """The mails of the corpus that have words of their own, in the package's order."""
    with tarfile.open(file) as package:
        for member in package:
            folder = MEMBER.fullmatch(member.name)
            content = package.extractfile(member) if folder else None
            if folder and content:
                message = email.message_from_bytes(content.read())
                if text := own_words(_part(message)):
                    yield Mail(folder[1], _subject(message), text)


def _subject(message: "Message[str, str]") -> str:
    raw = str(message["Subject"] or "")
    try:
        subject = str(make_header(decode_header(raw)))
    except (LookupError, ValueError):
        subject = raw
    return " ".join(subject.split())


def _part(message: "Message[str, str]") -> str:
    content: Any = message.get_payload()
    if isinstance(content, list):
        parts = [_part(part) for part in content]
        if message.get_content_subtype() == "alternative":
            return next((part for part in parts if part.strip()), "")
        return "\n\n".join(parts)
    if message.get_content_maintype() not in ("text", "multipart"):
        return ""
    text = _decode(message)
    if message.get_content_subtype() == "html" or PAGE.search(text):
        return without_tags(text)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decode(message: "Message[str, str]") -> str:
    raw: Any = message.get_payload(decode=True)
    declared = message.get_content_charset() or "cp1252"
    for charset in ("utf-8", "cp1252" if declared == "iso-8859-1" else declared, "cp1252"):
        try:
            return str(raw, charset)
        except (LookupError, ValueError):
            continue
    return str(raw, "latin-1")


def without_tags(page: str) -> str:
    """Regular expressions instead of html.parser, whose reading of broken pages has changed."""
    page = re.sub(r"(?is)<!--.*?-->|<(script|style|title)\b.*?</\1\s*>", "", page)
    page = re.sub(r"\s+", " ", page)
    page = re.sub(
        r"(?i)</?(?:address|blockquote|br|center|d[dlt]|div|form|h[1-6r]|li|ol|option|p|pre|table"
        r"|t[dhr]|ul)\b[^>]*>",
        "\n",
        page,
    )
    return html.unescape(re.sub(r"(?i)</?[a-z!?][^>]*>?", "", page))


FIELD = re.compile(
    r"^[ \t>|]*(?:X-[\w-]+|Received|Return-Path|Delivered-To|Message-Id|In-Reply-To|References"
    r"|Mime-Version|Content-[\w-]+|List-[\w-]+|Mailing-List|Precedence|Errors-To|Sender|Reply-To"
    r"|From|To|Cc|Bcc|Sent|Date|Subject|URL|Status|Organization|Importance|Priority|Lines"
    r"|User-Agent|Forwarded-By|Resent-[\w-]+|Thread-[\w-]+|Newsgroups)"
    r"[ \t]*:.*(?:\n[ \t]+\S.*)*\n?|^[ \t]*From \S+@\S+ .*\d{4}[ \t]*$",
    re.MULTILINE | re.IGNORECASE,
)
"""A header line, its folded lines included: of forwarded mails, of mails with broken headers, and
the "URL:" and "Date:" that a feed reader put before every entry."""
QUOTED = re.compile(
    r"(?:^On .*\n)?^.*\b(?:wrote|writes|mentioned):[ \t]*$|^[ \t]*[>|].*$"
    r"|^[ \t]*-+ *Original Message *-+(?s:.*)"
    r"|^-----BEGIN PGP SIGNED MESSAGE-----\n(?:Hash:.*)?|^\[IMG: .*\]$"
    r"|^-----BEGIN PGP SIGNATURE-----(?s:.*?)(?:-----END PGP SIGNATURE-----|\Z)",
    re.MULTILINE | re.IGNORECASE,
)
SIGNATURE = re.compile(r"^--[ \t]*\n(?:.*\n){0,25}.*\Z", re.MULTILINE)
RULE = re.compile(r"^[ \t]*[-_=~*#+>]{8,}[ \t]*$", re.MULTILINE)
FOOTER = re.compile(
    r"listinfo/|mailing list\n\S+@|mailing list <\S+@|List maintainer:|sf\.net email is sponsored"
    r"|Yahoo! Groups|egroups\.com|-unsubscribe@|DeathToSpam",
    re.IGNORECASE,
)
"""Marks a paragraph that a mailing list, a spam trap or an archive added: only one class has it."""
ADDRESS = re.compile(r"[\w.+%-]+@[\w-]+(?:\.[\w-]+)+")


def own_words(body: str) -> str:
    """What the sender wrote: no header lines, quotations, signatures, list footers or addresses."""
    text = FIELD.sub("", body)
    text = QUOTED.sub("", text)
    text = SIGNATURE.sub("", text)
    paragraphs = re.split(r"\n\s*\n", RULE.sub("\n", text))
    kept = [part.strip() for part in paragraphs if part.strip() and not FOOTER.search(part)]
    text = ADDRESS.sub("name@example.com", "\n\n".join(kept))
    return re.sub(r"[^\S\n]+", " ", re.sub(r"[\x00-\x08\x0e-\x1f\x7f]", "", text)).strip()
