"""The parts of the Dataset page: which audit, what it found, by slice, spread out, and text by text.

Whatever is clicked in a chart ends in the selector beside it. Texts of people are only ever shown as
plain text.
"""

import pandas as pd
import streamlit as st

from app.charts import audit as audit_charts
from app.components.shared.download import export
from app.components.shared.keeping import permalink
from app.export.provenance import about_here
from app.state import records
from app.text import Words, plain
from saa_core.audit.figures import About, Bar, SliceFigures, audits, cases, distribution

LISTED = 200
"""Most texts of a bar in the table."""
LONGEST = 300
"""Characters of a text in the table."""


def choose_audit(words: Words) -> About | None:
    """The audit that is looked at; None if the store has none."""
    found = {each.key: each for each in records.answer(audits)}
    if not found:
        return None
    state = st.session_state
    if state.get("audit") not in found:
        state.pop("audit", None)
    key = st.selectbox(
        words("dataset.audit"),
        list(found),
        format_func=lambda key: words(
            "dataset.one",
            key=key,
            model=found[key].model,
            policy=found[key].policy,
            texts=found[key].texts,
        ),
        on_change=_elsewhere,
        key="audit",
    )
    return found[key]


def summary(which: About, whole: SliceFigures, words: Words) -> None:
    """One sentence, and four figures with what they mean."""
    same = "labels" if which.labels else "words"
    st.markdown(
        "### "
        + words(
            f"dataset.verdict_{same}",
            texts=whole.texts,
            same=words.percent(whole.agreement, 1),
            saved=words.percent(1 - (whole.token_share if which.labels else whole.density)),
        )
    )
    columns = st.columns(4)
    spread = words(
        f"dataset.spread_{same}",
        low=words.percent(whole.low, 1),
        high=words.percent(whole.high, 1),
    )
    figures = [
        ("texts", f"{whole.texts:,}", words("dataset.texts_means")),
        ("density", words.percent(whole.density, 1), words("dataset.density_means")),
        (f"{same}_same", words.percent(whole.agreement, 1), spread),
        ("lost", words("dataset.points", value=100 * whole.lost), words("dataset.lost_means")),
    ]  # fmt: skip
    for column, (name, value, means) in zip(columns, figures, strict=True):
        column.metric(words(f"dataset.{name}"), value)
        column.caption(means)


def slices(which: About, rows: list[SliceFigures], words: Words) -> str:
    """What moved by slice; the chosen slice."""
    state, names = st.session_state, [row.name for row in rows]
    if state.get("slice") not in names:
        state.pop("slice", None)
    st.subheader(words("dataset.slices_header"), anchor="slices")
    st.caption(words("dataset.slices_labels" if which.labels else "dataset.slices_words"))
    part: str = st.selectbox(
        words("dataset.slice"),
        names,
        format_func=lambda name: words(f"slice.{name.replace(' ', '_')}"),
        on_change=_elsewhere,
        key="slice",
    )
    key = f"slices-{state.get('dataset_moves', 0)}"
    dark = st.context.theme.type == "dark"
    chart = audit_charts.by_slice(rows, which.labels, part, words, dark)
    st.altair_chart(
        chart,
        key=key,
        on_select=lambda: choose_slice(state[key], names),
        selection_mode="slice",
    )
    export("slices", words("dataset.slices_header"), words, _about(which), chart=chart)
    return part


def spread(which: About, part: str, words: Words) -> tuple[str, int | None]:
    """How a figure is spread over the texts of a slice; the figure and the chosen bar."""
    state = st.session_state
    st.subheader(words("dataset.spread_header"), anchor="spread")
    st.caption(words("dataset.spread_caption"))
    left, right = st.columns(2)
    # Of labels a text's agreement is yes or no; how much was lost says more.
    measures = (
        ("lost", "token_share", "density") if which.labels else ("agreement", "lost", "density")
    )
    measure: str = left.selectbox(
        words("dataset.measure"),
        measures,
        format_func=lambda name: words(f"dataset.{name}"),
        on_change=_elsewhere,
        key="spread_of",
    )
    bars = records.answer(distribution, which.key, measure, part)
    filled = [at for at, bar in enumerate(bars) if bar.texts]
    if state.get("bar") not in filled:
        state.pop("bar", None)
    bar: int | None = right.selectbox(
        words("dataset.bar"),
        [None, *filled],
        format_func=lambda at: words("dataset.all_bars") if at is None else _name(bars[at], words),
        on_change=_move,
        key="bar",
    )
    key = f"bars-{state.get('dataset_moves', 0)}"
    dark = st.context.theme.type == "dark"
    chart = audit_charts.distribution(bars, bar, words(f"dataset.{measure}"), words, dark)
    st.altair_chart(
        chart,
        key=key,
        on_select=lambda: choose_bar(state[key], filled),
        selection_mode="bar",
    )
    about = _about(which, slice=part, measure=measure)
    export("spread", words("dataset.spread_header"), words, about, chart=chart)
    return measure, bar


def texts(which: About, part: str, measure: str, bar: int | None, words: Words) -> None:
    """The texts of the chosen bar, worst first, each with a link to its run."""
    found = records.answer(cases, which.key, part=part, measure=measure, bar=bar, limit=LISTED + 1)
    st.subheader(words("dataset.texts_header"), anchor="texts")
    more = len(found) > LISTED
    st.caption(words("dataset.more" if more else "dataset.listed", count=min(len(found), LISTED)))
    rows = [
        {
            "link": permalink(case.id, words),
            "text": " ".join(case.text.split())[:LONGEST],
            "tokens": case.tokens,
            "density": case.density,
            **(
                {"dense_label": case.dense_label, "label": case.label}
                if which.labels
                else {"agreement": case.agreement}
            ),
            "lost": case.lost,
            "id": case.id,
        }
        for case in found[:LISTED]
    ]
    percent = {
        name: st.column_config.NumberColumn(words(f"dataset.{name}"), format="percent")
        for name in ("density", "agreement", "lost")
    }
    st.dataframe(
        rows,
        hide_index=True,
        width="stretch",
        column_config={
            "link": st.column_config.LinkColumn(
                words("traces.link"), display_text=words("traces.open_link"), width="small"
            ),
            "text": st.column_config.TextColumn(words("dataset.text"), width="large"),
            "tokens": words("dataset.tokens"),
            "dense_label": words("dataset.dense_label"),
            "label": words("dataset.label"),
            **percent,
        },
        key="audited_texts",
    )
    about = _about(which, slice=part, measure=measure, bar=bar)
    export("texts", words("dataset.texts_header"), words, about, rows=pd.DataFrame(rows))
    st.caption(words("dataset.in_sql", key=plain(which.key)))


def choose_slice(event: object, names: list[str]) -> None:
    """A bar of a slice was clicked."""
    points = event["selection"].get("slice")  # type: ignore[index]
    if points and points[0].get("slice") in names:
        st.session_state.slice = points[0]["slice"]
        _elsewhere()


def choose_bar(event: object, filled: list[int]) -> None:
    """A bar of the distribution was clicked."""
    points = event["selection"].get("bar")  # type: ignore[index]
    if points and points[0].get("bar") in filled:
        st.session_state.bar = int(points[0]["bar"])
        _move()


def _move() -> None:
    """A chart that is asked twice for the same bar stays silent; a new key makes it new."""
    st.session_state.dataset_moves = st.session_state.get("dataset_moves", 0) + 1


def _elsewhere() -> None:
    """Another audit, slice or figure: the chosen bar is not one of it."""
    st.session_state.pop("bar", None)
    _move()


def _about(which: About, **chosen: object) -> dict[str, object]:
    """Where the figures come from, for whoever takes them away."""
    about = {"audit": which.key, "model": which.model, "policy": which.policy, "texts": which.texts}
    return about_here(**about, **chosen)


def _name(bar: Bar, words: Words) -> str:
    digits = 2 if bar.high - bar.low < 0.0095 else 0
    return words(
        "dataset.bar_named",
        low=f"{100 * bar.low:.{digits}f}",
        high=f"{100 * bar.high:.{digits}f}",
        texts=bar.texts,
    )
