"""The facts that the page says in words, against counts over single pairs."""

import numpy as np
import pytest

import saa_core as saa
from saa_core.trace.summary import FEW, MOST, LayerGroup, summarise

TEXT = (
    "The ferry leaves at nine. If the sea is calm, the ferry reaches the island by ten, and the "
    "passengers have five hours to see the chapel, the old harbour and the three windmills."
)


@pytest.mark.parametrize("granularity", ["pair", "block"])
def test_layers_are_told_by_their_far_pairs(smollm2, novel, granularity):
    content = TEXT if granularity == "pair" else novel[:1200]
    trace = saa.run(smollm2, content, saa.Policy(mass=0.93, granularity=granularity))
    found = summarise(trace)
    decided = [saa.REASONS.index(reason) for reason in ("gate", "below")]
    shares, total = [], 0
    for layer in range(trace.shape[0]):
        codes = np.stack([trace.reason_map(layer, head) for head in range(trace.shape[1])])
        gate, below = ((codes == code).sum() for code in decided)
        shares.append(gate / (gate + below))
        total += gate + below
    assert found.far == pytest.approx(total / (trace.allowed_pairs.sum() * trace.shape[1]))
    assert sorted(layer for group in found.groups for layer in group.layers) == list(range(30))
    for group in found.groups:
        for layer in group.layers:
            kind = "nearby" if shares[layer] <= FEW else "choosy" if shares[layer] < MOST else "all"
            assert group.kind == {"all": "everywhere"}.get(kind, kind)
    assert found.busiest == (int(np.argmax(shares)), pytest.approx(max(shares)))


def test_the_most_read_token_is_kept_by_the_most_of_those_far_from_it(smollm2):
    trace = saa.run(smollm2, TEXT, saa.Policy(mass=0.93))
    token, share = summarise(trace).most_read
    gate = below = 0
    for layer in range(trace.shape[0]):
        for head in range(trace.shape[1]):
            column = trace.reason_map(layer, head)[:, token]
            gate += (column == saa.REASONS.index("gate")).sum()
            below += (column == saa.REASONS.index("below")).sum()
    assert share == pytest.approx(gate / (gate + below))


def test_what_has_no_decisions_has_nothing_to_tell(smollm2):
    assert summarise(saa.run(smollm2, TEXT)) is None
    assert summarise(saa.run(smollm2, TEXT, saa.Policy(), record="summary")) is None
    short = summarise(saa.run(smollm2, "A short text.", saa.Policy()))
    assert short.groups == ()
    assert short.most_read is None


def test_layers_are_said_as_stretches():
    assert LayerGroup("choosy", (0, 3, 4, 5, 9), 0.5).ranges == [(0, 0), (3, 5), (9, 9)]
    assert LayerGroup("choosy", (7,), 0.5).ranges == [(7, 7)]
