"""The Parquet tables of a store: parts that are written whole and never changed, and a list of them.

They hold nothing that the trace files do not hold: they may be thrown away and made again.

    store.json                 the format's number and the parts that count
    tables/PART/runs.parquet   and heads, tokens, events: the rows of some runs
"""

import json
import shutil
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from saa_core.errors import StoreError
from saa_core.files import flush, replacing
from saa_core.trace.tables import SCHEMAS, Tables, concatenate

FORMAT = 3
"""0 is a folder of bare traces; 1 had no columns of audits, 2 no cost of a guard's event. Tables of an older format are made again from the traces."""
FAN = 8
"""So many parts of about one size become one; so there are few, and each row is rarely written."""


@dataclass(frozen=True)
class IndexPart:
    """Rows of so many runs, in one folder."""

    name: str
    runs: int


@dataclass(frozen=True)
class Manifest:
    """The parts that count. Another writer's manifest differs in the parts' names."""

    parts: tuple[IndexPart, ...] = ()


class Index:
    """The tables below a store's folder. Who writes holds the store's lock."""

    def __init__(self, folder: Path, staging: Path) -> None:
        self.file = folder / "store.json"
        self.tables = folder / "tables"
        self.staging = staging
        self._ids = dict[str, list[str]]()

    def manifest(self) -> Manifest:
        """Raises StoreError if ``store.json`` is broken or of a later version."""
        try:
            about = json.loads(self.file.read_text("utf-8"))
            number = about["saa_store"]
            parts = tuple(
                IndexPart(str(part["name"]), int(part["runs"])) for part in about["parts"]
            )
        except FileNotFoundError:
            return Manifest()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{self.file} cannot be read ({error!r}); it can be deleted: it is made again from "
                "the traces"
            ) from error
        if not isinstance(number, int) or number > FORMAT:
            raise StoreError(
                f"{self.file} is of format {number!r}, and this version reads 0 to {FORMAT}; open "
                "the store with a later version"
            )
        return Manifest(parts) if number == FORMAT else Manifest()

    def path(self, part: IndexPart, table: str) -> Path:
        return self.tables / part.name / f"{table}.parquet"

    def files(self, manifest: Manifest, table: str) -> list[str]:
        """The files of one table, a part each."""
        return [str(self.path(part, table)) for part in manifest.parts]

    def ids(self, part: IndexPart) -> list[str] | None:
        """The runs of a part; None if any of its tables is missing or broken."""
        if part.name in self._ids:
            return self._ids[part.name]
        try:
            for table, schema in SCHEMAS.items():
                if not pq.read_schema(self.path(part, table)).equals(schema):
                    return None
            ids: list[str] = pq.read_table(self.path(part, "runs"), columns=["id"])[0].to_pylist()
        except (OSError, pa.ArrowException):
            return None
        self._ids[part.name] = ids
        return ids

    def forget(self) -> None:
        """Looks at every part anew."""
        self._ids.clear()

    def add(self, rows: Tables, live: Iterable[str]) -> None:
        """Adds rows of new runs; joins parts where there are many, without runs that are gone."""
        parts = self.manifest().parts
        fresh = set(rows.runs["id"].to_pylist())
        wanted = set(live) - fresh
        held = {part: self.ids(part) for part in parts}
        merged = [part for part, ids in held.items() if _worn(ids, wanted, fresh)]
        total = len(fresh) + sum(len(wanted & set(held[part] or ())) for part in merged)
        while True:
            alike = [p for p in parts if p not in merged and _level(p.runs) == _level(total)]
            if len(alike) < FAN - 1:
                break
            merged += alike
            total += sum(part.runs for part in alike)
        old = [self._rows(part, wanted) for part in merged if held[part] is not None]
        kept = [part for part in parts if part not in merged]
        if total:
            kept.append(self._write(concatenate([*old, rows])))
        self._set(Manifest(tuple(kept)))

    def sweep(self) -> None:
        """Removes parts that do not count: a later writer's first step, so that readers who came
        before the last change could still finish."""
        counted = {part.name for part in self.manifest().parts}
        if self.tables.is_dir():
            for folder in self.tables.iterdir():
                if folder.name not in counted:
                    shutil.rmtree(folder, ignore_errors=True)

    def _rows(self, part: IndexPart, wanted: set[str]) -> Tables:
        values = pa.array(sorted(wanted), pa.string())
        found = {}
        for name in SCHEMAS:
            table = pq.read_table(self.path(part, name))
            found[name] = table.filter(pc.is_in(table["id"], values))
        return Tables(**found)

    def _write(self, rows: Tables) -> IndexPart:
        name = uuid.uuid4().hex
        folder = self.staging / name
        folder.mkdir()
        for table in SCHEMAS:
            file = folder / f"{table}.parquet"
            pq.write_table(getattr(rows, table), file, compression="zstd")
            flush(file)
        flush(folder)
        self.tables.mkdir(exist_ok=True)
        folder.rename(self.tables / name)
        flush(self.tables)
        return IndexPart(name, rows.runs.num_rows)

    def _set(self, manifest: Manifest) -> None:
        about = {"saa_store": FORMAT, "parts": [asdict(part) for part in manifest.parts]}
        with replacing(self.file, self.staging) as part:
            part.write_text(json.dumps(about, indent=1), encoding="utf-8")


def _level(runs: int) -> int:
    """Which power of FAN a part has reached."""
    level = 0
    while runs >= FAN:
        runs, level = runs // FAN, level + 1
    return level


def _worn(ids: list[str] | None, wanted: set[str], fresh: set[str]) -> bool:
    """A part that is broken, holds a run that is written anew, or half of whose runs are gone."""
    return ids is None or bool(fresh & set(ids)) or 2 * len(wanted & set(ids)) < len(ids)
