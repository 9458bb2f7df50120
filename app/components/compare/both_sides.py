"""Two runs beside each other, read and not explored: sentence, figures, texts and outputs."""

import numpy as np
import pandas as pd
import streamlit as st

from app.charts import difference as difference_charts
from app.charts import label as label_charts
from app.charts.palette import palette
from app.charts.token_labels import labels, visible
from app.components.shared.continuations import mark
from app.components.shared.download import export
from app.export.provenance import about_pair
from app.live.values import Compared
from app.text import Words, plain
from saa_core import Trace

MOVED = 8
"""Positions listed at which the output moved most."""


def verdict(compared: Compared, words: Words) -> None:
    """One sentence: how much was decided differently, and whether the outcome is the same."""
    first, second = compared.traces
    if compared.decisions is None:
        st.header(words("compare.verdict_apart"), anchor="verdict")
        st.info(words("compare.apart"))
        return
    differs = words.percent(_differing(compared))
    if first.labels is not None and first.labels == second.labels:
        same = first.label == second.label
        outcome = words(
            "compare.label_same" if same else "compare.label_differs",
            a=plain(first.label or ""),
            b=plain(second.label or ""),
        )
    elif compared.output is not None and compared.output.top1_agreement is not None:
        share = float(compared.output.top1_agreement.mean())
        outcome = words("compare.next_share", share=words.percent(share))
    else:
        assert compared.output is not None
        outcome = words("verdict.embedding", cosine=compared.output.embedding_cosine)
    st.header(words("compare.verdict", share=differs, outcome=outcome), anchor="verdict")


def _differing(compared: Compared) -> float:
    found = compared.decisions
    assert found is not None
    total = int(found.pairs.sum()) * found.both.shape[1]
    return int((found.only_first + found.only_second).sum()) / max(total, 1)


def figures(compared: Compared, words: Words) -> None:
    """What each side kept and said, as one table with a column per side."""
    rows = [(words(f"compare.row_{name}"), *values) for name, values in _rows(compared, words)]
    titles = [words("measured.row"), words("compare.a"), words("compare.b")]
    table = pd.DataFrame(rows, columns=titles)
    st.dataframe(table, hide_index=True, width="stretch")
    export("figures", words("page.compare"), words, about_pair(*compared.traces), rows=table)
    found = compared.decisions
    if found is None:
        return
    pairs = max(int(found.pairs.sum()) * found.both.shape[1], 1)
    st.caption(
        words(
            "compare.counted",
            pairs=pairs,
            only_a=words.percent(int(found.only_first.sum()) / pairs, 1),
            only_b=words.percent(int(found.only_second.sum()) / pairs, 1),
            both=words.percent(int(found.both.sum()) / pairs, 1),
        )
    )


def _rows(compared: Compared, words: Words) -> list[tuple[str, tuple[str, str]]]:
    missing = words("measured.not_recorded")

    def of(trace: Trace) -> dict[str, str]:
        held = trace.retained_mass
        return {
            "model": f"{trace.model.name}, {trace.model.gate}"
            + ("" if trace.model.trained else f" ({words('sidebar.untrained')})"),
            "policy": words("measured.policy_dense") if trace.policy is None else str(trace.policy),
            "tokens": f"{trace.keys:,}",
            "kept": words.percent(1 - trace.sparsity, 1),
            "held": missing if held is None else words.percent(float(held.mean()), 1),
            "label": ""
            if trace.label_probs is None
            else f"{trace.label} ({words.percent(float(trace.label_probs.max()), 1)})",
            "work": words.percent(trace.token_share, 1),
        }

    a, b = (of(trace) for trace in compared.traces)
    names = [name for name in a if name != "label" or a[name] or b[name]]
    if all(trace.kept_tokens is None for trace in compared.traces):
        names.remove("work")
    return [(name, (a[name], b[name])) for name in names]


def texts(compared: Compared, words: Words) -> None:
    """Two texts that differ, words put in and taken out marked."""
    first, second = compared.sides
    if first.text == second.text:
        return
    st.subheader(words("compare.texts_header"), anchor="texts")
    alignment = compared.alignment
    if alignment is not None:
        st.caption(
            words(
                "compare.aligned",
                edits=len(alignment.edits),
                aligned=len(alignment.first),
                a=compared.traces[0].keys,
                b=compared.traces[1].keys,
            )
        )
    colours = palette(st.context.theme.type == "dark")
    marked = zip(mark(first.text, second.text), ("a", "b"), strict=True)
    for column, (shown, side) in zip(st.columns(2), marked, strict=True):
        colour = colours.only_a if side == "a" else colours.only_b
        style = f'<mark style="background:{colour}55;color:inherit">'
        place = column.container(border=True, height="stretch")
        place.markdown(f"**{words(f'compare.{side}')}**")
        body = shown.replace("<mark>", style).replace("\n", "<br>")
        place.html(f'<p style="margin:0;max-height:16rem;overflow:auto">{body}</p>')


def outputs(compared: Compared, words: Words) -> None:
    """How far the output moved: labels of a task, or next words token by token."""
    first, second = compared.traces
    dark = st.context.theme.type == "dark"
    st.subheader(words("compare.output_header"), anchor="output")
    if first.labels is not None and first.labels == second.labels:
        sides = {"a": first, "b": second}
        colours = palette(dark)
        named = {words(f"compare.{name}"): trace for name, trace in sides.items()}
        chart = label_charts.bars_of_labels(named, [colours.only_a, colours.only_b], words)
        st.altair_chart(chart, key="compared_labels")
        export(
            "labels",
            words("compare.output_header"),
            words,
            about_pair(*compared.traces),
            chart=chart,
        )
        return
    found, alignment = compared.output, compared.alignment
    if found is None or alignment is None:
        st.caption(words("compare.no_output"))
        return
    names = labels(first)
    here = [names[at] for at in alignment.first]
    about = "error" if found.kl is None else "kl"
    st.caption(words(f"compare.output_{about}"))
    chart = difference_charts.output(found, alignment.first, here, words, dark)
    st.altair_chart(chart, key="moved")
    export(
        "output", words("compare.output_header"), words, about_pair(*compared.traces), chart=chart
    )
    if found.kl is None or compared.next_words is None:
        return
    most = np.argsort(-found.kl, kind="stable")[:MOVED]
    rows = [
        {
            words("chart.position"): alignment.first[at],
            words("compare.token"): here[at],
            words("compare.next_a"): visible(compared.next_words[0][at]),
            words("compare.next_b"): visible(compared.next_words[1][at]),
            words("compare.kl_axis"): f"{found.kl[at]:.3f}",
        }
        for at in most
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch")
    export(
        "moved-most",
        words("compare.output_header"),
        words,
        about_pair(*compared.traces),
        rows=pd.DataFrame(rows),
    )
