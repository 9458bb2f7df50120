"""A visitor's own table, audited with the setting of the sidebar: what will be run, progress, cancel.

What ran is in the store, so that whoever cancels, or comes back tomorrow, goes on where it stopped.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

import saa_core as saa
from app.components.shared.resumable import resumable
from app.components.sidebar.choice import request
from app.service import Client
from app.state import records, session
from app.state.uploads import from_file
from app.text import Words, plain
from saa_core.audit.audit import Done, audit_name
from saa_core.audit.table import ROWS, ColumnTexts, read_texts, text_columns
from saa_core.audit.texts import CheckedTexts
from saa_core.data.tables import is_table

T = TypeVar("T")
TABLES = [
    kind
    for kind in ("csv", "tsv", "json", "jsonl", "ndjson", "parquet")
    if is_table(Path(f"table.{kind}"))
]
"""Endings of the tables that can be brought: every format of the one reader."""
MEGABYTES = 200
"""Largest file that is taken."""
WINDOWS = (64, 128, 256, 512)
"""Tokens of a window of a plain text."""
LONGEST_STEM = 30
"""Characters of a file's name in the name of its audit; a digest follows."""
KEPT = 4
"""Audits of this visit that know how far they are."""


@dataclass(frozen=True)
class Corpus:
    """What will be audited: the name of the audit, what was read, and what of it the model runs."""

    name: str
    read: ColumnTexts
    checked: CheckedTexts
    cut: bool


def upload(choice: session.Choice, client: Client, expanded: bool, words: Words) -> None:
    """The section: a file, what of it will be run, and the button; what ran is what the page shows.

    Args:
        expanded: drawn open, also without a file.
    """
    is_open = expanded or st.session_state.get("table") is not None
    with st.expander(words("upload.header"), expanded=is_open, icon=":material/upload_file:"):
        if choice.model is None:
            asked = st.session_state.get("requested")
            key = "recorded" if choice.stored else "no_model" if asked else "on_request"
            st.caption(words(f"upload.{key}"))
            if key == "on_request":
                st.button(words("upload.request"), on_click=request, key="request")
            return
        if not choice.model.causal and choice.model.task is None:
            st.info(words("upload.no_results", model=plain(choice.name)))
            return
        asked = {"model": plain(choice.name), "policy": plain(str(choice.policy))}
        st.markdown(words("upload.about", **asked))
        file = st.file_uploader(
            words("upload.file"),
            type=[*TABLES, "txt"],
            key="table",
            max_upload_size=MEGABYTES,
            help=words("upload.file_help", rows=ROWS),
        )
        if file is None:
            return
        try:
            corpus = _corpus(file, choice, choice.model, client, words)
        except saa.TextError as error:
            st.error(words("upload.unreadable", name=plain(file.name)))
            with st.expander(words("error.detail")):
                st.text(str(error))
            return
        _say(corpus, choice.model, words)
        if corpus.checked.texts:
            _run(corpus, choice, client, words)


def _corpus(
    file: UploadedFile, choice: session.Choice, model: saa.Model, client: Client, words: Words
) -> Corpus:
    """What is read and can be run, by the widgets that say how.

    Raises:
        TextError: the file cannot be read, or has no texts.
    """
    state = st.session_state

    def read(reader: Callable[[Path], T]) -> T:
        return from_file(file.name, file.getvalue(), reader)

    part: str | int
    if Path(file.name).suffix.lower() == ".txt":
        lengths = [length for length in WINDOWS if length <= model.max_length]
        length: int = st.selectbox(
            words("upload.length"),
            lengths,
            index=min(1, len(lengths) - 1),
            key="table_length",
            help=words("upload.length_help"),
        )
        part = length
        found = _once(
            "table_texts",
            (file.file_id, choice.name, length),
            lambda: read(lambda path: client.windows(choice.name, path, length)),
        )
    else:
        columns = _once("table_columns", file.file_id, lambda: read(text_columns))
        if state.get("table_column") not in columns:
            state.pop("table_column", None)
        column: str = columns[0]
        if len(columns) > 1:
            column = st.selectbox(words("upload.column"), columns, key="table_column")
        part = column
        found = _once(
            "table_texts",
            (file.file_id, column),
            lambda: read(lambda path: read_texts(path, column)),
        )
    cut = state.get("table_cut", True)
    checked = _once(
        "table_checked",
        (file.file_id, part, choice.name, cut),
        lambda: client.check_texts(choice.name, found.texts, cut),
    )
    if checked.long:
        st.checkbox(
            words("upload.cut", limit=model.max_length),
            value=True,
            key="table_cut",
            help=words("upload.cut_help"),
        )
    # Of the texts themselves: another table of the same name is another audit.
    seen = hashlib.sha256(repr(checked.texts).encode()).hexdigest()[:4]
    stem = audit_name(Path(file.name).stem)[:LONGEST_STEM]
    return Corpus(f"{stem}-{seen}", found, checked, cut)


def _once(place: str, key: object, make: Callable[[], T]) -> T:
    """What was made for this key, kept for this visitor until another is asked for."""
    kept: tuple[object, T] | None = st.session_state.get(place)
    if kept is None or kept[0] != key:
        kept = key, make()
        st.session_state[place] = kept
    return kept[1]


def _say(corpus: Corpus, model: saa.Model, words: Words) -> None:
    """How many texts will be run, and what becomes of the other rows."""
    read, checked = corpus.read, corpus.checked
    counted = {"rows": read.rows, "texts": len(checked.texts)}
    lines = [f"**{words('upload.will_run' if checked.texts else 'upload.none', **counted)}**"]
    if read.more:
        lines.append(words("upload.first_rows", rows=read.rows))
    long = "long_cut" if corpus.cut else "long_left"
    for name, count in (
        ("empty", read.empty),
        (long, checked.long),
        ("twice", checked.twice),
        ("invalid", checked.invalid),
    ):
        if count:
            lines.append(words(f"upload.{name}", count=count, limit=model.max_length))
    st.markdown("\n- ".join(lines))


def _run(corpus: Corpus, choice: session.Choice, client: Client, words: Words) -> None:
    """The button, or the progress; what ran is chosen as the audit that the page shows."""
    state, texts = st.session_state, corpus.checked.texts
    wanted = (choice.name, choice.policy, corpus.name)
    kept = state.setdefault("uploads", {})
    found: list[Done] = kept.setdefault(wanted, [])
    for old in [key for key in kept if key != wanted][: 1 - KEPT]:
        del kept[old]
    resumable(
        "upload",
        wanted,
        found,
        len(texts),
        lambda: client.audit(
            choice.name, choice.policy, records.store(), corpus.name, texts[len(found) :]
        ),
        words,
        texts=len(texts) - len(found),
    )
    if not found or state.get("upload_running") == wanted:
        return
    key, count = found[0].audit, len(found)
    done = {"done": count, "total": len(texts), "key": plain(key)}
    if count < len(texts):
        st.warning(words("upload.partial", **done))
    else:
        st.success(words("upload.finished", **done))
    if state.get("upload_shown") != (key, count):
        state["upload_shown"], state["audit"] = (key, count), key
        for place in ("slice", "bar", "against"):
            state.pop(place, None)
