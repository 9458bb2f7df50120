"""Kills a writer of a store at random moments and looks at what is left.

    python -m benchmarks.records.store_faults --kills 100      # writes benchmarks/results/store_faults.json

Half of the writers are killed after a random time, wherever they are (in the middle of a write, of a
compaction); half kill themselves at a random one of their operations on files, so that the short
moments between two of them are met as well. After each: every trace that was reported as stored is
there and whole, nothing else is listed but whole traces, and the next write leaves no leftovers.
What can be asked once and for all is in tests/test_store.py: a full disk, truncated, foreign and hostile
files, ids that are paths.
"""

import argparse
import contextlib
import json
import multiprocessing
import random
import signal
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.records.faults import die_at_operation
from benchmarks.synthetic import synthetic
from saa_core.files import write_json
from saa_core.store import Store
from saa_core.trace.check import check

RESULTS = Path(__file__).parent.parent / "results"
LONGEST = 0.4
"""Seconds after which a writer that is killed by time has been killed."""
DEEPEST = 160
"""Operations on files after which a writer that kills itself has done so."""


@dataclass(frozen=True)
class Outcome:
    """What a killed writer had reported, and what was found afterwards."""

    by: str
    reported: int
    stored: int
    leftovers_before: int


def write_for_ever(folder: Path, seed: int, tell: Connection, operations: int | None) -> None:
    """Adds, notes, deletes; tells of everything that is done. Never returns.

    Args:
        operations: kill yourself at this operation on files; None goes on.
    """
    store, draw, own = Store(folder), random.Random(seed), list[str]()
    if operations is not None:
        die_at_operation(operations)
    while True:
        run = store.add(synthetic(draw.randrange(10**6)), note="n", tags=["kill"])
        own.append(run)
        tell.send(("add", run))
        if draw.random() < 0.3:
            gone = own.pop(draw.randrange(len(own)))
            tell.send(("deleting", gone))
            store.delete(gone)
            tell.send(("deleted", gone))


def kill_once(folder: Path, draw: random.Random) -> Outcome:
    """Starts a writer, kills it, has the store checked.

    Both are forked from a process that never starts a thread, so that neither waits for imports.

    Raises:
        RuntimeError: a finished trace is lost, or something half is left.
    """
    context = multiprocessing.get_context("fork")
    hear, tell = context.Pipe(duplex=False)
    by_time = draw.random() < 0.5
    operations = None if by_time else draw.randrange(1, DEEPEST)
    arguments = (folder, draw.randrange(10**6), tell, operations)
    writer = context.Process(target=write_for_ever, args=arguments, daemon=True)
    writer.start()
    tell.close()
    told = list[tuple[str, str]]()
    with contextlib.suppress(EOFError):
        if by_time:
            told.append(hear.recv())
            writer.join(draw.uniform(0, LONGEST))
            writer.kill()
        while True:
            told.append(hear.recv())
    writer.join()
    hear, tell = context.Pipe(duplex=False)
    checker = context.Process(target=lambda: tell.send(inspect(folder, told)))
    checker.start()
    tell.close()
    checker.join()
    if writer.exitcode != -signal.SIGKILL or checker.exitcode != 0:
        raise RuntimeError(f"writer {writer.exitcode}, checker {checker.exitcode}; told: {told}")
    stored, before = hear.recv()
    return Outcome("time" if by_time else "operation", len(told), stored, before)


def inspect(folder: Path, told: list[tuple[str, str]]) -> tuple[int, int]:
    """Checks a store after a kill; how many traces and, before the next write, leftovers it holds."""
    before = leftovers(folder)
    store = Store(folder)
    added = {run for what, run in told if what == "add"}
    maybe = {run for what, run in told if what == "deleting"}
    gone = {run for what, run in told if what == "deleted"}
    found = set(store.ids())
    assert added - maybe <= found, "a finished trace is lost"
    assert not gone & found, "a deleted trace is back"
    assert not store.broken()
    for run in found:
        check(store.get(run), maps=True)
    rows = store.query(
        "SELECT id, count(*) AS heads FROM runs JOIN heads USING (id) GROUP BY id"
    ).to_pylist()
    assert {row["id"]: row["heads"] for row in rows} == dict.fromkeys(found, 24)
    assert {run for run, note in store.notes().items() if note.tags} >= added & found
    parts = {path.name for path in (folder / "tables").glob("*")}
    last = store.add(synthetic(0))
    # A part that this very write replaced stays for readers who are at it, until the next write.
    assert set(leftovers(folder)) <= parts - set(before), "a later write leaves it lying"
    store.delete(last)
    return len(found), len(before)


def leftovers(folder: Path) -> list[str]:
    """Files and folders of a store that do not count."""
    if not folder.is_dir():
        return []
    known = {"store.json", "notes.json", "queries.json", "tables", ".lock"}
    names = [path.name for path in folder.iterdir()]
    found = [name for name in names if name not in known and not name.endswith(".saa")]
    if (folder / "store.json").is_file():
        parts = json.loads((folder / "store.json").read_text("utf-8"))["parts"]
        counted = {part["name"] for part in parts}
        found += [path.name for path in (folder / "tables").iterdir() if path.name not in counted]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "store_faults.json")
    options = parser.parse_args()
    draw, outcomes = random.Random(options.seed), list[Outcome]()
    with tempfile.TemporaryDirectory() as temporary:
        for _ in range(options.kills):
            outcomes.append(kill_once(Path(temporary) / "store", draw))
    write_json(
        options.out,
        {
            "what": "writers killed with SIGKILL; traces lost, half or left over: none, or this fails",
            "kills": len(outcomes),
            "by": Counter(outcome.by for outcome in outcomes),
            "with_leftovers_before_the_next_write": sum(
                outcome.leftovers_before > 0 for outcome in outcomes
            ),
            "outcomes": [asdict(outcome) for outcome in outcomes],
        },
    )
    print(f"{len(outcomes)} kills, nothing finished lost, nothing half left")


if __name__ == "__main__":
    main()
