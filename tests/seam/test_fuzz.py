"""Random cases of the seam; ``SAA_FUZZ_CASES=5000`` runs more, ``SAA_FUZZ_SEED`` begins elsewhere."""

import os
from collections import Counter

import pytest

from tests.seam.fuzz import draw, run

CASES = int(os.environ.get("SAA_FUZZ_CASES", "100"))
FIRST = int(os.environ.get("SAA_FUZZ_SEED", "0"))


@pytest.mark.slow
def test_everything_kept_is_dense_whatever_comes_in():
    outcomes = {seed: run(draw(seed)) for seed in range(FIRST, FIRST + CASES)}
    counted = Counter(outcome.kind for outcome in outcomes.values())
    faults = {seed: o.says for seed, o in outcomes.items() if o.kind in ("wrong", "raw")}
    refused = Counter(o.says for o in outcomes.values() if o.kind == "refused")
    idle = Counter(o.says for o in outcomes.values() if o.kind == "not run")
    print(f"\nseeds {FIRST} to {FIRST + CASES - 1}: {dict(counted)}")
    for title, reasons in (("refused", refused), ("not run by the model itself", idle)):
        for reason, times in reasons.most_common():
            print(f"{title}, {times} times: {reason[:200]}")
    assert not faults, "\n".join(
        f"seed {seed}: {draw(seed)}: {says}" for seed, says in faults.items()
    )
    assert counted["refused"] <= 0.05 * CASES
    assert counted["not run"] <= 0.1 * CASES
    assert counted["equal by layer"] <= 0.15 * CASES
    assert counted["equal"] + counted["equal by layer"] > 0.85 * CASES
