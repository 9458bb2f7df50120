"""Audits of a corpus: what is stored, what is passed over, what the figures say, and what a kill leaves."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import saa_core as saa
from benchmarks.synthetic import synthetic
from saa_core.audit.audit import Audit
from saa_core.audit.figures import about, audits, by_slice, cases, distribution
from saa_core.audit.outcome import compare_with_dense
from saa_core.cli.main import main
from saa_core.run import corpora
from saa_core.store import Store
from saa_core.trace.audited import Audited

ROOT = Path(__file__).parents[2]
TEXTS = (
    "The ferry leaves at nine and nobody waits.",
    "On 3 May 1999 Mr. Smith went to Paris without his sister.",
    "A short one.",
    "The captain decides whether the ferry leaves at all when the sea is rough.",
)


@pytest.fixture
def little(tiny: Callable[..., torch.nn.Module], smollm2: saa.Model) -> saa.Model:
    """A small random model with SmolLM2's tokenizer."""
    return saa.attach(tiny(vocab_size=len(smollm2.tokenizer)), smollm2.tokenizer)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def made(run: str, agreement: float, lost: float, *slices: str) -> saa.Trace:
    return replace(
        synthetic(len(run), text=f"Text of {run}."),
        audited=Audited("made-1", slices, agreement, lost),
    )


def test_both_sides_are_stored_and_what_is_there_is_passed_over(little, store) -> None:
    audit = Audit(little, saa.Policy(mass=0.7), store, "mine")
    first = list(audit.over(TEXTS[:2]))
    assert [done.new for done in first] == [True, True]
    second = list(audit.over([*TEXTS, TEXTS[3]]))
    assert [done.new for done in second] == [False, False, True, True, False]
    assert second[:2] == [replace(done, new=False) for done in first]
    assert len(store.ids()) == 2 * len(TEXTS)
    trace, dense = store.get(first[1].run), store.get(first[1].dense)
    assert trace.layers is None
    assert trace.hidden is None
    assert dense.policy is None
    assert trace.audited.slices == ("numbers", "negation", "names")
    again = saa.compare(saa.run(little, TEXTS[1]), saa.run(little, TEXTS[1], saa.Policy(mass=0.7)))
    assert trace.audited.agreement == pytest.approx(again.top1_agreement.mean())
    (row,) = store.query(
        f"SELECT audit, agreement, dense_id FROM runs WHERE id = '{first[1].run}'"
    ).to_pylist()
    assert row == {
        "audit": audit.key,
        "agreement": trace.audited.agreement,
        "dense_id": first[1].dense,
    }
    rows = store.query("SELECT * FROM runs ORDER BY id").to_pylist()
    shutil.rmtree(store.folder / "tables")
    (store.folder / "store.json").unlink()
    again = Store(store.folder)
    assert again.query("SELECT * FROM runs ORDER BY id").to_pylist() == rows, "made again"


def test_another_policy_or_model_is_another_audit_and_shares_the_dense_runs(
    little, store, tiny, smollm2
) -> None:
    one = Audit(little, saa.Policy(mass=0.7), store, "mine")
    two = Audit(little, saa.Policy(mass=0.9), store, "mine")
    torch.manual_seed(1)
    other = saa.attach(tiny(vocab_size=len(smollm2.tokenizer)), smollm2.tokenizer)
    three = Audit(other, saa.Policy(mass=0.7), store, "mine")
    (runs, dense) = zip(*(audit.ids(TEXTS[0]) for audit in (one, two, three)), strict=True)
    assert len(set(runs)) == 3
    assert dense[0] == dense[1] != dense[2], "other weights under the same name"
    for audit in (one, two):
        list(audit.over(TEXTS))
    assert len(store.ids()) == 3 * len(TEXTS)
    assert {each.key for each in audits(store)} == {one.key, two.key}


def test_a_deleted_side_is_run_again(little, store) -> None:
    audit = Audit(little, saa.Policy(mass=0.7), store, "mine")
    (done,) = audit.over(TEXTS[:1])
    before = store.get(done.run).audited
    for run in (done.dense, done.run):
        store.delete(run)
        assert [again.new for again in audit.over(TEXTS[:1])] == [True]
    assert store.get(done.run).audited == before


def test_lost_is_the_probability_that_the_dense_choice_loses() -> None:
    ids = np.array([[1, 2, 3], [4, 5, 6]])
    probs = np.array([[0.6, 0.3, 0.1], [0.5, 0.3, 0.2]])
    dense = replace(synthetic(1, tokens=2), top_ids=ids, top_probs=probs)
    moved = replace(
        dense,
        top_ids=np.array([[2, 1, 3], [7, 8, 9]]),
        top_probs=np.array([[0.7, 0.2, 0.1], [0.8, 0.15, 0.05]]),
    )
    found = compare_with_dense("a", (), dense, moved)
    assert found.agreement == 0.0
    assert found.lost == pytest.approx(((0.6 - 0.2) + (0.5 - 0.05)) / 2)
    assert compare_with_dense("a", (), dense, dense) == Audited("a", (), 1.0, 0.0)
    yes, no = (replace(synthetic(1), labels=("n", "p"), label_probs=p) for p in (
        np.array([0.2, 0.8]), np.array([0.7, 0.3])))  # fmt: skip
    label = compare_with_dense("a", (), yes, no)
    assert (label.agreement, label.lost) == (0.0, pytest.approx(0.5))
    with pytest.raises(saa.TraceError, match="different tokens"):
        compare_with_dense("a", (), dense, synthetic(2))
    with pytest.raises(saa.TraceError, match="neither labels nor next tokens"):
        compare_with_dense("a", (), synthetic(1), synthetic(1))


def test_figures_by_slice_distribution_and_worst_cases(store) -> None:
    values = {
        "audit-a": (0.5, 0.30, "numbers"),
        "audit-b": (0.9, 0.01, "numbers", "names"),
        "audit-c": (0.5, 0.40),
        "audit-d": (1.0, -0.05, "names"),
    }
    store.add_missing({run: made(run, *value) for run, value in values.items()})
    store.add(synthetic(9))
    which = about(store, "made-1")
    assert (which.texts, which.labels) == (4, False)
    slices = {row.name: row for row in by_slice(store, about(store, "made-1"))}
    assert list(slices) == ["all", "numbers", "names"]
    assert slices["all"].agreement == pytest.approx(0.725)
    assert slices["numbers"].texts == 2
    assert slices["numbers"].lost == pytest.approx(0.155)
    assert [case.id for case in cases(store, "made-1")] == [
        "audit-c",
        "audit-a",
        "audit-b",
        "audit-d",
    ]
    for part, total in (("all", 4), ("names", 2)):
        for measure in ("agreement", "lost"):
            bars = distribution(store, "made-1", measure, part)
            assert sum(bar.texts for bar in bars) == total
            for at, bar in ((at, bar) for at, bar in enumerate(bars) if bar.texts):
                inside = cases(store, "made-1", part=part, measure=measure, bar=at)
                assert len(inside) == bar.texts
                for case in inside:
                    value = getattr(case, measure)
                    assert bar.low - 1e-6 <= value <= bar.high + 1e-6
    with pytest.raises(saa.StoreError, match="made-1"):
        about(store, "another")
    with pytest.raises(saa.StoreError, match="agreement"):
        distribution(store, "made-1", "text")


def test_the_interval_of_labels_is_exact(store) -> None:
    for at, same in enumerate((1.0, 1.0, 1.0, 0.0)):
        trace = synthetic(at, label="positive", text=f"Text {at}.")
        store.add(replace(trace, audited=Audited("made-1", (), same, 0.0)), run=f"audit-{at}")
    (row,) = by_slice(store, about(store, "made-1"))
    assert (row.agreement, row.low, row.high) == (
        0.75,
        pytest.approx(0.1941, abs=1e-4),
        pytest.approx(0.9937, abs=1e-4),
    )


@pytest.mark.parametrize(
    "about", [{"agreement": 2.0}, {"lost": float("nan")}, {"slices": [1]}, {"audit": ""}, {"x": 1}]
)
def test_a_hostile_mark_is_refused(about, tmp_path: Path, monkeypatch) -> None:
    trace = made("audit-a", 0.5, 0.1, "numbers")
    file = trace.save(tmp_path / "one.saa")
    assert saa.Trace.load(file).audited == trace.audited
    whole = {"audit": "a", "slices": [], "agreement": 1.0, "lost": 0.0}
    monkeypatch.setattr("saa_core.trace.file.asdict", lambda value: (
        {**whole, **about} if isinstance(value, Audited) else vars(value)))  # fmt: skip
    trace.save(file)
    with pytest.raises(saa.TraceError):
        saa.Trace.load(file)


def table(folder: Path, kind: str) -> Path:
    """The texts as a file of some kind."""
    file = folder / f"texts.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"text": TEXTS}), file, row_group_size=2)
    elif kind == "jsonl":
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), "utf-8")
    else:
        file.write_text("text\n" + "".join(f'"{text}"\n' for text in TEXTS), "utf-8")
    return file


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_tables_give_their_texts_one_by_one(kind, tmp_path, little, monkeypatch) -> None:
    monkeypatch.setattr("saa_core.data.tables.PARQUET_ROWS", 2)
    assert tuple(corpora.texts_of(little, table(tmp_path, kind))) == TEXTS


def test_a_text_file_is_cut_alike_however_it_is_read(tmp_path, little, novel, monkeypatch) -> None:
    file = tmp_path / "book.txt"
    file.write_text(novel[:6000], "utf-8")
    whole = list(corpora.texts_of(little, file, length=48))
    monkeypatch.setattr(corpora, "PIECE", 700)
    pieces = list(corpora.texts_of(little, file, length=48))
    assert len(whole) > 20
    assert abs(len(pieces) - len(whole)) <= 1
    for found in (whole, pieces):  # no text is lost between two windows
        assert "".join("".join(found).split()) == "".join(novel[:6000].split())[: sum(
            len("".join(part.split())) for part in found)]  # fmt: skip


@pytest.mark.model
def test_the_command_prints_slices_and_worst_cases_of_a_task(tmp_path, capsys) -> None:
    folder, file = str(tmp_path / "store"), table(tmp_path, "jsonl")
    given = ["audit", str(file), "--task", "sentences", "--tokens", "0.5", "--store", folder]
    assert main([*given, "--limit", "2", "--worst", "1"]) == 0
    assert "2 texts: 2 run now" in capsys.readouterr().out
    assert main([*given, "--worst", "1"]) == 0
    printed = capsys.readouterr().out
    assert "4 texts: 2 run now, 2 were in the store" in printed
    store = Store(folder)
    (which,) = audits(store)
    assert which.key.startswith("texts-")
    assert which.labels
    assert f"audit {which.key}: minilm + sentences, mass 1, tokens 0.5; 4 texts" in printed
    (worst,) = cases(store, which.key, limit=1)
    assert printed.count("\n  audit-") == 1
    assert f"saa report {worst.id}" in printed
    assert main(["report", worst.id, "-o", str(tmp_path / "one.html"), "--store", folder]) == 0
    for line in ("all ", "numbers ", "negation "):
        assert f"\n{line}" in printed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{file}", "no-such.csv"], "FILE='no-such.csv' is not a file"),
        (["{file}", "--limit", "-1"], "--limit=-1"),
        (["{file}", "--column", "body"], "column 'body' is missing; the columns are: text"),
        (["{file}", "--name", "a/b"], "name='a/b'"),
        (["{file}", "--model", "minilm"], "is an encoder and has no perplexity"),
        (["{file}", "--mass", "0.9", "--budget", "0.4"], "exclude each other"),
        (
            ["{long}", "--no-cut"],
            "l.jsonl, row 1: text has 9001 tokens, and smollm2 takes at most 8192;",
        ),
        (["{empty}"], "e.jsonl: column 'text' is empty in each of its 1 rows"),
        (["{dense}", "--policy", "{dense}"], "stays dense; there is nothing to audit"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals_are_one_sentence_and_leave_nothing(
    arguments, sentence, tmp_path, capsys, monkeypatch, smollm2
) -> None:
    monkeypatch.setattr("saa_core.loading.load", lambda name, **given: (
        smollm2 if name == "smollm2" else saa.load(name)))  # fmt: skip
    files = {"file": table(tmp_path, "csv"), "long": tmp_path / "l.jsonl"}
    files |= {"empty": tmp_path / "e.jsonl", "dense": tmp_path / "dense.json"}
    files["long"].write_text(json.dumps({"text": "word " * 9000}) + "\n")
    files["empty"].write_text('{"text": ""}\n')
    files["dense"].write_text('{"format": 1, "policy": null}')
    folder = tmp_path / "store"
    filled = [each.format(**files) for each in arguments]
    assert main(["audit", *filled, "--store", str(folder)]) == 1
    errors = capsys.readouterr().err
    assert sentence in errors
    assert "Traceback" not in errors
    assert not list(folder.glob("*.saa"))


class CountingTokenizer:
    """A tokenizer that remembers the texts that it was given."""

    def __init__(self, real: Any) -> None:
        self.real, self.given = real, list[str]()

    def __call__(self, text: str, **options: Any) -> Any:
        self.given.append(text)
        return self.real(text, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_a_file_is_read_once_and_a_text_is_tokenized_once(
    kind, tmp_path, little, monkeypatch, capsys
) -> None:
    counting = CountingTokenizer(little.tokenizer)
    model, read = replace(little, tokenizer=counting), list[Path]()

    real = corpora.texts_of

    def texts_of(model: saa.Model, file: Path, *options: Any) -> Iterator[str]:
        read.append(file)
        return real(model, file, *options)

    monkeypatch.setattr("saa_core.loading.load", lambda name, **given: model)
    monkeypatch.setattr(corpora, "texts_of", texts_of)
    file, folder = table(tmp_path, kind), str(tmp_path / "store")
    given = ["audit", str(file), "--mass", "0.7", "--store", folder]
    for stored in (0, len(TEXTS)):
        read.clear()
        counting.given.clear()
        assert main(given) == 0
        assert (
            f"{len(TEXTS) - stored} run now, {stored} were in the store" in capsys.readouterr().out
        )
        assert counting.given == list(TEXTS)
        assert read == [file]


def test_a_text_that_cannot_be_used_stops_an_audit_before_it_runs_any(
    little, store, tmp_path, monkeypatch, capsys
) -> None:
    file = tmp_path / "texts.jsonl"
    last = json.dumps({"text": "word " * 2000})
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS) + last, "utf-8")
    monkeypatch.setattr("saa_core.loading.load", lambda name, **given: little)
    given = ["audit", str(file), "--mass", "0.7", "--store", str(store.folder)]
    assert main([*given, "--no-cut"]) == 1
    refused = capsys.readouterr().err
    assert "saa: texts.jsonl, row 5: " in refused
    assert refused.endswith("; without --no-cut it is cut\n")
    assert store.ids() == []
    assert main(given) == 0
    said = capsys.readouterr().err
    assert "saa: texts.jsonl: UTF-8, one JSON object a line, 5 rows\n" in said
    assert (
        "saa: 1 of 5 texts is longer than 1,024 tokens and cut there; the first is texts.jsonl, row 5\n"
        in said
    )
    assert len(store.ids()) == 10


def test_long_texts_are_cut_where_that_is_asked_for(little, store) -> None:
    text = "word " * 2000
    audit = Audit(little, saa.Policy(mass=0.9), store, "cut", cut=True)
    short = audit.tokenize(text).text
    assert text.startswith(short)
    assert len(little.tokenizer(short)["input_ids"]) in range(1000, 1025)
    with pytest.raises(saa.TextError, match="cut it after"):
        Audit(little, saa.Policy(mass=0.9), store, "cut").tokenize(text)


def test_a_killed_and_resumed_audit_equals_an_unbroken_one(tmp_path, smollm2) -> None:
    out = tmp_path / "faults.json"
    command = [sys.executable, "-m", "benchmarks.records.audit_faults", "--kills", "3"]
    done = subprocess.run(
        [*command, "--texts", "8", "--seed", "1", "--out", str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["traces"] == 16
    after = [kill["traces_after"] for kill in found["kills"]]
    assert 0 < max(after) < 16, "no kill met an audit that was half done"
