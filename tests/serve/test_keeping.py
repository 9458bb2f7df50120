"""Runs that are kept: what of them, by whom they may be seen, and that they go away by themselves."""

import time

import numpy as np
import pytest

from saa_core.serve.access import Caller
from saa_core.serve.keeping import Kept
from saa_core.serve.metrics import Metrics
from saa_core.serve.settings import Keep
from saa_core.store import Store
from tests.serve.conftest import settings
from tests.serve.serving import running

TEXT = "w5 w6 w7 w8"
OPS, ANA, BEN = Caller("ops", True), Caller("ana", False), Caller("ben", False)
SECRETS = {
    "ops": "a-secret-of-an-operator",
    "ana": "a-secret-of-ana-000",
    "ben": "a-secret-of-ben-000",
}


@pytest.mark.parametrize("what", ["none", "figures", "text"])
def test_what_is_kept_is_what_the_operator_says(toys, tmp_path, what):
    tokens = tmp_path / "tokens"
    tokens.write_text(
        "\n".join(f"{n} {'operator' if n == 'ops' else 'user'} {s}" for n, s in SECRETS.items())
    )
    keep = Keep(what, str(tmp_path / "kept"))
    offered = settings(tmp_path, "toys", keep=keep, token_file=str(tokens))

    def by(name):
        return {"Authorization": f"Bearer {SECRETS[name]}"}

    with running(offered, {"toys": toys}) as own:
        answer = own.ask("/saa/v1/run", {"model": "toys", "text": TEXT}, **by("ana"))
        assert answer.headers["content-type"] == "application/vnd.saa.trace"
        listed = {n: own.ask("/saa/v1/traces", **by(n)).json["traces"] for n in SECRETS}
        assert listed["ben"] == []
        if what == "none":
            assert listed["ops"] == listed["ana"] == []
            assert not (tmp_path / "kept").exists()
            return
        (run,) = (each["run"] for each in listed["ana"])
        assert [each["owner"] for each in listed["ops"]] == ["ana"]
        trace = Store(tmp_path / "kept").get(run)
        assert trace.text == (TEXT if what == "text" else None)
        if what == "figures":
            assert not np.any(trace.token_ids)
            for name in ("tokens", "offsets", "hidden", "top_ids", "attention_received"):
                assert getattr(trace, name) is None, name
            assert trace.token_score is None or np.isnan(trace.token_score).all()
            for layer in range(trace.shape[0]):
                maps = trace.layers.read(layer)
                assert maps.keep.any()
                assert not maps.score.any()
                assert not maps.threshold.any()
            assert TEXT.encode() not in (tmp_path / "kept" / f"{run}.saa").read_bytes()
        assert own.ask(f"/saa/v1/traces/{run}", **by("ben")).status == 404
        assert own.ask(f"/saa/v1/traces/{run}", method="DELETE", **by("ben")).status == 404
        assert own.ask(f"/saa/v1/traces/{run}", **by("ana")).status == 200
        assert own.ask(f"/saa/v1/traces/{run}", method="DELETE", **by("ana")).status == 200
        assert own.ask(f"/saa/v1/traces/{run}", **by("ops")).status == 404


def test_runs_expire_by_age_and_by_number(toys, tmp_path):
    from saa_core.run.text import run

    now = [time.time()]
    kept = Kept(Keep("text", str(tmp_path), hours=1.0, most=2), Metrics([], "cpu"), lambda: now[0])
    trace = run(toys, TEXT)
    first = kept.add(trace, ANA)
    assert kept.expire() == 0
    now[0] += 3601
    assert kept.file(first, ANA) is None, "it is not shown any more, even before it is deleted"
    assert kept.expire() == 1
    assert kept.visible(OPS) == []
    now[0] -= 3601
    runs = {kept.add(trace, ANA) for _ in range(3)}
    assert kept.expire() == 1
    assert {each.run for each in kept.visible(ANA)} < runs
    assert kept.visible(BEN) == []


def test_expiry_runs_by_itself(toys, tmp_path, monkeypatch):
    from saa_core.run.text import run
    from saa_core.serve import server
    from tests.serve.serving import wait_for

    monkeypatch.setattr(server, "EVERY", 0.05)
    store = Store(tmp_path / "kept")
    store.add(run(toys, TEXT), run="20200101T000000Z-old", tags=["asked by ana"])
    store.add(run(toys, TEXT), run="20200101T000000Z-mine")
    keep = Keep("figures", str(tmp_path / "kept"))
    with running(settings(tmp_path, "toys", keep=keep), {"toys": toys}) as own:
        wait_for(lambda: Store(tmp_path / "kept").ids() == ["20200101T000000Z-mine"])
        wait_for(lambda: own.figure("saa_kept_runs_expired_total") == 1)
