"""The parts of the Traces page: import, filters and SQL, the table of runs, what is done with runs.

Whatever is clicked in the table ends in the selector of runs below it. Notes, tags and texts of people
are only ever shown as plain text.
"""

import tempfile
from pathlib import Path

import pyarrow as pa
import streamlit as st

from app.components.shared.download import export
from app.components.shared.keeping import permalink
from app.components.shared.message import failure
from app.export.provenance import about_here
from app.state import records
from app.text import Words, plain

FIRST = (
    "id, recorded, model, coalesce(policy, 'dense') AS policy, tokens, density, retained_mass, "
    "label, label_changed, note, tags"
)
COLUMNS = (
    "id",
    "recorded",
    "model",
    "policy",
    "tokens",
    "density",
    "retained_mass",
    "label",
    "label_changed",
    "note",
    "tags",
)
"""Columns that have a name in words; others are a visitor's own."""
SAVED = {
    "label_changed": (
        'SELECT runs.id, model, policy, round(100 * layers.density, 1) AS "layer 5 kept %", '
        "dense_label, label\nFROM runs JOIN layers USING (id)\n"
        "WHERE layer = 5 AND layers.density < 0.1 AND label_changed"
    ),
    "next_changed": (
        "SELECT id, model, policy, tokens, density, next_probability, text\nFROM runs\n"
        "WHERE next_changed ORDER BY next_probability DESC"
    ),
    "sparse_heads": (
        "SELECT model, layer, head, avg(heads.density) AS kept, count(*) AS runs\n"
        "FROM runs JOIN heads USING (id) WHERE policy IS NOT NULL\n"
        "GROUP BY model, layer, head ORDER BY kept LIMIT 50"
    ),
    "guard": (
        "SELECT events.id, model, layer, suspected, measured, after, done, added\n"
        "FROM events JOIN runs USING (id) WHERE suspected <> 'result'"
    ),
}
"""Statements that the page offers, by the key of their names."""
OWN = "* "
"""In front of a name that a visitor gave, so that it differs from every key."""


def import_file(words: Words) -> None:
    """Takes an uploaded file in, once."""
    with st.expander(words("traces.import")):
        file = st.file_uploader(words("traces.import_file"), type=["zip", "saa"], key="import")
        state = st.session_state
        if file is None:
            return
        if state.get("imported") != file.file_id:
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / Path(file.name).name
                copy.write_bytes(file.getvalue())
                try:
                    runs = records.store().import_(copy)
                except Exception as error:
                    failure(error, words)
                    return
            state["imported"], state["imported_runs"] = file.file_id, len(runs)
        st.success(words("traces.imported", count=state["imported_runs"]))


def list_broken(words: Words) -> None:
    """Files of the folder that cannot be read, by name."""
    found = records.store().broken()
    if found:
        st.warning(words("traces.broken", count=len(found)))
        with st.expander(words("error.detail")):
            st.text("\n".join(f"{run}.saa: {reason}" for run, reason in found.items()))


def ask(words: Words) -> pa.Table | None:
    """The rows that filters or a statement ask for; None if it cannot be run."""
    way = st.segmented_control(
        words("traces.way"),
        ("filter", "sql"),
        default="filter",
        required=True,
        format_func=lambda name: words(f"traces.way_{name}"),
        key="way",
        label_visibility="collapsed",
    )
    try:
        return records.select(_filter(words) if way == "filter" else _statement(words))
    except Exception as error:
        failure(error, words)
        return None


def _filter(words: Words) -> str:
    """A statement of what the filters say."""
    known = records.select(
        "SELECT list(DISTINCT model ORDER BY model) AS models, "
        "list_sort(list_distinct(flatten(list(tags)))) AS tags FROM runs"
    ).to_pylist()[0]
    left, middle, right, last = st.columns([3, 2, 2, 2], vertical_alignment="bottom")
    search = left.text_input(words("traces.search"), key="search", help=words("traces.search_help"))
    models = middle.multiselect(words("traces.models"), known["models"], key="models")
    tags = right.multiselect(words("traces.tags"), known["tags"], key="tags")
    changed = last.checkbox(words("traces.only_changed"), key="only_changed")
    conditions = ["true"]
    if search.strip():
        sought = records.quoted(search.strip().lower())
        fields = ("id", "model", "note", "coalesce(text, '')")
        anywhere = " OR ".join(f"contains(lower({field}), {sought})" for field in fields)
        conditions.append(f"({anywhere})")
    if models:
        conditions.append(f"model IN ({', '.join(map(records.quoted, models))})")
    conditions += [f"list_contains(tags, {records.quoted(tag)})" for tag in tags]
    if changed:
        conditions.append("(coalesce(label_changed, false) OR coalesce(next_changed, false))")
    return (
        f"SELECT {FIRST} FROM runs WHERE {' AND '.join(conditions)} "
        f"ORDER BY recorded DESC LIMIT {records.LISTED}"
    )


def _statement(words: Words) -> str:
    """The statement in the box; a saved one can be put there, and this one saved."""
    own, state = records.store().queries(), st.session_state
    names = [*SAVED, *(OWN + name for name in own)]
    state.setdefault("sql", SAVED["label_changed"])

    def put() -> None:
        name = state.saved
        state.sql = own[name.removeprefix(OWN)] if name.startswith(OWN) else SAVED[name]

    st.selectbox(
        words("traces.saved"),
        names,
        format_func=lambda name: (
            name.removeprefix(OWN) if name.startswith(OWN) else words(f"saved.{name}")
        ),
        on_change=put,
        key="saved",
    )
    sql: str = st.text_area(words("traces.sql"), key="sql", height=130)
    with st.expander(words("traces.more_sql")):
        st.markdown(words("traces.tables"))
        name = st.text_input(words("traces.query_name"), key="query_name", max_chars=80)
        save, remove = st.columns(2)
        if save.button(words("traces.save_query"), key="save_query", disabled=not name.strip()):
            records.store().save_query(name, sql)
            st.rerun()
        if remove.button(
            words("traces.remove_query"), key="remove_query", disabled=name.strip() not in own
        ):
            records.store().save_query(name, None)
            state.pop("saved", None)
            st.rerun()
    return sql


def table(found: pa.Table, words: Words) -> None:
    """The rows; with a column ``id``, each with a link to its run, and rows can be chosen."""
    st.caption(words("traces.count", count=found.num_rows))
    _rows(found, words)
    export("runs", words("page.traces"), words, about_here(), rows=found)


def _rows(found: pa.Table, words: Words) -> None:
    frame = found.to_pandas()
    if "id" not in found.column_names:
        st.dataframe(frame, hide_index=True, width="stretch")
        return
    ids = found["id"].to_pylist()
    frame.insert(0, "link", [permalink(run, words) for run in ids])
    names = {name: words(f"traces.column_{name}") for name in COLUMNS if name in frame}
    percent = {
        name: st.column_config.NumberColumn(names[name], format="percent")
        for name in ("density", "retained_mass")
        if name in names
    }
    st.dataframe(
        frame,
        hide_index=True,
        width="stretch",
        column_config={name: st.column_config.Column(title) for name, title in names.items()}
        | percent
        | {
            "link": st.column_config.LinkColumn(
                words("traces.link"), display_text=words("traces.open_link"), width="small"
            ),
        },
        on_select=lambda: _choose(ids),
        selection_mode="multi-row",
        key="hits",
    )


def _choose(ids: list[str]) -> None:
    """Rows were clicked: choose their runs, each once."""
    rows = st.session_state.hits["selection"]["rows"]
    st.session_state.chosen = list(dict.fromkeys(ids[row] for row in rows if row < len(ids)))


def actions(words: Words) -> None:
    """What can be done with the chosen runs."""
    state, known = st.session_state, records.store().ids()
    state.chosen = [run for run in state.get("chosen", []) if run in known]
    chosen = st.multiselect(
        words("traces.chosen"), known[::-1], key="chosen", help=words("traces.chosen_help")
    )
    if not chosen:
        return
    show, export, delete = st.columns(3)
    if show.button(
        words("traces.open"), key="open", disabled=len(chosen) > 1, type="primary", width="stretch"
    ):
        records.show(chosen[0])
        st.switch_page("views/explore.py")
    export.download_button(
        words("traces.export", count=len(chosen)),
        data=lambda: records.export_runs(chosen),
        file_name="saa-traces.zip",
        mime="application/zip",
        on_click="ignore",
        key="export",
        width="stretch",
    )
    if delete.button(words("traces.delete", count=len(chosen)), key="delete", width="stretch"):
        state["deleting"] = list(chosen)
    _confirm_deletion(chosen, words)
    if len(chosen) == 1:
        _note_form(chosen[0], words)


def _confirm_deletion(chosen: list[str], words: Words) -> None:
    """Asks once more before traces are deleted; another choice takes the question back."""
    state = st.session_state
    if state.get("deleting") != chosen:
        state.pop("deleting", None)
        return
    st.warning(words("traces.confirm", count=len(chosen)))
    yes, no = st.columns(2)
    if yes.button(words("traces.delete_now"), key="delete_now", width="stretch"):
        records.store().delete(*chosen)
        if state.get("stored") in chosen:
            records.close()
        state.pop("deleting")
        st.rerun()
    if no.button(words("traces.keep_them"), key="keep_them", width="stretch"):
        state.pop("deleting")
        st.rerun()


def _note_form(run: str, words: Words) -> None:
    """Note and tags of one run."""
    about = records.store().notes().get(run)
    with st.form(f"about-{run}"):
        st.markdown(f"**{plain(run)}**")
        note = st.text_area(words("traces.note"), value=about.note if about else "", height=80)
        tags = st.text_input(
            words("traces.note_tags"), value=", ".join(about.tags) if about else ""
        )
        if st.form_submit_button(words("traces.save_note")):
            given = [tag for tag in tags.split(",") if tag.strip()]
            records.store().note(run, note.strip(), tags=given)
            st.session_state.pop("opened", None)
            st.rerun()
