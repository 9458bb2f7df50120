"""The tables that a query sees, as SQL over what is stored.

runs      one row per trace: columns of ``tables.RUNS``; note, tags; of the dense run of the same text
          in the store dense_id and dense_label, and whether label and next token are other ones
layers    mean over the heads of a layer: id, layer, density, predicted_mass, retained_mass
heads     columns of ``tables.HEADS``
tokens    columns of ``tables.TOKENS``
events    what the guard did: columns of ``tables.EVENTS``
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from saa_core.store.notes import Note
from saa_core.trace.tables import SCHEMAS, Tables

RUNS = """
WITH dense AS (
    SELECT text_sha256, base, coalesce(labels, []) AS labels,
        arg_min(id, rank) AS id, arg_min(label, rank) AS label,
        arg_min(next_token_id, rank) AS next_token_id
    FROM (SELECT *, (length(model), -epoch_us(recorded)) AS rank FROM _runs WHERE policy IS NULL)
    GROUP BY ALL
)
SELECT _runs.*,
    coalesce(_notes.note, '') AS note,
    coalesce(_notes.tags, []) AS tags,
    dense.id AS dense_id,
    dense.label AS dense_label,
    _runs.label <> dense.label AS label_changed,
    _runs.next_token_id <> dense.next_token_id AS next_changed
FROM _runs
LEFT JOIN _notes USING (id)
LEFT JOIN dense ON _runs.policy IS NOT NULL AND dense.text_sha256 = _runs.text_sha256
    AND dense.base = _runs.base AND dense.labels = coalesce(_runs.labels, [])
"""
"""An adapter's baseline is the original model: of the dense runs of a text the one with the shortest
name counts, of several the latest."""

LAYERS = """
SELECT id, layer, avg(density) AS density, avg(predicted_mass) AS predicted_mass,
    avg(retained_mass) AS retained_mass
FROM heads GROUP BY id, layer
"""


def views(*, with_gone: bool) -> dict[str, str]:
    """SQL by name, in the order in which it is made.

    Args:
        with_gone: the stored tables may hold rows of runs that were deleted.
    """
    there = " WHERE id NOT IN (SELECT id FROM _gone)" if with_gone else ""
    found = {}
    for name in SCHEMAS:
        view = "_runs" if name == "runs" else name
        found[view] = f"SELECT * FROM _stored_{name}{there} UNION ALL SELECT * FROM _fresh_{name}"
    return found | {"runs": RUNS, "layers": LAYERS}


def relations(
    parts: Mapping[str, Sequence[str]],
    fresh: Tables,
    notes: Mapping[str, Note],
    gone: set[str],
) -> dict[str, object]:
    """What the views read, as Arrow tables and datasets by name.

    Args:
        parts: Parquet files of each stored table.
        fresh: rows of traces that are not in them yet.
        gone: ids of runs that were deleted and may still be in them.
    """
    import pyarrow.dataset as ds  # only here: it imports pandas where it finds it

    strings = pa.string()
    found: dict[str, object] = {
        "_notes": pa.table(
            {
                "id": pa.array(notes, strings),
                "note": pa.array([note.note for note in notes.values()], strings),
                "tags": pa.array([list(note.tags) for note in notes.values()], pa.list_(strings)),
            }
        ),
        "_gone": pa.table({"id": pa.array(sorted(gone), strings)}),
    }
    for name, schema in SCHEMAS.items():
        files = list(parts[name])
        stored = ds.dataset(files, schema=schema) if files else schema.empty_table()
        found |= {f"_stored_{name}": stored, f"_fresh_{name}": getattr(fresh, name)}
    return found
