"""Kills an audit at random moments, resumes it, and compares it with one that was not interrupted.

    OMP_NUM_THREADS=1 python -m benchmarks.records.audit_faults --kills 5   # writes benchmarks/results/audit_faults.json

A kill is SIGKILL at a random time, or at a random one of the audit's operations on files, so that the
short moments between two of them are met as well. Compared are header and data of every trace file, and every
row that the store gives of them but the column ``recorded``, which is the time of writing.
"""

import argparse
import json
import multiprocessing
import random
import signal
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

import saa_core as saa
from benchmarks.records.faults import die_at_operation
from saa_core.audit import audit
from saa_core.audit.audit import Audit
from saa_core.data import fetch
from saa_core.files import write_json
from saa_core.run.corpora import texts_of
from saa_core.store import Store
from saa_core.trace.tables import SCHEMAS

RESULTS = Path(__file__).parent.parent / "results"
CORPUS = fetch.assets() / "examples" / "persuasion_2400.txt"
DEEPEST = 200
"""Operations on files after which an audit that kills itself has done so."""


def run_audit(model: saa.Model, folder: Path, texts: int, operations: int | None = None) -> None:
    """Audits the first texts of the corpus into a store, text by text.

    Args:
        operations: kill yourself at this operation on files; None goes on to the end.
    """
    audit.BATCH = 1
    if operations is not None:
        die_at_operation(operations)
    which = Audit(model, saa.Policy(mass=0.9), Store(folder), "faults")
    found = list(islice(texts_of(model, CORPUS, length=24), texts))
    for _ in which.over([*found, *found[:3]]):  # the last ones come twice
        pass


def content(folder: Path) -> dict[str, object]:
    """All that a store holds of its runs, without when they were written."""
    store = Store(folder)
    assert not store.broken()
    rows: dict[str, object] = {run: parts(store.path(run)) for run in store.ids()}
    for table in SCHEMAS:
        told = "* EXCLUDE (recorded)" if table == "runs" else "*"
        rows[table] = store.query(f"SELECT {told} FROM {table} ORDER BY ALL").to_pylist()
    return rows


def parts(file: Path) -> tuple[object, bytes]:
    """Header and data of a trace file: safetensors writes the entries of the header in any order."""
    raw = file.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:end]), raw[end:]


def apart(work: Callable[[], None]) -> BaseProcess:
    """Forked from a process that never starts a thread, so that no import has to be waited for."""
    process = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    process.start()
    return process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--texts", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "audit_faults.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    draw, model = random.Random(options.seed), saa.load("smollm2", device="cpu")
    with tempfile.TemporaryDirectory() as temporary:
        whole, broken = Path(temporary) / "whole", Path(temporary) / "broken"
        begin = time.monotonic()
        process = apart(lambda: run_audit(model, whole, options.texts))
        process.join()
        seconds = time.monotonic() - begin
        assert process.exitcode == 0
        kills = list[dict[str, object]]()
        for at in range(options.kills):
            by_time = at % 2 == 0
            operations = None if by_time else draw.randrange(1, DEEPEST)
            process = apart(lambda deep=operations: run_audit(model, broken, options.texts, deep))  # type: ignore[misc]
            if by_time:
                process.join(draw.uniform(0.1, 0.9) * seconds / options.kills)
                process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL, "it was done before it was killed"
            traces = len(list(broken.glob("*.saa")))
            kills.append({"by": "time" if by_time else "operation", "traces_after": traces})
        process = apart(lambda: run_audit(model, broken, options.texts))
        process.join()
        assert process.exitcode == 0
        expected, found = content(whole), content(broken)
    assert found == expected, "a resumed audit differs from one that was not interrupted"
    write_json(
        options.out,
        {
            "what": "an audit killed with SIGKILL and resumed; header and data of every trace file and every "
            "row but the time of writing equal to those of an unbroken one, or this fails",
            "texts": options.texts,
            "traces": len(found) - len(SCHEMAS),
            "kills": kills,
        },
    )
    print(f"{len(kills)} kills, the same traces and rows as without")


if __name__ == "__main__":
    main()
