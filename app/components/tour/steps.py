"""The tour: one mail read densely and with SAA, the word that was dropped, and what comes of keeping it.

Every step shows recorded runs, those of the presentation for engineers; no model is loaded.
"""

import base64
import functools
import html
from dataclasses import dataclass

import streamlit as st

import saa_core as saa
from app.charts import map_picture
from app.charts.label import bars_of_labels
from app.charts.palette import palette
from app.components.shared.outcome import ask_of
from app.components.strips.text_strip import pieces
from app.state import address as link
from app.state.stories import newest
from app.text import Words, plain
from saa_core import Trace
from saa_core.data import fetch

STEPS = ("read", "score", "drop", "wrong", "word", "keep", "back")
LAYER, HEAD, KEY = 4, 4, 5
"""The head that is drawn, and the token that the last step keeps, as in the presentation."""
MODEL = "minilm + spam"


@dataclass(frozen=True, eq=False)
class Runs:
    """The same text, read densely, by SAA, and by SAA with one word kept by a person."""

    dense: Trace
    saa: Trace
    kept: Trace


@functools.cache
def runs() -> Runs:
    folder = fetch.assets() / "decks"
    files = [newest(folder, name) for name in ("mail_dense", "mail", "mail_forced")]
    assert all(files), "the tour's runs are missing: python -m benchmarks.page.decks"
    return Runs(*(saa.Trace.load(file) for file in files if file is not None))


def choose_step(words: Words) -> str:
    """Buttons and keys to step with, and the step that they lead to."""
    state, last = st.session_state, len(STEPS) - 1
    if "tour" not in state or link.went_back():
        asked = st.query_params.get("tour", "")
        state.tour = int(asked) - 1 if asked.isascii() and asked.isdigit() else 0
    at = state.tour = min(max(0, state.tour), last)
    back, place, following, leave = st.columns([2, 4, 2, 2], vertical_alignment="center")
    place.progress((at + 1) / len(STEPS), text=words("tour.place", step=at + 1, steps=len(STEPS)))
    for column, name, key, target in (
        (back, "earlier", "PageUp", at - 1),
        (following, "later", "PageDown", at + 1),
    ):
        column.button(
            words(f"tour.{name}"),
            on_click=go,
            args=(target,),
            disabled=not 0 <= target <= last,
            key=f"tour_{name}",
            shortcut=key,
            type="primary" if name == "later" else "secondary",
            width="stretch",
        )
    with leave:
        st.page_link("views/explore.py", label=words("tour.leave"))
    link.write(lang=words.lang, tour=at + 1)
    return STEPS[at]


def go(step: int) -> None:
    st.session_state.tour = step


def draw(step: str, words: Words) -> None:
    """Title and sentence of a step, and beside the mail what belongs to it."""
    known, dark = runs(), st.context.theme.type == "dark"
    st.header(words(f"tour.{step}_title"), anchor="step")
    st.markdown(words(f"tour.{step}", **_fields(known, words)))
    left, right = st.columns([3, 2], gap="large")
    with left:
        _mail(known.saa, step, words)
        if step == "keep":
            st.button(
                words("tour.keep_button", word=_word(known)),
                on_click=go,
                args=(STEPS.index("back"),),
                key="tour_keep",
                type="primary",
            )
        if step == "back":
            st.button(
                words("tour.here"), on_click=ask_of, args=(MODEL, known.saa.text or ""), key="here"
            )
    with right:
        if step in ("wrong", "back"):
            _labels(known, step, words, dark)
        else:
            _map(known, step, words, dark)


def _fields(known: Runs, words: Words) -> dict[str, object]:
    """What the sentences of all steps may say, taken from the runs."""
    column = known.saa.keep_map(LAYER, HEAD)[:, KEY]
    far = known.saa.reason_map(LAYER, HEAD)[:, KEY]
    decided = [saa.REASONS[code] in ("gate", "below") for code in far]
    return {
        "word": _word(known),
        "tokens": known.saa.keys,
        "pairs": int(known.saa.allowed_pairs[LAYER]),
        "dropped": words.percent(known.saa.sparsity),
        "dropped_kept": words.percent(known.kept.sparsity),
        "dense": _label(known.dense),
        "dense_sure": _sure(known.dense, words),
        "saa": _label(known.saa),
        "saa_sure": _sure(known.saa, words),
        "kept": _label(known.kept),
        "kept_sure": _sure(known.kept, words),
        "readers": sum(decided),
        "reading": int(column[decided].sum()),
    }


def _word(known: Runs) -> str:
    return plain(pieces(known.saa)[KEY].strip())


def _label(trace: Trace) -> str:
    return plain(trace.label or "")


def _sure(trace: Trace, words: Words) -> str:
    assert trace.label_probs is not None
    return words.percent(float(trace.label_probs.max()))


def _mail(trace: Trace, step: str, words: Words) -> None:
    """The text; from the step that names it on, with the word marked."""
    marked = step in ("word", "keep", "back")
    colour = palette(st.context.theme.type == "dark").kept
    shown = []
    for at, piece in enumerate(pieces(trace)):
        safe = html.escape(piece).replace("\n", "<br>")
        if at in (0, trace.keys - 1):  # what the tokenizer adds
            continue
        mark = marked and at == KEY
        style = f"background:{colour}44;outline:2px solid {colour};border-radius:2px;color:inherit"
        shown.append(f'<mark style="{style}">{safe}</mark>' if mark else safe)
    st.html(
        '<div style="border:1px solid var(--st-border-color,#8884);border-radius:6px;padding:1rem;'
        f'line-height:1.75;font-size:1.05rem">{"".join(shown)}</div>'
    )


def _map(known: Runs, step: str, words: Words, dark: bool) -> None:
    """The pairs of one head: all of them, what the gate expects of each, and those that are left."""
    if step == "read":
        png = map_picture.full_png(known.saa, LAYER, dark)
    elif step == "score":
        png = map_picture.score_png(known.saa, LAYER, HEAD, dark)
    else:
        png = map_picture.overview_png(known.saa, LAYER, HEAD, dark)
    about = words(f"tour.map_{step if step in ('read', 'score') else 'drop'}")
    column = ""
    if step in ("word", "keep"):
        ink, width = palette(dark).changed, 100 / known.saa.keys
        column = (
            f'<div style="position:absolute;top:0;bottom:0;left:{(KEY - 0.5) * width:.2f}%;'
            f'width:{2 * width:.2f}%;outline:2px solid {ink}"></div>'
        )
    image = base64.b64encode(png).decode()
    st.html(
        '<div style="position:relative;max-width:24rem">'
        f'<img src="data:image/png;base64,{image}" alt="{about}" '
        f'style="display:block;width:100%;image-rendering:pixelated">{column}</div>'
    )
    st.caption(about)


def _labels(known: Runs, step: str, words: Words, dark: bool) -> None:
    """How probable each label is, in every run so far."""
    colours = palette(dark)
    sides = {words("labels.dense"): known.dense, words("labels.saa"): known.saa}
    used = [colours.dense, colours.kept]
    if step == "back":
        sides[words("tour.side_kept", word=_word(known))] = known.kept
        used.append(colours.kept_always)
    st.altair_chart(bars_of_labels(sides, used, words), key="tour_labels")
