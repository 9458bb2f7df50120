"""The store of traces: what comes back, what SQL sees, and that no fault loses or halves anything."""

import errno
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

import saa_core as saa
from benchmarks.records.store_faults import leftovers
from benchmarks.synthetic import synthetic
from saa_core.cli.main import main
from saa_core.store import Store, exchange, index
from saa_core.store.contents import BATCH
from saa_core.trace.check import check
from saa_core.trace.tables import SCHEMAS

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", wait=2)


def rows(store: Store, sql: str) -> list[tuple]:
    return [tuple(row.values()) for row in store.query(sql).to_pylist()]


def test_what_is_added_comes_back_with_its_maps_note_and_tags(store: Store) -> None:
    trace = synthetic(1)
    run = store.add(trace, note="a look at layer 3", tags=["demo", "odd", "demo"])
    again = store.get(run)
    assert again.text == trace.text
    assert (again.keep_map(3, 2) == trace.keep_map(3, 2)).all()
    assert store.ids() == [run]
    found = rows(store, "SELECT id, note, tags, tokens, density FROM runs")
    assert found == [(run, "a look at layer 3", ["demo", "odd"], 12, 1 - trace.sparsity)]
    assert store.note(run, tags=[]).note == "a look at layer 3"
    assert rows(store, "SELECT tags FROM runs") == [([],)]


def test_tables_hold_the_figures_of_the_trace() -> None:
    event = {"layer": 2, "suspected": "missed", "measured": 0.2, "after": 0.01, "done": "added"}
    trace = replace(synthetic(2, label="positive"), events=(event,))
    tables = trace.to_arrow("x")
    assert tables.runs["label"].to_pylist() == ["positive"]
    heads = tables.heads["density"].to_numpy().reshape(trace.shape)
    assert (heads == trace.density).all()
    received = tables.tokens["received"].to_numpy()
    assert received == pytest.approx(trace.attention_received.mean((0, 1)))
    assert tables.tokens["token"].to_pylist() == list(trace.tokens)
    (row,) = tables.events.to_pylist()
    assert (row["layer"], row["measured"], json.loads(row["details"])) == (2, 0.2, event)
    for name, schema in SCHEMAS.items():
        assert getattr(tables, name).schema == schema
    assert set(trace.to_arrow().runs["id"].to_pylist()) == {""}


def test_sql_finds_layers_that_keep_little_where_the_label_changed(store: Store) -> None:
    text = "The same text, read twice."
    dense = store.add(synthetic(0, policy=None, label="positive", text=text))
    changed = synthetic(1, label="negative", text=text, density=0.3)
    thin = changed.density.copy()
    thin[5] = 0.05
    hit = store.add(replace(changed, density=thin))
    store.add(changed)  # enough is kept
    store.add(
        replace(synthetic(2, label="positive", text=text), density=thin)
    )  # the label is the same
    store.add(replace(synthetic(3, label="negative", text="No dense run of this."), density=thin))
    sql = (
        "SELECT id, dense_id, dense_label FROM runs JOIN layers USING (id) "
        "WHERE layer = 5 AND layers.density < 0.1 AND label_changed"
    )
    assert rows(store, sql) == [(hit, dense, "positive")]
    assert rows(store, "SELECT label_changed FROM runs WHERE policy IS NULL") == [(None,)]


def test_a_folder_of_bare_traces_becomes_a_store(tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        shutil.copy(GOLDEN / f"{version}.saa", tmp_path / f"20260102-030405-{version}.saa")
    (tmp_path / "notes.txt").write_text("not a trace")
    store = Store(tmp_path)
    assert store.ids() == ["20260102-030405-v1", "20260102-030405-v2"]
    assert rows(store, "SELECT count(*), min(year(recorded)) FROM runs") == [(2, 2026)]
    assert json.loads((tmp_path / "store.json").read_text())["saa_store"] == index.FORMAT
    assert store.get("20260102-030405-v1").shape == (2, 4)


def test_an_index_of_an_older_format_is_made_again_and_a_later_one_is_refused(store: Store) -> None:
    run = store.add(synthetic(1))
    file = store.folder / "store.json"
    about = json.loads(file.read_text())
    file.write_text(json.dumps({**about, "saa_store": index.FORMAT - 1}))
    assert rows(Store(store.folder), "SELECT id FROM runs") == [(run,)]
    assert json.loads(file.read_text())["saa_store"] == index.FORMAT
    file.write_text(json.dumps({**about, "saa_store": 99}))
    with pytest.raises(saa.StoreError, match=r"format 99.*later version"):
        Store(store.folder)
    file.write_text("{")
    with pytest.raises(saa.StoreError, match="can be deleted"):
        Store(store.folder)


@pytest.mark.parametrize(
    "run",
    [
        "../x",
        "a/b",
        "a\\b",
        "/etc/passwd",
        "..",
        ".hidden",
        "",
        "a\0b",
        "a\n",
        "x" * 200,
        "~",
        None,
    ],
)
def test_ids_are_no_paths(store: Store, run: str) -> None:
    for call in (store.get, store.delete, store.path, store.note):
        with pytest.raises(saa.StoreError, match="no id of a trace"):
            call(run)
    with pytest.raises(saa.StoreError, match="no id of a trace"):
        store.export([run], store.folder / "x.zip")
    if run is not None:
        with pytest.raises(saa.StoreError, match="no id of a trace"):
            store.add(synthetic(0), run=run)
    assert store.ids() == []


def test_an_id_of_more_bytes_than_a_name_may_have_is_cut(store: Store) -> None:
    """A hundred Japanese letters are 300 bytes, and a file's name has 255 at most."""
    trace = synthetic(1)
    given = "記録" * 50
    run = store.add(trace, run=given, note="long")
    assert run == given[:83]
    assert store.get(run).text == trace.text
    assert store.notes()[run].note == "long"
    assert rows(store, "SELECT id FROM runs") == [(run,)]
    with pytest.raises(saa.StoreError, match="in the store already"):
        store.add(trace, run=given)
    with pytest.raises(saa.StoreError, match="251 bytes"):
        store.add_missing({given: trace})
    with pytest.raises(saa.StoreError, match="251 bytes"):
        store.get(given)
    out = store.export([run], store.folder.parent / "x.zip")
    assert Store(store.folder.parent / "other").import_(out) == (run,)


def test_a_link_is_no_trace(store: Store, tmp_path: Path) -> None:
    synthetic(0).save(tmp_path / "outside.saa")
    (store.folder / "inside.saa").symlink_to(tmp_path / "outside.saa")
    assert store.ids() == []
    with pytest.raises(saa.StoreError, match="not in the store"):
        store.get("inside")


@pytest.mark.parametrize(
    ("sql", "sentence"),
    [
        ("SELECT * FROM '{file}'", "disabled by configuration"),
        ("SELECT * FROM read_csv('{file}')", "disabled by configuration"),
        ("SELECT * FROM read_text('{file}')", "disabled by configuration"),
        ("SELECT * FROM read_parquet('https://localhost/x')", "disabled by configuration"),
        ("SELECT * FROM glob('/*')", "disabled by configuration"),
        ("SELECT * FROM store", "does not exist"),
        ("COPY runs TO '{file}'", "came as: COPY"),
        ("ATTACH '{file}'", "came as: ATTACH"),
        ("INSTALL httpfs", "one SELECT"),
        ("SET threads = 99", "came as: SET"),
        ("CREATE TABLE x AS SELECT 1", "came as: CREATE"),
        ("DROP VIEW runs", "came as: DROP"),
        ("PRAGMA version", "one SELECT"),
        ("SELECT 1; SELECT 2", "came as: SELECT, SELECT"),
        ("SELECT * FROM query('COPY runs TO ''{file}''')", "SELECT"),
        ("", "came as: nothing"),
        ("SELEC 1", "syntax error"),
        ("SELECT nothing FROM runs", "nothing"),
    ],
)
def test_sql_reads_the_tables_and_nothing_else(
    store: Store, tmp_path: Path, sql: str, sentence: str
) -> None:
    store.add(synthetic(1))
    file = tmp_path / "secret.csv"
    file.write_text("secret\n1\n")
    with pytest.raises(saa.StoreError, match=r"^sql ") as refused:
        store.query(sql.format(file=file))
    assert sentence in str(refused.value)
    assert file.read_text() == "secret\n1\n"
    assert len(store.query("SELECT * FROM runs")) == 1


def test_a_query_has_limits(store: Store) -> None:
    store.add(synthetic(1))
    with pytest.raises(saa.StoreError, match="more than 5 rows"):
        store.query("SELECT * FROM heads", limit=5)
    assert len(store.query("SELECT * FROM heads LIMIT 5", limit=5)) == 5
    with pytest.raises(saa.StoreError, match=r"more than 0\.2 s"):
        store.query("SELECT count(*) FROM range(10000000) a, range(10000000) b", timeout=0.2)
    with pytest.raises(saa.StoreError, match=r"MiB|Memory"):
        store.query("SELECT repeat('x', 3000) FROM range(900000)")


def test_deleted_is_gone_from_every_table(store: Store) -> None:
    runs = [store.add(synthetic(seed), note="n") for seed in range(3)]
    store.delete(runs[1])
    with pytest.raises(saa.StoreError, match="not in the store"):
        store.delete(runs[0], runs[1])
    left = [(runs[0],), (runs[2],)]
    for table in SCHEMAS:
        found = rows(store, f"SELECT DISTINCT id FROM {table} ORDER BY id")
        assert found == ([] if table == "events" else sorted(left))
    assert set(store.notes()) == {runs[0], runs[2]}
    store.add(synthetic(9), run=runs[1])
    assert rows(store, f"SELECT note, count(*) FROM runs JOIN heads USING (id) WHERE id = '{runs[1]}' GROUP BY 1") == [("", 24)]  # fmt: skip


def test_many_adds_leave_few_parts(store: Store) -> None:
    for seed in range(20):
        store.add(synthetic(seed))
    assert len(store._contents.index.manifest().parts) < 2 * index.FAN
    assert len(list((store.folder / "tables").iterdir())) < 3 * index.FAN
    assert rows(Store(store.folder), "SELECT count(*), count(DISTINCT id) FROM runs") == [(20, 20)]
    store.delete(*store.ids()[:15])
    assert rows(store, "SELECT count(*) FROM heads") == [(5 * 24,)]


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    """In a process of its own, see there; the benchmark does it 100 times."""
    out = tmp_path / "faults.json"
    command = [sys.executable, "-m", "benchmarks.records.store_faults", "--kills", "8"]
    done = subprocess.run(
        [*command, "--seed", "1", "--out", str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["kills"] == 8
    assert found["with_leftovers_before_the_next_write"] > 0, "the kills met nothing unfinished"


@contextmanager
def full_disk(room: int):
    """No file may grow beyond so many bytes, as if the disk ended there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 1000, 8000])
def test_a_full_disk_is_a_sentence_and_leaves_the_store_as_it_was(store: Store, room: int) -> None:
    run = store.add(synthetic(1), note="first")
    with full_disk(room), pytest.raises(saa.StoreError, match="cannot be written"):
        store.add(synthetic(2, tokens=40), note="second")
    assert store.ids() == [run]
    assert set(store.notes()) == {run}
    assert leftovers(store.folder) == []
    assert rows(Store(store.folder), "SELECT note FROM runs") == [("first",)]


def test_a_disk_that_fills_up_after_the_trace_loses_only_the_index(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(index.pq, "write_table", full)
        run = store.add(synthetic(1))
        assert rows(store, "SELECT id FROM runs") == [(run,)], "read from the trace itself"
        assert len(list((store.folder).glob("tables/*"))) == 0
    assert rows(store, "SELECT id FROM runs") == [(run,)]
    assert len(list((store.folder / "tables").iterdir())) == 1


def test_a_damaged_trace_is_named_and_the_others_are_still_there(store: Store) -> None:
    good, bad = (store.add(synthetic(seed)) for seed in range(2))
    file = store.path(bad)
    content = file.read_bytes()
    shutil.rmtree(store.folder / "tables")
    file.write_bytes(content[: len(content) // 2])
    (store.folder / "foreign.saa").write_bytes(b"\x80\x04\x95pickle")
    again = Store(store.folder)
    assert rows(again, "SELECT id FROM runs") == [(good,)]
    assert set(again.broken()) == {bad, "foreign"}
    with pytest.raises(saa.TraceError, match="cannot be read"):
        again.get(bad)
    again.delete(bad, "foreign")
    assert again.broken() == {}


def test_more_damaged_traces_than_are_read_at_once_are_named_and_the_others_are_there(
    store: Store,
) -> None:
    good = store.add(synthetic(1))
    shutil.rmtree(store.folder / "tables")
    for number in range(BATCH + 44):
        (store.folder / f"{number}.saa").write_bytes(b"nothing")
    again = Store(store.folder)
    assert rows(again, "SELECT id FROM runs") == [(good,)]
    assert len(again.broken()) == BATCH + 44
    late = again.add(synthetic(2))
    assert set(rows(Store(store.folder), "SELECT id FROM runs")) == {(good,), (late,)}


@pytest.mark.parametrize("table", list(SCHEMAS))
def test_a_damaged_index_is_made_again(store: Store, table: str) -> None:
    run = store.add(synthetic(1), note="kept")
    (file,) = store.folder.glob(f"tables/*/{table}.parquet")
    file.write_bytes(file.read_bytes()[:-7])
    again = Store(store.folder)
    assert rows(again, "SELECT id, note FROM runs") == [(run, "kept")]
    assert rows(again, "SELECT count(*) FROM heads") == [(24,)]
    assert rows(again, "SELECT count(*) FROM tokens") == [(12,)]


def test_export_and_import_carry_traces_and_notes(store: Store, tmp_path: Path) -> None:
    runs = [store.add(synthetic(seed), note=f"n{seed}", tags=["t"]) for seed in range(3)]
    file = store.export(runs[:2], tmp_path / "some.zip")
    other = Store(tmp_path / "other")
    assert other.import_(file) == tuple(runs[:2])
    assert other.notes() == {run: store.notes()[run] for run in runs[:2]}
    assert (other.get(runs[1]).keep_map(2, 1) == store.get(runs[1]).keep_map(2, 1)).all()
    assert set(other.import_(file)) == set(runs[:2]), "what is there stays"
    assert len(other.ids()) == 2
    clash = store.export([runs[2]], tmp_path / "clash.zip")
    third = Store(tmp_path / "third")
    third.add(synthetic(77), run=runs[2])
    (own,) = third.import_(clash)
    assert own != runs[2]
    assert third.get(own).text == store.get(runs[2]).text
    single = synthetic(5).save(tmp_path / "a trace (1).saa")
    (run,) = other.import_(single)
    assert other.get(run).text == synthetic(5).text


def archive(*entries: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in entries:
            target.writestr(name, content)
    return out.getvalue()


def saved(trace: saa.Trace, tmp_path: Path) -> bytes:
    return trace.save(tmp_path / "made.saa").read_bytes()


@pytest.mark.parametrize(
    "case",
    [
        *("missing", "empty", "pickle", "truncated trace", "truncated archive", "foreign archive"),
        *("path", "absolute path", "twice", "no trace", "damaged inside", "sizes", "plan"),
        *("bad notes", "event", "later format", "types"),
    ],
)
def test_hostile_and_broken_files_are_refused_whole(
    store: Store, tmp_path: Path, case: str
) -> None:
    good = saved(synthetic(1), tmp_path)
    whole = archive(("traces/a.saa", good), ("traces/b.saa", saved(synthetic(2), tmp_path)))
    trace = synthetic(3)
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = archive(("traces/a.saa", good), ("traces/a.saa", good))
    content = {
        "missing": None,
        "empty": b"",
        "pickle": b"\x80\x04\x95\x1e\x00\x00\x00cposix\nsystem\n",
        "truncated trace": good[:-100],
        "truncated archive": whole[: len(whole) // 2],
        "foreign archive": archive(("word/document.xml", b"<x/>")),
        "path": archive(("traces/a.saa", good), ("traces/../../evil.saa", good)),
        "absolute path": archive(("/tmp/evil.saa", good)),
        "twice": twice,
        "no trace": archive(("notes.json", b"{}")),
        "damaged inside": whole.replace(whole[200:210], bytes(10), 1),
        "sizes": saved(
            replace(trace, attention_received=trace.attention_received[:, :, :5]), tmp_path
        ),
        "plan": saved(replace(trace, layer_kind=trace.layer_kind + 7), tmp_path),
        "bad notes": archive(("traces/a.saa", good), ("notes.json", b'{"a": {"note": 1}}')),
        "event": saved(replace(trace, events=({"layer": "x"},)), tmp_path),
        "later format": good.replace(b'"saa_trace":"3"', b'"saa_trace":"9"'),
        "types": saved(replace(trace, tokens=tuple(range(12))), tmp_path),
    }[case]
    file = tmp_path / "given.saa"
    if content is not None:
        file.write_bytes(content)
    outside = set(tmp_path.rglob("*"))
    with pytest.raises(saa.StoreError, match=r"given\.saa|traces/") as refused:
        store.import_(file)
    assert "\n" not in str(refused.value)
    assert store.ids() == []
    assert leftovers(store.folder) == []
    new = {path.name for path in set(tmp_path.rglob("*")) - outside}
    assert new <= {".lock", "store"}


def test_an_archive_larger_than_is_allowed_is_not_unpacked(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saa_core.store.exchange.MOST_BYTES", 100_000)
    file = tmp_path / "bomb.zip"
    file.write_bytes(archive(("traces/a.saa", bytes(10**6))))
    with pytest.raises(saa.StoreError, match="too large"):
        store.import_(file)


def test_an_import_holds_nobody_up_while_it_unpacks(
    store: Store, tmp_path: Path, monkeypatch
) -> None:
    """Up to 4 GiB are unpacked and checked; others write meanwhile, and import as well."""
    run = store.add(synthetic(1))
    file = store.export([run], tmp_path / "one.zip")
    single = synthetic(2).save(tmp_path / "two.saa")
    other = Store(tmp_path / "other")
    left = other.folder / ".import-killed"
    left.mkdir()
    (left / "0.saa").write_bytes(b"half")
    meanwhile = []
    read = exchange.read

    def busy(given: Path, folder: Path) -> exchange.Imported:
        if not meanwhile:
            meanwhile.append("begun")
            meanwhile.append(Store(other.folder, wait=0).add(synthetic(3)))
            meanwhile.extend(Store(other.folder, wait=0).import_(single))
        return read(given, folder)

    monkeypatch.setattr(exchange, "read", busy)
    assert other.import_(file) == (run,)
    assert set(other.ids()) == {run, *meanwhile[1:]}
    assert len(meanwhile) == 3
    assert leftovers(other.folder) == []
    assert {row[0] for row in rows(other, "SELECT id FROM runs")} == set(other.ids())


def test_a_second_writer_waits_and_is_then_refused(store: Store) -> None:
    run = store.add(synthetic(1))
    impatient = Store(store.folder, wait=0.1)
    with FileLock(store.folder / ".lock"):
        for write in (
            lambda: impatient.add(synthetic(2)),
            lambda: impatient.delete(run),
            lambda: impatient.note(run, "x"),
        ):
            with pytest.raises(saa.StoreError, match="another process is writing"):
                write()
        assert rows(impatient, "SELECT id FROM runs") == [(run,)], "readers do not wait"
    impatient.add(synthetic(2))
    assert len(store.ids()) == 2


def test_writers_and_readers_at_once_see_whole_traces(store: Store) -> None:
    """Two writers that wait for each other, one of which also deletes, and a reader all the while."""
    failures, done = list[BaseException](), threading.Event()

    def write(seed: int) -> None:
        try:
            own = Store(store.folder, wait=60)
            for turn in range(6):
                run = own.add(synthetic(100 * seed + turn))
                if seed and turn % 3 == 0:
                    own.delete(run)
        except BaseException as error:
            failures.append(error)

    def read() -> None:
        try:
            own = Store(store.folder)
            while not done.is_set():
                sql = "SELECT id, count(*) FROM runs JOIN heads USING (id) GROUP BY id"
                found = rows(own, sql)
                assert {count for _, count in found} <= {24}
                assert len(dict(found)) == len(found)
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(2)]
    reader = threading.Thread(target=read)
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert failures == []
    assert len(store.ids()) == 10


def test_a_reader_whose_part_was_replaced_reads_the_one_that_replaced_it(
    store: Store, monkeypatch
) -> None:
    """Parts are merged and swept after the reader has seen the list and before it opens them."""
    store.add(synthetic(0))
    reader, seen = Store(store.folder), list[object]()
    known = reader._contents.known

    def overtaken() -> object:
        found = known()
        if not seen:
            for seed in range(1, index.FAN + 1):
                store.add(synthetic(seed))
        seen.append(found)
        return found

    monkeypatch.setattr(reader._contents, "known", overtaken)
    assert rows(reader, "SELECT count(*) FROM heads") == [((index.FAN + 1) * 24,)]
    assert len(seen) == 2


def test_an_index_deleted_under_an_open_store_is_made_again(store: Store) -> None:
    store.add(synthetic(1))
    assert rows(store, "SELECT count(*) FROM heads") == [(24,)]
    shutil.rmtree(store.folder / "tables")
    assert rows(store, "SELECT count(*) FROM heads") == [(24,)]


def test_an_index_that_cannot_be_read_is_a_sentence(store: Store, monkeypatch) -> None:
    def refused(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    store.add(synthetic(1))
    monkeypatch.setattr("pyarrow.dataset.dataset", refused)
    with pytest.raises(saa.StoreError, match=r"cannot be read: .*Input/output error"):
        store.query("SELECT id FROM runs")


def test_a_store_that_cannot_be_written_can_be_read(tmp_path: Path, monkeypatch) -> None:
    synthetic(1).save(tmp_path / "one.saa")

    def refused(*_arguments: object, **_options: object) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(FileLock, "acquire", refused)
    store = Store(tmp_path)
    assert rows(store, "SELECT id FROM runs") == [("one",)]
    with pytest.raises(saa.StoreError, match="Read-only"):
        store.add(synthetic(2))


def test_real_runs_pass_the_check(smollm2: saa.Model, minilm: saa.Model, novel: str) -> None:
    for model, text in ((smollm2, novel[:300]), (minilm, novel[:300]), (smollm2, novel[:2500])):
        for policy in (None, model.spec.policy):
            trace = saa.run(model, text, policy)
            check(trace, maps=True)
            assert trace.to_arrow("x").runs["tokens"].to_pylist() == [trace.keys]


def test_query_prints_a_table_csv_and_json(store: Store, capsys) -> None:
    store.add(synthetic(1, text="改行\nと\x1b[31m漢字"), run="one", tags=["a", "b"])
    store.add(synthetic(2), run="two")
    given = [
        "query",
        "--store",
        str(store.folder),
        "SELECT id, text, tags, tokens FROM runs ORDER BY id",
    ]
    assert main([*given, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in found] == ["one", "two"]
    assert found[0]["tags"] == ["a", "b"]
    assert main([*given, "--format", "csv"]) == 0
    assert capsys.readouterr().out.startswith("id,text,tags,tokens\none,")
    assert main(given) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert printed.splitlines()[0].split() == ["id", "text", "tags", "tokens"]
    assert printed.splitlines()[-1] == "(2 rows)"
    assert main([*given[:-1], "DROP VIEW runs"]) == 1
    assert capsys.readouterr().err.startswith("saa: sql must be one SELECT")


def test_a_query_as_json_is_valid_and_complete(store: Store, capsys) -> None:
    """Numbers that JSON cannot hold are null; of two columns with one name none is lost."""
    store.add(synthetic(1), run="one")
    given = ["query", "--store", str(store.folder), "--format", "json"]
    sql = "SELECT 'nan'::FLOAT AS a, 'inf'::DOUBLE AS b, [1.5, '-inf'::DOUBLE] AS c, {'x': 'nan'::DOUBLE} AS d"
    assert main([*given, sql]) == 0

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found == [{"a": None, "b": None, "c": [1.5, None], "d": {"x": None}}]
    assert main([*given, "SELECT id, text AS id FROM runs"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "two columns id, which JSON cannot hold; name them with AS" in told.err


def test_query_writes_the_same_rows_to_a_file(store: Store, tmp_path: Path, capsys) -> None:
    store.add(synthetic(1), run="one", tags=["a", "b"])
    store.add(synthetic(2), run="two")
    sql = "SELECT id, recorded, tags, density, retained_mass > 2 AS much FROM runs ORDER BY id"
    given = ["query", "--store", str(store.folder), sql, "--format"]
    for kind in ("parquet", "csv", "json", "table"):
        file = tmp_path / "out" / f"found.{kind}"
        assert main([*given, kind, "-o", str(file)]) == 0
        assert capsys.readouterr().out == f"query: {file}, 2 rows\n"
        if kind == "parquet":
            assert pq.read_table(file).equals(store.query(sql))
        else:
            main([*given, kind])
            assert file.read_text("utf-8") == capsys.readouterr().out
    assert main([*given, "parquet"]) == 1
    assert "-o FILE" in capsys.readouterr().err
    twice = "SELECT a.id, b.id FROM runs a, runs b"
    clash = ["query", "--store", str(store.folder), twice, "--format", "parquet", "-o"]
    assert main([*clash, str(tmp_path / "twice.parquet")]) == 1
    assert "two columns" in capsys.readouterr().err
    assert not (tmp_path / "twice.parquet").exists()
    assert main([*given, "csv", "-o", "/dev/null/x"]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_retained_mass_that_was_not_recorded_is_null(store: Store) -> None:
    trace = replace(synthetic(1), retained_mass=None, attention_received=None)
    store.add(trace)
    assert rows(store, "SELECT retained_mass FROM runs") == [(None,)]
    assert rows(store, "SELECT count(retained_mass) FROM heads") == [(0,)]
    assert np.isclose(rows(store, "SELECT avg(density) FROM heads")[0][0], trace.density.mean())


def test_a_summary_opens_again(tmp_path: Path, smollm2: saa.Model) -> None:
    store = Store(tmp_path)
    summary = saa.run(smollm2, "The ferry leaves at nine.", saa.Policy(), record="summary")
    found = store.get(store.add(summary))
    assert found.layers is None
    np.testing.assert_array_equal(found.density, summary.density)
