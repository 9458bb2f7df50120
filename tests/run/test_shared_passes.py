"""What one run dense and one run with SAA share: the head runs once over each, the cache is written on."""

import numpy as np
import pytest

import saa_core as saa
from saa_core.run.execute import execute
from saa_core.run.generate import write_on
from saa_core.run.text import compare_and_fill, encode, trace_of
from saa_core.run.timing import rounds

TEXT = "The ferry leaves at nine, and if the sea is calm it reaches the island by ten."
POLICY = saa.Policy(mass=0.5, sink=1, local=1)


@pytest.fixture(scope="module")
def apart(smollm2) -> tuple[saa.Trace, saa.Trace]:
    return saa.run(smollm2, TEXT), saa.run(smollm2, TEXT, POLICY)


def test_comparing_fills_in_what_each_run_alone_computes(smollm2, apart) -> None:
    encoded, rows = encode(smollm2, TEXT), list[int]()
    bare = [
        trace_of(
            smollm2,
            TEXT,
            encoded,
            execute(smollm2, [encoded["input_ids"]], policy, "full"),
            top=False,
        )
        for policy in (None, apart[1].policy)
    ]
    assert bare[0].top_ids is None
    count = smollm2.hf.get_output_embeddings().register_forward_hook(
        lambda module, states, out: rows.append(len(states[0]))
    )
    try:
        *filled, comparison = compare_and_fill(*bare)
    finally:
        count.remove()
    assert sum(rows) == 2 * bare[0].keys, "each head runs once over each of the two runs"
    for trace, alone in zip(filled, apart, strict=True):
        np.testing.assert_array_equal(trace.top_ids, alone.top_ids)
        np.testing.assert_allclose(trace.top_probs, alone.top_probs, rtol=1e-5)
    expected = saa.compare(*apart)
    np.testing.assert_allclose(comparison.kl, expected.kl, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(comparison.top1_agreement, expected.top1_agreement)
    np.testing.assert_allclose(comparison.output_error, expected.output_error)
    assert comparison.kl.max() > 0.01, "the two runs differ"


def test_two_texts_are_not_laid_together(smollm2, apart) -> None:
    with pytest.raises(saa.TraceError, match="different tokens"):
        compare_and_fill(apart[0], saa.run(smollm2, "Something else."))


def test_a_prompt_is_written_on_once(smollm2) -> None:
    ids = encode(smollm2, TEXT)["input_ids"]
    found = execute(smollm2, [ids], POLICY, keep_cache=True)
    steps: list[int] = []
    count = smollm2.hf.base_model.register_forward_hook(
        lambda module, given, out: steps.append(out.last_hidden_state.shape[1])
    )
    try:
        written = "".join(write_on(smollm2, found, 4))
    finally:
        count.remove()
    assert steps == [1, 1, 1], "the first token comes from the prompt's own states"
    assert written == "".join(saa.generate(smollm2, TEXT, POLICY, max_new_tokens=4))
    with pytest.raises(saa.ModelError, match="written on before"):
        next(write_on(smollm2, found, 4))


def test_rounds_come_one_by_one_and_keep_what_was_measured(smollm2) -> None:
    ids = encode(smollm2, TEXT)["input_ids"]
    done: list[tuple[int, int]] = []
    passes: list[int] = []
    count = smollm2.hf.base_model.register_forward_hook(lambda *_: passes.append(1))
    try:
        steps = rounds(
            smollm2,
            ids,
            (None, POLICY),
            repeats=3,
            warm_up=False,
            progress=lambda what, now, total: done.append((now, total)),
        )
        first = next(steps)
        assert len(passes) == 2, "the second round waits until it is asked for"
        _, last = steps
    finally:
        count.remove()
    assert [len(timing.samples_ms) for timing in (*first, *last)] == [1, 1, 3, 3]
    assert all(a.samples_ms == b.samples_ms[:1] for a, b in zip(first, last, strict=True))
    assert [timing.length for timing in last] == [len(ids)] * 2
    assert done == [(now, 6) for now in range(1, 7)]
