"""Two audits of one corpus beside each other: what became another label or word, where, and in which texts."""

from collections.abc import Sequence
from urllib.parse import urlencode

import pandas as pd
import streamlit as st

from app.charts import audit as audit_charts
from app.components.shared.download import export
from app.export.provenance import about_here
from app.live.models import MODELS
from app.service import Client
from app.state import address as link
from app.state import records, session
from app.text import Words, plain
from saa_core.audit.comparison import (
    ChangedText,
    Move,
    Partner,
    Setting,
    SliceChange,
    changed_texts,
    changes_by_slice,
    moves,
    partners,
    setting,
)
from saa_core.audit.figures import About

LISTED = 50
"""Most texts in the list."""
MOVES = 20
"""Most changes of a label or a word in the table."""
LONGEST = 300
"""Characters of a text in the table."""


def compare(which: About, choice: session.Choice, client: Client, words: Words) -> None:
    """The section: the other audit, what changed by kind of text, what became what, and the texts."""
    st.subheader(words("against.header"), anchor="against")
    found = {partner.audit.key: partner for partner in records.answer(partners, which)}
    if not found:
        st.caption(words("against.nothing"))
        return
    other = _choose(found, words)
    if other is None:
        st.caption(words("against.about"))
        return
    rows = records.answer(changes_by_slice, which, other)
    if not rows:
        st.info(words("against.no_common"))
        return
    _verdict(which, other, rows[0], words)
    left, right = st.columns([2, 3], gap="large")
    about = about_here(
        audit=which.key, against=other.key, model=which.model, policies=[which.policy, other.policy]
    )
    with right:
        part = _by_slice_table(which, rows, about, words)
    with left:
        dark = st.context.theme.type == "dark"
        chart = audit_charts.changed_by_slice(rows, which.labels, part, words, dark)
        st.altair_chart(chart, key="changed_slices")
        export("changed", words("against.header"), words, about, chart=chart)
    if not rows[0].changed:
        return
    _moves(which, other, part, about, choice, client, words)
    _texts(which, other, part, about, words)


def _choose(found: dict[str, Partner], words: Words) -> About | None:
    state = st.session_state
    if state.get("against") not in found:
        state.pop("against", None)
    key = st.selectbox(
        words("against.other"),
        list(found),
        index=None,
        placeholder=words("against.choose"),
        format_func=lambda key: words(
            "against.one",
            key=key,
            model=found[key].audit.model,
            policy=found[key].audit.policy,
            shared=found[key].shared,
        ),
        key="against",
    )
    return None if key is None else found[key].audit


def _verdict(first: About, second: About, whole: SliceChange, words: Words) -> None:
    kind = "labels" if first.labels else "words"
    st.markdown(
        "### "
        + words(
            f"against.verdict_{kind}",
            texts=whole.texts,
            changed=whole.changed,
            share=words.percent(whole.share, 1),
            low=words.percent(whole.low, 1),
            high=words.percent(whole.high, 1),
            moved=words.percent(whole.words or 0.0, 1),
        )
    )
    for side, audit in (("a", first), ("b", second)):
        named = {"model": plain(audit.model), "policy": plain(audit.policy)}
        st.caption(words(f"against.side_{side}", key=plain(audit.key), **named))


def _by_slice_table(
    which: About, rows: Sequence[SliceChange], about: dict[str, object], words: Words
) -> str:
    """Counts, shares and intervals; the chosen kind of text, of which the rest of the section is."""
    names = [row.name for row in rows]
    if st.session_state.get("against_slice") not in names:
        st.session_state.pop("against_slice", None)
    part: str = st.selectbox(
        words("dataset.slice"),
        names,
        format_func=lambda name: _slice(name, words),
        key="against_slice",
    )
    table = pd.DataFrame([_row(row, which.labels, words) for row in rows])
    st.dataframe(table, hide_index=True, width="stretch", key="changed_table")
    kind = "labels" if which.labels else "words"
    st.caption(words(f"against.interval_{kind}"))
    export("changed-slices", words("against.header"), words, about, rows=table)
    return part


def _row(row: SliceChange, labels: bool, words: Words) -> dict[str, object]:
    found: dict[str, object] = {
        words("dataset.slice"): _slice(row.name, words),
        words("dataset.texts"): row.texts,
    }
    if row.words is not None:
        found[words("against.words_moved")] = words.percent(row.words, 1)
    changed = words("against.labels_changed" if labels else "against.texts_changed")
    low, high = words.percent(row.low), words.percent(row.high)
    return found | {
        changed: row.changed,
        words("against.share"): f"{words.percent(row.share, 1)} ({low} – {high})",
    }


def _slice(name: str, words: Words) -> str:
    return words(f"slice.{name.replace(' ', '_')}")


def _moves(
    which: About,
    other: About,
    part: str,
    about: dict[str, object],
    choice: session.Choice,
    client: Client,
    words: Words,
) -> None:
    """Which label, or next word, became which."""
    found = records.answer(moves, which, other, part, MOVES)
    kind = "labels" if which.labels else "words"
    st.markdown(f"**{words(f'against.moves_{kind}', part=_slice(part, words))}**")
    if not found:
        st.caption(words("against.same_here"))
        return
    names = _names(found, which, choice, client, words)
    if names is None:
        st.caption(words("against.spell", model=plain(which.model)))
        return
    rows = [
        {
            "before": names[move.before],
            "after": names[move.after],
            "count": move.count,
            "texts": move.texts,
        }
        for move in found
    ]
    config = {
        "before": words("against.before"),
        "after": words("against.after"),
        "count": words("against.times"),
        # One label per text: how many texts is what the number of times says already.
        "texts": None if which.labels else words("dataset.texts"),
    }
    st.dataframe(rows, hide_index=True, column_config=config, key="moves", width="content")
    export("moves", words("against.header"), words, about, rows=pd.DataFrame(rows))


def _names(
    found: Sequence[Move], which: About, choice: session.Choice, client: Client, words: Words
) -> dict[str | int, str] | None:
    """Labels by themselves; next words as the model in the sidebar writes them, None if it is another."""
    sides = list(dict.fromkeys(side for move in found for side in (move.before, move.after)))
    if which.labels:
        return {side: str(side) for side in sides}
    if choice.model is None or choice.model.spec.name != which.model.partition(" + ")[0]:
        return None
    written = client.spell(choice.name, [int(side) for side in sides])
    shown = {}
    for side, word in zip(sides, written, strict=True):
        if "\N{REPLACEMENT CHARACTER}" in word:  # some bytes of a character
            shown[side] = words("against.piece", token=side)
        else:  # a space could not be seen, nor told from none
            shown[side] = (word if word.strip() else repr(word)[1:-1]).replace(" ", "␣")
    return shown


def _texts(which: About, other: About, part: str, about: dict[str, object], words: Words) -> None:
    """The texts that changed, each with a way to both runs and to the Compare page."""
    found = records.answer(changed_texts, which, other, part, LISTED + 1)
    if not found:
        return
    count = min(len(found), LISTED)
    more = "more" if len(found) > LISTED else "listed"
    st.markdown(f"**{words('against.texts_header', part=_slice(part, words))}**")
    st.caption(words(f"against.{more}", count=count))
    settings = records.answer(setting, which), records.answer(setting, other)
    rows = [_listed(each, settings, which.labels, words) for each in found[:LISTED]]
    open_in = {
        name: st.column_config.LinkColumn(
            words(f"against.open_{name}"), display_text=words("traces.open_link"), width="small"
        )
        for name in ("a", "b", "both")
    }
    if all(row["both"] is None for row in rows):
        open_in["both"] = None
    st.dataframe(
        rows,
        hide_index=True,
        width="stretch",
        column_config={
            **open_in,
            "text": st.column_config.TextColumn(words("dataset.text"), width="large"),
            "tokens": words("dataset.tokens"),
            "dense": words("against.dense"),
            "before": words("against.before"),
            "after": words("against.after"),
            "words": st.column_config.NumberColumn(words("against.words_moved"), format="percent"),
            "lost": st.column_config.NumberColumn(words("against.lost"), format="percent"),
        },
        key="changed_texts",
    )
    export("changed-texts", words("against.header"), words, about, rows=pd.DataFrame(rows))
    if open_in["both"] is not None:
        st.caption(words("against.compare_live"))


def _listed(
    each: ChangedText, settings: tuple[Setting, Setting], labels: bool, words: Words
) -> dict[str, object]:
    moved: dict[str, object] = {"words": each.words}
    if labels:
        moved = {"dense": each.dense, "before": each.before, "after": each.after}
    return {
        "a": explore_address(each.first, words),
        "b": explore_address(each.second, words),
        "both": compare_address(each.text, *settings, words),
        "text": " ".join(each.text.split())[:LONGEST],
        "tokens": each.tokens,
        **moved,
        "lost": each.lost,
    }


def explore_address(run: str, words: Words) -> str:
    """Where Explore shows a stored run."""
    return "/?" + urlencode({"trace": run, "lang": words.lang})


def compare_address(text: str, first: Setting, second: Setting, words: Words) -> str | None:
    """Where the Compare page runs both settings on a text; None where an address cannot say it: another
    gate or model than those of the list, a long text, an aim that no slider has."""
    if len(text.encode("utf-8", "replace")) > link.LONGEST_TEXT:
        return None
    if first.model == second.model and first.gate != second.gate:
        return None
    asked = {"lang": words.lang, "text": text, "model": first.model, "b_how": "saa"}
    if second.model != first.model:
        asked["b_model"] = second.model
    for side, prefix in ((first, ""), (second, "b_")):
        if side.model not in MODELS or not side.trained:
            return None
        if side.rule not in link.AIMS or side.aim is None:
            return None
        low, high = link.AIMS[side.rule]
        if not low <= round(side.aim, 2) <= high:
            return None
        asked[prefix + side.rule] = f"{side.aim:.2f}"
        if side.tokens is not None:
            asked[f"{prefix}tokens"] = f"{side.tokens:.2f}"
    return "/compare?" + urlencode(asked)
