"""Dropping whole tokens: packed equals padded, executed equals masked, and the gates learn."""

import math
import random

import numpy as np
import pytest
import torch

import saa_core as saa
from saa_core.attention import packed
from saa_core.attention.packed import attend
from saa_core.run.varlen import encode, packing_of, special_tokens, token_gates
from saa_core.task import add_token_gates
from saa_core.train import lora
from saa_core.train.batches import (
    NO_LABEL,
    TokenizedTexts,
    pad_batch,
    replace_words,
    tokenize_texts,
)
from saa_core.train.masked import _attend, forward_masked
from saa_core.train.teacher import Teacher
from saa_core.train.tokens import ADAPTER, CLOSE, REACH, Stages, TokenConfig, find_root
from tests.conftest import TINY

PACKED = ("bert", "roberta", "xlm-roberta", "distilbert")


class Words:
    """A tokenizer of whole words between <s> (0) and </s> (2); everything else is 5 or more."""

    pad_token_id = 1
    cls_token_id, sep_token_id = 0, 2

    def __call__(self, texts, max_length=10**6, **_):
        one = isinstance(texts, str)
        ids = [
            [0, *(5 + hash_of(word) for word in text.split()), 2][:max_length]
            for text in ([texts] if one else texts)
        ]
        return {"input_ids": ids[0] if one else ids}


def hash_of(word: str) -> int:
    return sum(ord(letter) * (place + 1) for place, letter in enumerate(word)) % 90


@pytest.fixture
def make(tiny):
    """A small random encoder whose gates drop about half of the tokens."""

    def made(name: str = "bert", gates: bool = True) -> saa.Model:
        model = saa.attach(tiny(name).base_model, Words(), rank=8)
        if gates:
            for gate in add_token_gates(packing_of(model), TINY["hidden_size"]):
                torch.nn.init.normal_(gate.up.weight, std=3)
                torch.nn.init.zeros_(gate.shift)
        return model

    return made


@pytest.fixture
def minilm_with_gates(minilm):
    """The real MiniLM with gates that score at random; they are taken out again."""
    packing = packing_of(minilm)
    for gate in add_token_gates(packing, 384):
        torch.nn.init.normal_(gate.up.weight, std=2)
        torch.nn.init.constant_(gate.shift, 0.5)
    yield minilm
    for layer in packing.layers[1:]:
        del layer.module.saa_token_gate


def texts(count: int = 5) -> list[list[int]]:
    draw = random.Random(0)
    return [
        [0, *(draw.randrange(5, 97) for _ in range(draw.randrange(1, 70))), 2] for _ in range(count)
    ]


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_batch_equals_each_text_alone(make, name):
    model, batch = make(name), texts()
    found = encode(model, batch)
    assert found.token_share == 1
    for ids, states, mean in zip(batch, found.split(), found.means, strict=True):
        with torch.inference_mode():
            expected = model.hf(torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(states, expected, atol=2e-5, rtol=2e-5)
        torch.testing.assert_close(mean, expected.mean(0), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_dropping_equals_masking(make, name, share):
    """The same texts, padded, with the dropped tokens masked and nothing saved."""
    model, batch = make(name), texts()
    found = encode(model, batch, saa.Policy(mass=1.0, tokens=share))
    decided_pair_by_pair = encode(model, batch, saa.Policy(mass=1 - 1e-9, tokens=share))
    torch.testing.assert_close(decided_pair_by_pair.states, found.states, atol=5e-5, rtol=5e-5)
    assert 0.3 < found.token_share < 1
    ids, mask = pad_batch(batch, model)
    special = special_tokens(model, ids)
    with torch.inference_mode():
        expected, done = forward_masked(packing_of(model), special, ids, mask, share, None)
    assert float(done) == pytest.approx(found.token_share, abs=1e-6)
    for row, states in enumerate(found.split()):
        torch.testing.assert_close(states, expected[row, : len(states)], atol=5e-5, rtol=5e-5)


def test_a_dropped_token_stays_dropped_and_special_ones_stay(make):
    model, batch = make(), texts(8)
    for gate in token_gates(packing_of(model)):
        if gate is not None:
            gate.shift.data.fill_(-1000.0)
    found = encode(model, batch, saa.Policy(mass=1.0, tokens=0.5))
    assert found.needed[0].tolist() == [len(ids) for ids in batch]
    assert found.needed[1].tolist() == [2] * len(batch)
    embedded = encode(model, batch)
    assert torch.isfinite(found.states).all()
    assert not torch.allclose(found.states, embedded.states, atol=1e-3)


@pytest.mark.parametrize("mass", [1.0, 0.7])
def test_a_trace_shows_dropped_tokens_as_empty_rows_and_columns(minilm_with_gates, mass, tmp_path):
    """The real model, gates that drop about half; the trace agrees with what was computed."""
    model, text = (
        minilm_with_gates,
        "The museum reopened in April, and its great clock struck again.",
    )
    policy = saa.Policy(mass=mass, tokens=0.5)
    trace = saa.run(model, text, policy)
    found = encode(model, [trace.token_ids.tolist()], policy)
    np.testing.assert_allclose(trace.hidden, found.states, atol=2e-5)
    assert trace.kept_tokens.sum(1).tolist() == found.needed[:, 0].tolist()
    assert 0.2 < trace.token_share < 1
    assert trace.token_share == pytest.approx(found.token_share)
    assert trace.kept_tokens[0].all()
    assert (trace.kept_tokens[1:] <= trace.kept_tokens[:-1]).all(), "a dropped token stays dropped"
    assert trace.kept_tokens[:, [0, -1]].all(), "special tokens stay"
    layer = 4
    gone = ~trace.kept_tokens[layer]
    assert gone.any()
    reasons = trace.reason_map(layer, 2)
    either = gone[:, None] | gone[None]
    assert (reasons[either] == saa.REASONS.index("token")).all()
    assert not (reasons[~either] == saa.REASONS.index("token")).any()
    assert not trace.keep_map(layer, 2)[either].any()
    if mass == 1:
        assert trace.keep_map(layer, 2)[~either].all()
        np.testing.assert_allclose(trace.predicted_mass[layer], 1, atol=1e-3)
    scores = trace.token_score[layer]
    asked = np.isfinite(scores)
    assert (asked == trace.kept_tokens[layer - 1]).all()
    assert (scores[gone & asked] <= 0).all()
    loaded = saa.Trace.load(trace.save(tmp_path / "t.saa"))
    assert (loaded.kept_tokens == trace.kept_tokens).all()
    assert (loaded.reason_map(layer, 2) == reasons).all()
    np.testing.assert_allclose(loaded.retained_mass, trace.retained_mass)


def test_blocks_among_the_tokens_that_are_left(minilm_with_gates, novel):
    """Decided in blocks of the tokens that are left: masses stay masses, and the kernel is named."""
    policy = saa.Policy(mass=0.8, tokens=0.6, granularity="block")
    trace = saa.run(minilm_with_gates, novel[:900], policy)
    assert (trace.predicted_mass <= 1.001).all()
    assert (trace.predicted_mass >= 0.75).all()
    assert trace.execution.kernel == "native"
    assert (trace.density < 1).all()


def test_half_precision_weights(minilm_with_gates, novel):
    model = minilm_with_gates
    ids = model.frame(model.tokenize(novel[:300]))
    policy = saa.Policy(mass=1.0, tokens=0.6)
    expected = encode(model, [ids, ids[:9]], policy)
    model.hf.bfloat16()
    try:
        for module in model.hf.modules():
            if hasattr(module, "saa_token_gate"):
                module.saa_token_gate.float()
        found = encode(model, [ids, ids[:9]], policy)
    finally:
        model.hf.float()
    assert found.states.dtype == torch.bfloat16
    assert abs(found.token_share - expected.token_share) < 0.1
    cosine = torch.cosine_similarity(found.means, expected.means, dim=1)
    assert (cosine > 0.98).all()


def test_inside_the_models_own_forward_no_token_can_be_dropped(minilm):
    with pytest.raises(saa.PolicyError, match="own forward"):
        minilm.hf(torch.tensor([[101, 2000, 102]]), saa=saa.Call(saa.Policy(tokens=0.5)))


def test_attention_of_texts_behind_each_other_is_that_of_each_text():
    q, k, v = (torch.randn(1, 3, 131, 32) for _ in range(3))
    for lengths in (
        torch.tensor([1, 40, 17, 33, 40]),
        torch.tensor([7] * 18 + [5]),
        torch.tensor([130, 1]),
    ):
        alone = packed._attend_each(q, k, v, lengths)
        native = [] if packed.native_refuses(q) else [packed._attend_spans]
        for way in (*native, packed._attend_padded, attend):
            torch.testing.assert_close(way(q, k, v, lengths), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("capability", "lengths", "dtype", "way"),
    [
        ("AVX2", [40, 30], torch.float32, "_attend_each"),
        ("AVX2", [10, 60, 5], torch.float32, "_attend_spans"),
        ("AVX2", [40, 30], torch.bfloat16, "_attend_spans"),
        ("AVX512", [40, 30], torch.float32, "_attend_spans"),
        ("AVX512", [100, 160], torch.float32, "_attend_each"),
        ("DEFAULT", [40, 30], torch.float32, "_attend_spans"),
        ("AVX2", [70], torch.float32, "scaled_dot_product_attention"),
    ],
)
def test_which_attention_of_packed_texts_runs(monkeypatch, capability, lengths, dtype, way):
    ran = []
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(packed, "native_refuses", lambda _size: "")
    for name in ("_attend_each", "_attend_spans", "_attend_padded", "scaled_dot_product_attention"):
        monkeypatch.setattr(packed, name, lambda *_given, name=name: ran.append(name))
    states = torch.zeros(1, 2, sum(lengths), 16, dtype=dtype)
    attend(states, states, states, torch.tensor(lengths))
    assert ran == [way]


def test_what_cannot_be_used_is_refused(make, smollm2, minilm):
    policy = saa.Policy(mass=1.0, tokens=0.5)
    with pytest.raises(saa.ModelError, match="cannot drop tokens; model types that can: bert"):
        encode(smollm2, [[1, 2]], policy)
    with pytest.raises(saa.PolicyError, match="no token gates"):
        encode(minilm, [[101, 2000, 102]], policy)
    for given in (
        {"force": (saa.Force(key=1),)},
        {"tail": 3},
        {"fallback": "dense"},
        {"kernel": "foo"},
        {"rule": "foo"},
    ):
        with pytest.raises(saa.PolicyError, match=next(iter(given))):
            encode(make(), [[0, 5, 2]], saa.Policy(tokens=0.5, **given))
    with pytest.raises(saa.PolicyError, match="single one"):
        encode(make(), [[0, 5, 2]] * 2, policy, saa.Call(policy, record="full"))
    with pytest.raises(saa.TextError, match="empty"):
        encode(make(), [])
    with pytest.raises(saa.TextError, match="at most 1024"):
        encode(make(), [[5] * 1025])
    for bad in (0, 1.5, "half"):
        with pytest.raises(saa.PolicyError, match="tokens="):
            saa.Policy(tokens=bad)


def test_real_minilm_packed_equals_itself(minilm, novel):
    ids = minilm.tokenize(novel[:4000])
    batch = [minilm.frame(ids[start : start + size]) for start, size in ((0, 12), (50, 230))]
    for own, states in zip(batch, encode(minilm, batch).split(), strict=True):
        with torch.inference_mode():
            expected = minilm.hf(torch.tensor([own])).last_hidden_state[0]
        torch.testing.assert_close(states, expected, atol=2e-5, rtol=2e-5)


NOISE = ("the", "a", "of", "to", "and", "in", "that", "it", "with", "as", "for", "on", "at", "by")


def toy_task(count: int, seed: int) -> tuple[list[str], list[int]]:
    """One word among many says the label; all others can be dropped."""
    draw = random.Random(seed)
    made, labels = [], []
    for _ in range(count):
        label = draw.randrange(2)
        words = draw.choices(NOISE, k=draw.randrange(6, 20))
        words.insert(draw.randrange(len(words)), ("bad", "good")[label])
        made.append(" ".join(words))
        labels.append(label)
    return made, labels


CONFIG = {
    "batch": 16,
    "rank": 4,
    "rate": 1e-3,
    "adapter_rate": 5e-3,
    "gate_rate": 1e-2,
    "width": 8,
    "half": False,
}


@pytest.mark.slow
def test_both_stages_learn_and_the_gates_drop_what_says_nothing(make):
    model = make(gates=False)
    stages = Stages(model, 2, TokenConfig(steps=(120, 200), **CONFIG))
    weights = {n: p.clone() for n, p in model.hf.named_parameters() if ".lora" not in n}
    train, test = (tokenize_texts(model, *toy_task(400, seed), 64) for seed in (1, 2))
    dense = list(stages.dense(train))
    assert [step.step for step in dense] == list(range(1, 121))
    assert all(step.share == 1 for step in dense)
    sparse = list(stages.sparse(train))
    labels = torch.tensor(test.labels)
    right = {
        share: float((stages.answers(test, side, share).logits.argmax(-1) == labels).float().mean())
        for side, share in (("dense", 1.0), ("sparse", 0.7))
    }
    assert right[1.0] > 0.95, right
    assert right[0.7] > 0.9, right
    low = [step.share for step in sparse[-60:] if step.wanted < 0.6]
    high = [step.share for step in sparse[-60:] if step.wanted > 0.8]
    assert sum(low) / len(low) < sum(high) / len(high) <= 1
    for name, value in model.hf.named_parameters():
        if name in weights and "saa_token_gate" not in name:
            assert torch.equal(value, weights[name]), name


def test_attention_over_the_living_is_the_softmax_over_them_and_so_is_its_gradient():
    torch.manual_seed(0)
    mask = torch.arange(9)[None] < torch.tensor([[9], [6]])
    parts = [torch.randn(2, 3, 9, 4, requires_grad=True) for _ in range(3)]
    alive = (mask & (torch.rand(2, 9) < 0.6)).float()
    alive[:, 0] = 1
    alive.requires_grad_()
    q, k, v = parts
    weights = (q @ k.transpose(-1, -2) / 2).exp() * alive[:, None, None]
    expected = weights / weights.sum(-1, keepdim=True) @ v
    into = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * into).sum(), [*parts, alive])
    found = _attend(q, k, v, mask, alive)
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad((found * into).sum(), [*parts, alive])
    for own, other in zip(gradients[:3], wanted[:3], strict=True):
        torch.testing.assert_close(own, other)
    torch.testing.assert_close(gradients[3][mask], wanted[3][mask])


def test_the_teacher_is_the_dense_side_and_answers_a_text_once(make):
    model = make(gates=False)
    stages = Stages(model, 2, TokenConfig(steps=(3, 1), **CONFIG))
    examples = tokenize_texts(model, *toy_task(12, 1), 64)
    list(stages.dense(examples))
    teacher = Teacher(model, ADAPTER["dense"], stages.heads["dense"], half=False)
    ids, mask = pad_batch(examples.ids, model)
    again = torch.arange(12) < 6
    expected = stages.answers(examples, "dense").logits
    torch.testing.assert_close(teacher.answers(ids, mask, again), expected, rtol=1e-4, atol=1e-5)
    assert len(teacher.known) == len({tuple(examples.ids[row]) for row in range(6)})
    teacher.head = lambda means: torch.full((len(means), 2), 7.0)  # whoever is computed again
    found = teacher.answers(ids[4:], mask[4:], again[4:])
    torch.testing.assert_close(found[:2], expected[4:6], rtol=1e-4, atol=1e-5)
    assert (found[2:] == 7).all()


def test_half_of_the_texts_lose_their_label_and_some_of_their_words():
    ids, labels = torch.arange(400).view(20, 20), torch.arange(20)
    fixed = torch.zeros(20, 20, dtype=torch.bool)
    fixed[:, 0] = fixed[:, -1] = True
    words = torch.tensor([1001, 1002, 1003])
    shares = []
    for seed in range(20):
        changed, left = replace_words(ids, labels, fixed, words, 0.4, random.Random(seed))
        struck = changed != ids
        assert set(changed[struck].tolist()) <= set(words.tolist())
        assert not struck[fixed].any()
        kept = left == labels
        assert not struck[kept].any()
        assert (left[~kept] == NO_LABEL).all()
        shares.append((float(kept.float().mean()), float(struck[~kept][:, 1:-1].float().mean())))
    kept_share, struck_share = (sum(part) / len(part) for part in zip(*shares, strict=True))
    assert abs(kept_share - 0.5) < 0.1
    assert abs(struck_share - 0.2) < 0.05  # uniform up to 0.4
    for highest, none in ((0.0, words), (0.4, words[:0])):
        same = replace_words(ids, labels, fixed, none, highest, random.Random(0))
        assert torch.equal(same[0], ids)
        assert torch.equal(same[1], labels)


def test_the_first_texts_of_so_many_tokens():
    examples = TokenizedTexts([[1] * 5, [1] * 4, [1] * 3], [0, 1, 0])
    assert [len(examples.first(tokens)) for tokens in (1, 5, 8, 9, 100)] == [1, 1, 1, 2, 3]
    assert examples.first(9).labels == [0, 1]


def test_an_adapter_takes_the_nearest_change_of_its_rank(make):
    hf = make(gates=False).hf
    lora.add(hf, "taken", ["query"], 3, seed=0)
    weights = lora.matrices(hf, "taken")
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    changes = {name: torch.randn(before[name].shape) for name in before}
    with torch.no_grad():
        for name, weight in weights.items():
            weight += changes[name]
    lora.take(hf, "taken", before)
    for name, change in changes.items():
        layer = hf.get_submodule(name)
        assert torch.equal(layer.get_base_layer().weight, before[name])
        size = torch.linalg.svdvals(change)
        lost = torch.linalg.norm(change - layer.get_delta_weight("taken"))
        torch.testing.assert_close(lost, size[3:].norm(), rtol=1e-4, atol=0)


def test_a_run_that_was_cut_off_goes_on_where_it_stopped(make, tmp_path):
    train = toy_task(64, 1)
    changes = {"steps": (4, 4), "save_every": 2, **CONFIG}

    def run(checkpoint, stop=None):
        torch.manual_seed(0)
        model = make(gates=False)
        stages = Stages(model, 2, TokenConfig(checkpoint=checkpoint, **changes))
        examples, seen = tokenize_texts(model, *train, 64), []
        for stage in (stages.dense, stages.sparse):
            for step in stage(examples):
                seen.append((step.stage, step.step))
                if seen[-1] == stop:
                    return stages, seen
        return stages, seen

    whole, _ = run(None)
    run(str(tmp_path), stop=("sparse", 3))
    again, seen = run(str(tmp_path))
    assert seen == [("sparse", 3), ("sparse", 4)]
    model = make(gates=False)
    stages = Stages(model, 2, TokenConfig(checkpoint=str(tmp_path), **changes))
    other = tokenize_texts(model, train[0], [1 - label for label in train[1]], 64)
    with pytest.raises(saa.GateError, match="another folder or the same configuration"):
        next(stages.dense(other))
    pairs = zip(whole.model.hf.named_parameters(), again.model.hf.named_parameters(), strict=True)
    for (name, expected), (_, found) in pairs:
        torch.testing.assert_close(found, expected, msg=name)
    torch.testing.assert_close(again.heads["sparse"].weight, whole.heads["sparse"].weight)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": (1,)},
        {"steps": (1.5, 2)},
        {"hold": -1},
        {"batch": 0},
        {"rate": 2.0},
        {"shares": (0.9, 0.1)},
        {"longest": 1},
        {"replaced": 1.0},
        {"replaced": -0.1},
    ],
)
def test_bad_settings_are_refused(change):
    with pytest.raises(saa.PolicyError, match=next(iter(change))):
        TokenConfig(**change)


def test_texts_longer_than_the_model_takes_are_refused_before_training(make):
    with pytest.raises(saa.PolicyError, match=r"longest=2000: .* at most 1024"):
        Stages(make(gates=False), 2, TokenConfig(longest=2000))


def test_what_drops_tokens_can_be_timed(minilm_with_gates, novel):
    policies = (None, saa.Policy(mass=1.0, tokens=0.5), saa.Policy(mass=0.9, tokens=0.5))
    timings = saa.measure(minilm_with_gates, (60,), policies, text=novel[:2000], repeats=2)
    for timing in timings:
        assert len(timing.samples_ms) == len(timing.attention_ms) == 2
        assert all(0 < a < s for a, s in zip(timing.attention_ms, timing.samples_ms, strict=True))
    assert timings[1].density < 1 == timings[0].density


@pytest.mark.parametrize("root", [-3.9, -1.0, -0.01, 0.0, 0.2, 1.5, 3.0])
@pytest.mark.parametrize("start", [-0.5, 0.0, 1.0])
def test_a_share_is_found_in_few_looks_and_the_last_look_is_the_answer(root, start):
    looks = []

    def rising(at):
        looks.append(at)
        return 1 / (1 + math.exp(root - at)) - 0.5

    found = find_root(rising, start)
    assert looks[-1] == found
    assert abs(rising(found)) < CLOSE
    assert len(looks) <= 10


@pytest.mark.parametrize("root", [-9.0, 9.0])
def test_what_is_out_of_reach_ends_at_the_end_of_the_reach(root):
    assert find_root(lambda at: at - root, 0.0) == math.copysign(REACH, root)
