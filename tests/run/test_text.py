"""A text through the real SmolLM2: traces, comparison, continuation, files."""

import dataclasses
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

import saa_core as saa
from saa_core.native import unavailable
from saa_core.trace.recorded import ModelInfo
from saa_core.types import BELOW, DENSE, GATE, LOCAL, NOT_ALLOWED, SINK

GOLDEN = Path(__file__).parents[1] / "golden"
TEXT = (
    "Sir Walter Elliot, of Kellynch Hall, was a man who, for his own amusement, never took up "
    "any book but the Baronetage; there he found occupation for an idle hour."
)


@pytest.fixture(scope="module")
def traces(smollm2):
    return saa.run(smollm2, TEXT), saa.run(smollm2, TEXT, saa.Policy(mass=0.9))


def test_a_dense_run_keeps_everything_and_equals_the_model(smollm2, traces):
    dense, _ = traces
    assert (dense.density == 1).all()
    np.testing.assert_allclose(dense.retained_mass, 1, atol=1e-5)
    ids = torch.tensor([dense.token_ids.tolist()])
    with torch.inference_mode():
        expected = smollm2.hf(ids).logits[0]
    assert (dense.top_ids[:, 0] == expected.argmax(-1).numpy()).all()
    assert (dense.reason_map(0, 0)[dense.allowed(0)] == DENSE).all()


def test_what_the_trace_says_fits_together(traces):
    _, sparse = traces
    N = sparse.keys
    assert sparse.execution.kernel == "native"
    assert "fastest" in sparse.execution.reason
    assert sparse.block == (1, 1)
    assert 0.05 < sparse.density.mean() < 0.9
    assert sparse.model.trained
    spelt = [sparse.text[slice(*place)] for place in sparse.offsets]
    assert "".join(spelt) == sparse.text
    assert spelt[:4] == ["Sir", " Walter", " Ell", "iot"]
    keep, reason = sparse.keep_map(4, 2), sparse.reason_map(4, 2)
    assert keep.shape == (N, N)
    assert keep.sum() / sparse.allowed(4).sum() == pytest.approx(sparse.density[4, 2], abs=1e-6)
    assert (keep == np.isin(reason, (GATE, SINK, LOCAL))).all()
    assert (reason[~np.tri(N, dtype=bool)] == NOT_ALLOWED).all()
    assert (reason == BELOW).any()
    threshold = sparse.maps(4).threshold[2][:, None]
    score = sparse.score_map(4, 2)
    assert (score[reason == GATE] >= (threshold + 0 * score)[reason == GATE] - 1e-3).all()
    assert (score[reason == BELOW] <= (threshold + 0 * score)[reason == BELOW] + 1e-3).all()


def test_retained_mass_is_the_kept_share_of_the_true_softmax(smollm2):
    """Recomputed from the queries and keys of one layer, without the recorder."""
    seen = {}

    def observe(layer, q, k, allowed, scale):
        seen[layer] = (q, k, scale)

    call = saa.Call(saa.Policy(mass=0.8), record="full", observe=observe)
    ids = torch.tensor([smollm2.tokenizer(TEXT)["input_ids"]])
    with torch.inference_mode():
        smollm2.hf(ids, saa=call)
    trace = call.trace()
    q, k, scale = seen[7]
    scores = q @ k.repeat_interleave(3, 1).transpose(-1, -2) * scale
    hidden = ~torch.tensor(trace.allowed(0))
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)[0]
    for head in (0, 5):
        kept = torch.tensor(trace.keep_map(7, head))
        expected = float((weights[head] * kept).sum(-1).mean())
        assert trace.retained_mass[7, head] == pytest.approx(expected, abs=1e-5)
    received = weights.sum(1) / (~hidden).sum(0)
    np.testing.assert_allclose(trace.attention_received[7], received.numpy(), atol=1e-5)


@pytest.mark.parametrize("size", [3000, pytest.param(9000, marks=pytest.mark.long)])
def test_the_trained_gate_beats_a_fixed_window(smollm2, novel, size):
    """At the same number of pairs the gate must keep more true mass than sink and window."""
    text = novel[:size]
    gated = saa.run(smollm2, text, saa.Policy(mass=0.9, granularity="block"))
    width = int(gated.keys * gated.density.mean() * 0.5)
    window = saa.run(
        smollm2, text, saa.Policy(mass=1e-6, local=max(width, 16), sink=16, granularity="block")
    )
    assert window.density.mean() >= gated.density.mean() * 0.9
    assert gated.retained_mass.mean() > window.retained_mass.mean()


def test_compare_sees_no_difference_where_there_is_none(smollm2, traces):
    dense, sparse = traces
    same = saa.compare(dense, saa.run(smollm2, TEXT, saa.Policy(mass=1.0)))
    assert same.top1_agreement.all()
    assert same.kl.max() < 1e-4
    changed = saa.compare(dense, sparse)
    assert 0.5 < changed.top1_agreement.mean() <= 1
    assert changed.kl.mean() > same.kl.mean()
    assert changed.output_error.mean() > same.output_error.mean()
    with pytest.raises(saa.TraceError, match="different tokens"):
        saa.compare(dense, saa.run(smollm2, "Another text."))


def test_a_trace_comes_back_from_disk(traces, tmp_path):
    for trace in traces:
        file = trace.save(tmp_path / "one.saa")
        again = saa.Trace.load(file)
        assert (again.text, again.tokens, again.offsets) == (
            trace.text,
            trace.tokens,
            trace.offsets,
        )
        assert (again.policy, again.execution) == (trace.policy, trace.execution)
        assert again.model == trace.model
        for name in ("density", "retained_mass", "attention_received", "top_ids", "hidden"):
            np.testing.assert_array_equal(getattr(again, name), getattr(trace, name))
        for layer, head in ((0, 0), (29, 8)):
            assert (again.keep_map(layer, head) == trace.keep_map(layer, head)).all()
            assert (again.reason_map(layer, head) == trace.reason_map(layer, head)).all()
            assert (again.score_map(layer, head) == trace.score_map(layer, head)).all()
    assert [path.name for path in tmp_path.iterdir()] == ["one.saa"]


def test_opening_a_trace_reads_no_maps(traces, tmp_path, monkeypatch):
    file = traces[1].save(tmp_path / "one.saa")
    again = saa.Trace.load(file)
    file.unlink()
    assert again.density.mean() == traces[1].density.mean()
    with pytest.raises(saa.TraceError, match="layer 3"):
        again.keep_map(3, 0)


@pytest.mark.parametrize("damage", ["missing", "cut", "text", "version", "nested"])
def test_broken_traces_are_refused(traces, tmp_path, damage):
    file = traces[1].save(tmp_path / "one.saa")
    raw = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(raw[: len(raw) // 2])
    elif damage == "text":
        file.write_text("not a trace at all")
    else:
        size = struct.unpack("<Q", raw[:8])[0]
        header = json.loads(raw[8 : 8 + size])
        if damage == "version":
            header["__metadata__"]["saa_trace"] = "99"
        else:
            header["__metadata__"]["json"] = json.dumps({"policy": {"mass": 7}})
        packed = json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(packed)) + packed + raw[8 + size :])
    with pytest.raises(saa.TraceError, match=r"one\.saa"):
        saa.Trace.load(file)


def test_a_failed_save_leaves_the_old_file(traces, tmp_path, monkeypatch):
    file = traces[0].save(tmp_path / "one.saa")
    before = file.read_bytes()

    def broken(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("saa_core.trace.file.save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        traces[1].save(file)
    assert file.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_summary_has_figures_but_no_maps(smollm2):
    trace = saa.run(smollm2, TEXT, saa.Policy(), record="summary")
    assert trace.density.shape == (30, 9)
    assert trace.retained_mass is None
    with pytest.raises(saa.TraceError, match="summary"):
        trace.keep_map(0, 0)


@pytest.mark.parametrize("length", [1024, pytest.param(4096, marks=pytest.mark.long)])
def test_a_full_trace_of_4096_tokens_fits_into_a_gigabyte(smollm2, novel, length):
    """And one of a quarter of the tokens into a sixteenth of it: both grow with the number of pairs."""
    ids = torch.tensor([smollm2.tokenizer(novel)["input_ids"][:length]])
    call = saa.Call(saa.Policy(), record="full")
    with torch.inference_mode():
        hidden = smollm2.hf.base_model(ids, use_cache=False, saa=call).last_hidden_state
    held = sum(
        tensor.numel() * tensor.element_size()
        for record in call.layers.values()
        for tensor in (record.decision.keep, record.decision.score, record.attention_received)
    )
    trace = call.trace(hidden=hidden[0].numpy())
    share = (length / 4096) ** 2
    assert trace.keys == length
    assert trace.nbytes < 2**28 * share
    assert held < 2**30 * share


@pytest.mark.parametrize("text", ["", "   \n ", None])
def test_an_empty_text_is_refused(smollm2, text):
    with pytest.raises(saa.TextError, match="empty"):
        saa.run(smollm2, text)


def test_a_lone_surrogate_is_refused(smollm2):
    with pytest.raises(saa.TextError, match="position 3"):
        saa.run(smollm2, "abc\ud800def")


def test_a_text_over_the_limit_says_where_to_cut(smollm2, novel):
    text = novel * 3
    with pytest.raises(saa.TextError) as caught:
        saa.run(smollm2, text)
    error = caught.value
    assert error.limit == 8192
    assert error.length > 8192
    cut = smollm2.tokenizer(text[: error.cut_at])["input_ids"]
    assert 8190 <= len(cut) <= 8192


def test_generate_with_everything_kept_is_transformers_greedy_output(smollm2):
    ids = smollm2.tokenizer(TEXT, return_tensors="pt")
    with torch.inference_mode():
        out = smollm2.hf.generate(**ids, max_new_tokens=8, do_sample=False)
    expected = smollm2.tokenizer.decode(out[0, ids["input_ids"].shape[1] :])
    for policy in (None, saa.Policy(mass=1.0)):
        assert "".join(saa.generate(smollm2, TEXT, policy, max_new_tokens=8)) == expected


def test_measure_interleaves_and_keeps_raw_samples(smollm2):
    dense, sparse = saa.measure(smollm2, (48,), (None, saa.Policy(mass=0.9)), repeats=3)
    assert (dense.name, dense.kernel, dense.density) == ("dense", "dense", 1.0)
    assert sparse.density < 1
    for timing in (dense, sparse):
        assert len(timing.samples_ms) == len(timing.attention_ms) == 3
        assert all(0 < a < s for a, s in zip(timing.attention_ms, timing.samples_ms, strict=True))
        assert timing.peak_bytes is None or timing.peak_bytes > 1e8
    assert set(sparse.stages_ms) == {"gate", "rule", "kernel"}
    low, middle, high = sparse.ratio(dense)
    assert 0 < low <= middle <= high


def test_measure_refuses_lengths_the_model_cannot_take(smollm2):
    with pytest.raises(saa.PolicyError, match="lengths"):
        saa.measure(smollm2, (9000,))
    with pytest.raises(saa.PolicyError, match="repeats"):
        saa.measure(smollm2, (16,), repeats=0)


@pytest.fixture(scope="module")
def by_reference(smollm2, novel):
    return saa.run(smollm2, novel[:1500], saa.Policy(granularity="block", kernel="reference"))


@pytest.mark.parametrize(
    "kernel",
    [
        "gather",
        pytest.param(
            "native", marks=pytest.mark.skipif(bool(unavailable("cpu")), reason=unavailable("cpu"))
        ),
    ],
)
def test_kernels_agree_in_the_real_model(smollm2, novel, by_reference, kernel):
    trace = saa.run(smollm2, novel[:1500], saa.Policy(granularity="block", kernel=kernel))
    expected = by_reference
    assert trace.execution.kernel == kernel
    assert trace.block == expected.block == (32, 16)
    error = np.linalg.norm(trace.hidden - expected.hidden) / np.linalg.norm(expected.hidden)
    assert error < 1e-3
    assert (trace.keep_map(0, 0) == expected.keep_map(0, 0)).all()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_format_of_stored_traces_stays_readable(version, tmp_path):
    """Files written by each version of the format; see tests/golden/make.py for their contents."""
    trace = saa.Trace.load(GOLDEN / f"{version}.saa")
    assert trace.text == "abcdefghij"
    assert trace.policy == saa.Policy(
        mass=0.6, sink=1, local=2, block=(4, 2), granularity="block", tail=0, fallback="never"
    )
    assert trace.shape == (2, 4)
    kept = "\n".join(
        "".join(".#"[cell] for cell in row) for row in trace.keep_map(1, 3).astype(int)
    )
    assert kept == (GOLDEN / f"{version}.txt").read_text().rstrip("\n")
    again = trace.save(tmp_path / "again.saa")
    assert (saa.Trace.load(again).reason_map(1, 3) == trace.reason_map(1, 3)).all()


def test_without_a_compiler_auto_takes_gather_and_says_so(smollm2, novel, monkeypatch):
    import shutil

    from saa_core.native import find_compiler

    monkeypatch.setattr(shutil, "which", lambda name: None)
    find_compiler.cache_clear()
    try:
        policy = saa.Policy(granularity="block")
        trace = saa.run(smollm2, novel[:3000], policy)
        assert trace.execution.kernel == "gather"
        assert "compiler" in trace.execution.reason
    finally:
        find_compiler.cache_clear()


def test_forced_pairs_are_traced_with_their_reason_and_change_the_output(smollm2, tmp_path):
    text = "The keys are on the table by the door, and the letters are in the drawer."
    plain = saa.run(smollm2, text, saa.Policy(mass=0.9))
    force = (
        saa.Force(layer=3, head=2, query=12, key=7),
        saa.Force(layer=5, keep=False, key=0),
        saa.Force(layer=6, head=1),
    )
    trace = saa.run(smollm2, text, saa.Policy(mass=0.9, force=force))
    again = saa.Trace.load(trace.save(tmp_path / "forced.saa"))
    for found in (trace, again):
        assert saa.REASONS[found.reason_map(3, 2)[12, 7]] == "forced"
        assert saa.REASONS[found.reason_map(3, 1)[12, 7]] != "forced"
        assert set(found.reason_map(5, 4)[1:, 0]) == {saa.REASONS.index("excluded")}
        assert not found.keep_map(5, 4)[1:, 0].any()
        assert (found.keep_map(6, 1) == found.allowed(6)).all()
        assert found.density[6, 1] == 1
        assert found.policy.force == force
    assert saa.compare(plain, trace).output_error.max() > 1e-3
    for wrong, word in [({"layer": 30}, r"layer=30.*0 to 29"), ({"head": 9}, r"head=9.*0 to 8")]:
        with pytest.raises(saa.PolicyError, match=word):
            saa.run(smollm2, text, saa.Policy(force=(saa.Force(**wrong),)))


def test_the_end_of_a_prompt_is_read_in_full(smollm2, novel):
    policy = saa.Policy(mass=0.6, granularity="block", tail=20)
    trace = saa.run(smollm2, novel[:1500], policy)
    end = np.s_[trace.queries - 20 :, :]
    for layer, head in ((0, 0), (17, 5)):
        assert trace.keep_map(layer, head, end)[np.tril_indices(20)].all()
        assert (trace.keep_map(layer, head, end) == trace.allowed(layer, end)).all()
        assert not trace.keep_map(layer, head)[:100].all()
        assert saa.REASONS.index("tail") in trace.reason_map(layer, head, end)


@pytest.mark.parametrize("over", ["layer", "call"])
def test_a_budget_is_kept_in_the_real_model(smollm2, novel, over):
    policy = saa.Policy(budget=0.35, budget_over=over, granularity="block", tail=0)
    trace = saa.run(smollm2, novel[:3000], policy, record="summary")
    if over == "layer":
        assert (trace.density.mean(1) <= 0.35 + 1e-6).all()
        assert trace.density.mean() > 0.33
    else:
        assert 0.2 < trace.density.mean() <= 0.36
    assert str(trace.policy) == "budget 0.35"


def test_an_encoder_has_embeddings_instead_of_next_words(minilm):
    text = "A bird sat on the fence and sang until the sun had gone down behind the hill."
    dense = saa.run(minilm, text)
    trace = saa.run(minilm, text, saa.Policy(mass=0.9))
    assert trace.tokens[0] == "[CLS]"
    assert trace.tokens[-1] == "[SEP]"
    assert trace.top_ids is None
    assert trace.allowed(0).all()
    with torch.inference_mode():
        expected = minilm.hf(torch.tensor([dense.token_ids.tolist()])).last_hidden_state[0]
    np.testing.assert_allclose(dense.hidden, expected.numpy(), atol=1e-5)
    found = saa.compare(dense, trace)
    assert found.kl is None
    assert found.top1_agreement is None
    assert 0.9 < found.embedding_cosine < 1
    with pytest.raises(saa.ModelError, match="encoder"):
        next(saa.generate(minilm, text))
    with pytest.raises(saa.TextError) as caught:
        saa.run(minilm, "bird " * 600)
    assert caught.value.length == 602
    cut = saa.run(minilm, ("bird " * 600)[: caught.value.cut_at])
    assert cut.keys == 512


def test_layers_with_a_sliding_window_have_their_own_allowed_pairs(tiny):
    hf = tiny("modernbert")
    saa.attach(hf)
    call = saa.Call(saa.Policy(mass=0.8), record="full")
    with torch.no_grad():
        hf(torch.arange(3, 93)[None], saa=call)
    trace = call.trace()
    seen = [int(trace.allowed(layer)[45].sum()) for layer in range(4)]
    assert seen == [90, 41, 41, 90]
    for layer in range(4):
        kept, allowed = trace.keep_map(layer, 1), trace.allowed(layer)
        assert not (kept & ~allowed).any()
        assert kept.sum() / allowed.sum() == pytest.approx(trace.density[layer, 1], abs=1e-6)


def test_a_notebook_shows_a_summary_and_the_map_and_no_markup_of_the_text(traces, minilm):
    dense, sparse = traces
    shown = sparse._repr_html_()
    assert f"{sparse.sparsity:.1%}" in shown
    assert shown.count("<svg") == 2
    assert shown.count("<rect") == 30 * 9 + min(sparse.keys, 48) ** 2
    assert "dense" in dense._repr_html_()
    named = dataclasses.replace(sparse, model=ModelInfo("<script>alert(1)</script>", gate="x"))
    hostile = named._repr_html_()
    assert "<script" not in hostile
    assert "UNTRAINED" in hostile


def test_measuring_without_a_warm_up_has_the_same_rounds_and_no_density(smollm2):
    policies = (None, saa.Policy(mass=0.9))
    seen = []
    found = saa.measure(
        smollm2, (40,), policies, repeats=2, warm_up=False, progress=lambda *x: seen.append(x)
    )
    assert [len(timing.samples_ms) for timing in found] == [2, 2]
    assert [timing.density for timing in found] == [None, None]
    assert found[0].kernel == "dense"
    assert seen[-1][1:] == (4, 4)
