"""A folder of traces: added, opened, noted, deleted, and queried as SQL tables.

The trace files are the truth: a trace is in the store from the moment its file has its name, and
gone when it has not. Everything else (index.py) is made from them, so a writer that is killed at any
moment leaves nothing half: what it had begun lies in ``.writing`` and is swept by the next one. One
process writes at a time (a lock), any number read. Nothing in the folder is ever executed.

    ID.saa        one trace (trace.py)
    notes.json    what people wrote about them: note and tags by id
    queries.json  statements that people saved, by name
    store.json, tables/   the index
"""

from saa_core.store.store import ROWS, SECONDS, Store

__all__ = ["ROWS", "SECONDS", "Store"]
