"""The seam between Transformers and SAA: what comes in is honoured, or refused by name.

Everywhere a policy that keeps all must give what the model gives without SAA.
"""

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    CTRLTokenizer,
    DynamicCache,
    FalconConfig,
    GPT2Config,
    PreTrainedTokenizerFast,
    StaticCache,
    T5Config,
)
from transformers.generation.streamers import BaseStreamer

import saa_core as saa
from saa_core import rules
from saa_core.attention import Plan, decide
from saa_core.gates.pair import GateConfig, PairGate
from saa_core.kernels import KERNELS, dense, flex_unavailable
from saa_core.pairs import Allowed
from tests.seam.models import DECODERS, ENCODERS, SMALL, make

IDS = torch.arange(3, 43)[None]
ALL = saa.Policy(mass=1.0)
SOME = saa.Policy(mass=0.4, sink=1, local=1)


def apart(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest number that is expected."""
    found, expected = found.detach().float(), expected.detach().float()
    return float((found - expected).abs().max() / expected.abs().max())


def padded(rows: int = 3, length: int = 24, side: str = "left") -> tuple[Tensor, Tensor]:
    ids = torch.randint(3, 99, (rows, length), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        stretch = slice(0, 5 * row) if side == "left" else slice(length - 5 * row, length)
        ids[row, stretch], mask[row, stretch] = 1, 0
    return ids, mask


def causal_numbers(length: int, dtype: torch.dtype = torch.float32) -> Tensor:
    lowest = torch.finfo(dtype).min
    return torch.full((1, 1, length, length), lowest, dtype=dtype).triu(1)


# Model types


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
@torch.no_grad()
def test_a_model_type_keeps_what_it_computes_and_drops_what_a_policy_says(name):
    hf = make(name)
    ids, mask = padded(2, 40, "left" if name in DECODERS else "right")
    before = hf(ids, attention_mask=mask)[0]
    model = saa.attach(hf)
    assert torch.equal(hf(ids, attention_mask=mask)[0], before)
    found = hf(ids, attention_mask=mask, saa=saa.Call(ALL))[0]
    assert apart(found[mask.bool()], before[mask.bool()]) < 1e-4
    call = saa.Call(SOME, record="summary")
    dropped = hf(ids, attention_mask=mask, saa=call)[0]
    assert 0 < call.trace().density.mean() < 1
    assert not torch.equal(dropped, before)
    assert model.causal == (name in DECODERS)
    assert torch.equal(saa.detach(model)(ids, attention_mask=mask)[0], before)


def test_at_least_25_model_types_are_supported():
    assert len({*DECODERS, *ENCODERS}) >= 25
    asked = (
        "gemma2 gemma3_text qwen3 qwen3_moe phi3 olmo2 granite smollm3 gpt_neox starcoder2 cohere"
    )
    asked += " mixtral gpt_oss electra xlm-roberta"
    assert set(asked.split()) <= {*DECODERS, *ENCODERS}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            FalconConfig(hidden_size=64, num_attention_heads=4, num_hidden_layers=2),
            "falcon.*through",
        ),
        (
            AutoConfig.for_model("deberta", hidden_size=64, num_attention_heads=4),
            "deberta.*through",
        ),
        (T5Config(d_model=32, d_ff=32, num_layers=1, num_heads=2), "encoder and a decoder"),
        (AutoConfig.for_model("albert", hidden_size=64, num_attention_heads=4), "several times"),
        (AutoConfig.for_model("stablelm", hidden_size=64, num_hidden_layers=2), "not supported"),
    ],
    ids=lambda value: value.model_type if hasattr(value, "model_type") else "",
)
def test_other_model_types_are_refused_in_words_and_left_alone(config, says):
    from transformers import AutoModel

    config.vocab_size = 60
    hf = AutoModel.from_config(config).eval()
    names, implementation = set(hf.state_dict()), hf.config._attn_implementation
    with pytest.raises(saa.ModelError, match=says):
        saa.attach(hf)
    assert set(hf.state_dict()) == names
    assert type(hf.config._attn_implementation) is str
    assert hf.config._attn_implementation == implementation


# Masks


@pytest.mark.parametrize("granularity", ["pair", "block"])
@torch.no_grad()
def test_a_static_cache_shows_neither_empty_slots_nor_later_tokens(granularity):
    policy = saa.Policy(mass=1.0, granularity=granularity)
    for implementation in ("sdpa", "eager"):
        hf = make("llama", implementation=implementation)
        expected, cache = [], StaticCache(hf.config, max_cache_len=64)
        for part in IDS.split(20, 1):
            expected.append(hf(part, past_key_values=cache).logits)
        saa.attach(hf)
        cache = StaticCache(hf.config, max_cache_len=64)
        for part, wanted in zip(IDS.split(20, 1), expected, strict=True):
            call = saa.Call(policy, record="full")
            assert apart(hf(part, past_key_values=cache, saa=call).logits, wanted) < 1e-4
        assert call.trace().allowed(0).shape == (20, 40)  # slots that hold nothing are no keys


@torch.no_grad()
def test_is_causal_means_what_it_means_to_the_model():
    for implementation in ("sdpa", "eager"):
        hf = make("llama", implementation=implementation)
        expected = hf(IDS, is_causal=False).logits
        assert not torch.equal(expected, hf(IDS).logits)
        saa.attach(hf)
        assert apart(hf(IDS, is_causal=False, saa=saa.Call(ALL)).logits, expected) < 1e-4


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["bias", "bias per head", "-inf", "-10000", "half", "one for all"])
@torch.no_grad()
def test_numbers_in_a_mask_are_added_to_the_scores(implementation, kind):
    hf = make("llama", implementation=implementation)
    mask = causal_numbers(40).expand(2, 1, 40, 40).clone()
    if kind.startswith("bias"):
        heads = 4 if kind == "bias per head" else 1
        draw = torch.Generator().manual_seed(1)
        bias = torch.rand(2, heads, 40, 40, generator=draw) < 0.4
        mask = mask.clamp(min=-1e5) - 0.5 * bias
    elif kind == "-inf":
        mask[mask < 0] = -torch.inf
    elif kind == "-10000":
        mask = mask.clamp(min=-10_000)
    elif kind == "half":
        hf.to(torch.bfloat16)
        mask = causal_numbers(40, torch.bfloat16).expand(2, 1, 40, 40)
    else:
        mask = mask[:1]
    ids = torch.cat([IDS, IDS.flip(1)])
    expected = hf(ids, attention_mask=mask).logits
    saa.attach(hf)
    for granularity in ("pair", "block"):
        call = saa.Call(saa.Policy(mass=1.0, granularity=granularity))
        error = apart(hf(ids, attention_mask=mask, saa=call).logits, expected)
        assert error < (3e-2 if kind == "half" else 1e-4)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (torch.rand(1, 4, 40, 40) > 0.5, "other pairs in one head"),
        (torch.ones(1, 1, 40, 40, dtype=torch.int64), "int64"),
        (causal_numbers(40) * torch.nan, "NaN"),
        (torch.ones(1, 1, 40, 17, dtype=torch.bool), r"shape \(1, 1, 40, 17\)"),
        (torch.ones(3, 1, 40, 40, dtype=torch.bool), r"shape \(3, 1, 40, 40\)"),
    ],
    ids=["per head", "whole numbers", "nan", "too short", "other batch"],
)
@torch.no_grad()
def test_a_mask_that_cannot_be_honoured_is_named(mask, says):
    hf = make("llama", implementation="sdpa")
    saa.attach(hf)
    with pytest.raises(saa.ModelError, match=f"attention_mask.*{says}"):
        hf(IDS, attention_mask=mask, saa=saa.Call(ALL))


@torch.no_grad()
def test_a_boolean_mask_given_to_eager_attention_is_named():
    hf = make("llama", implementation="eager")
    saa.attach(hf)
    mask = torch.ones(1, 1, 40, 40, dtype=torch.bool).tril()
    with pytest.raises(saa.ModelError, match="attention_mask is boolean"):
        hf(IDS, attention_mask=mask, saa=saa.Call(ALL))


@pytest.mark.parametrize("kernel", ["native", "gather", "reference"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_texts_packed_by_their_positions_do_not_see_each_other(implementation, kernel):
    hf = make("llama", implementation=implementation)
    positions = torch.cat([torch.arange(13), torch.arange(27)])[None]
    expected = hf(IDS, position_ids=positions, use_cache=False).logits
    saa.attach(hf)
    policy = saa.Policy(mass=1.0, kernel=kernel, granularity="block")
    call = saa.Call(policy, record="full")
    found = hf(IDS, position_ids=positions, use_cache=False, saa=call).logits
    assert apart(found, expected) < 1e-4
    assert not call.trace().allowed(0)[13:, :13].any()


@pytest.mark.parametrize("granularity", ["pair", "block"])
@torch.no_grad()
def test_left_and_right_padding_in_one_batch(granularity):
    hf = make("llama", implementation="sdpa")
    ids, mask = padded(3)
    mask[2] = mask[1].flip(0)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    expected = hf(ids, attention_mask=mask, position_ids=positions).logits
    saa.attach(hf)
    policy = saa.Policy(mass=1.0, granularity=granularity)
    found = hf(ids, attention_mask=mask, position_ids=positions, saa=saa.Call(policy)).logits
    assert apart(found[mask.bool()], expected[mask.bool()]) < 1e-4


# Caches


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3_text", "gpt_oss"])
@pytest.mark.parametrize("kind", ["dynamic", "sliding", "static", "offloaded"])
@torch.no_grad()
def test_every_cache_gives_what_it_gives_the_model(name, kind):
    def cache(hf: Any) -> Any:
        if kind == "static":
            return StaticCache(hf.config, max_cache_len=48)
        if kind == "offloaded" and torch.cuda.is_available():
            return DynamicCache(config=hf.config, offloading=True)
        return DynamicCache(config=hf.config if kind != "dynamic" else None)

    hf = make(name)
    parts = IDS.split([17, 1, 22], 1)
    held = cache(hf)
    expected = [hf(part, past_key_values=held).logits for part in parts]
    saa.attach(hf)
    held = cache(hf)
    for part, wanted in zip(parts, expected, strict=True):
        found = hf(part, past_key_values=held, saa=saa.Call(ALL)).logits
        assert apart(found, wanted) < 1e-4


# Arguments


@torch.no_grad()
def test_soft_caps_sinks_and_scales_are_part_of_what_is_recorded_and_guarded():
    for name in ("gemma2", "gpt_oss"):
        hf = make(name)
        saa.attach(hf)
        call = saa.Call(ALL, record="full")
        hf(IDS, saa=call)
        assert call.kernel == "reference"
        assert call.trace().retained_mass.min() > 0.999
        guarded = saa.Policy(
            mass=0.3, sink=1, local=1, guard=saa.Guard(missed_mass=0.05, delta=0.05)
        )
        call = saa.Call(guarded, record="full")
        hf(IDS, saa=call)
        missed = 1 - call.trace().retained_mass.mean()
        assert missed < 0.1
        with pytest.raises(saa.SAAError, match=r"kernel='native'.*(soft caps|sinks)"):
            hf(IDS, saa=saa.Call(saa.Policy(mass=1.0, kernel="native")))


@torch.no_grad()
def test_what_the_mask_holds_already_is_ignored_as_by_the_model():
    hf = make("llama", implementation="sdpa")
    ends = torch.tensor([0, 40], dtype=torch.int32)
    more = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": 40, "max_length_k": 40}
    expected = hf(IDS, **more).logits
    saa.attach(hf)
    assert apart(hf(IDS, **more, saa=saa.Call(ALL)).logits, expected) < 1e-4
    embedded = hf.get_input_embeddings()(IDS)
    assert apart(hf(inputs_embeds=embedded, saa=saa.Call(ALL)).logits, expected) < 1e-4


def test_gradients_pass_through_checkpointed_layers():
    hf = make("llama")
    expected = torch.autograd.grad(hf(IDS).logits.sum(), hf.model.layers[0].self_attn.q_proj.weight)
    saa.attach(hf)
    hf.gradient_checkpointing_enable()
    hf.train()
    out = hf(IDS, use_cache=False, saa=saa.Call(ALL)).logits
    found = torch.autograd.grad(out.sum(), hf.model.layers[0].self_attn.q_proj.weight)
    assert apart(found[0], expected[0]) < 1e-3


@torch.no_grad()
def test_what_sdpa_cannot_do_is_refused_by_name():
    hf = make("llama", implementation="sdpa")
    saa.attach(hf)
    with pytest.raises(saa.ModelError, match=r"softcap=5\.0.*eager"):
        hf(IDS, softcap=5.0, saa=saa.Call(ALL))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_dropout_is_applied_while_the_model_trains(implementation):
    hf = make("llama", implementation=implementation, attention_dropout=0.5)
    calm = hf(IDS).logits
    hf.train()
    torch.manual_seed(5)
    expected = hf(IDS).logits
    hf.eval()
    saa.attach(hf)
    hf.train()
    torch.manual_seed(5)
    found = hf(IDS, saa=saa.Call(ALL)).logits
    assert apart(found, calm) > 0.01
    assert apart(found, expected) < 1e-4
    found.sum().backward()
    assert hf.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_eager_attention_gives_the_weights_of_the_kept_pairs():
    hf = make("llama", implementation="eager")
    expected = hf(IDS, output_attentions=True).attentions
    saa.attach(hf)
    found = hf(IDS, output_attentions=True, saa=saa.Call(ALL)).attentions
    assert len(found) == len(expected) == 2
    assert all(apart(a, b) < 1e-4 for a, b in zip(found, expected, strict=True))
    call = saa.Call(SOME, record="full")
    kept = hf(IDS, output_attentions=True, saa=call).attentions
    for layer, weights in enumerate(kept):
        for head in range(4):
            assert ((weights[0, head] > 0).numpy() <= call.trace().keep_map(layer, head)).all()
    fallback = saa.Policy(mass=0.5, fallback="dense", crossover=10_000)
    dense = hf(IDS, output_attentions=True, saa=saa.Call(fallback)).attentions
    assert all(apart(a, b) < 1e-4 for a, b in zip(dense, expected, strict=True))


@torch.no_grad()
def test_a_configuration_that_asks_for_attentions_works_as_before(tmp_path):
    hf = make("llama", implementation="eager")
    hf.config.output_attentions = True
    expected = hf(IDS)
    model = saa.attach(hf)
    found = hf(IDS)
    assert torch.equal(found.logits, expected.logits)
    assert len(found.attentions) == 2
    assert len(hf(IDS, saa=saa.Call(ALL)).attentions) == 2
    hf.config.output_attentions = True  # refused by anything that is not eager attention
    hf.config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).output_attentions
    saa.detach(model)
    assert type(hf.config._attn_implementation) is str


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@torch.no_grad()
def test_gpt2_that_upcasts_is_bit_equal_and_can_be_decided(dtype):
    config = GPT2Config(
        n_layer=2,
        n_head=2,
        n_embd=32,
        vocab_size=99,
        n_positions=64,
        reorder_and_upcast_attn=True,
        scale_attn_by_inverse_layer_idx=True,
        bos_token_id=0,
        eos_token_id=2,
        initializer_range=0.4,
    )
    hf = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=dtype).eval()
    expected = hf(IDS).logits
    model = saa.attach(hf)
    assert torch.equal(hf(IDS).logits, expected)
    found = hf(IDS, saa=saa.Call(ALL)).logits
    assert apart(found, expected) < (3e-2 if dtype == torch.bfloat16 else 1e-4)
    saa.detach(model)
    assert hf.transformer.h[0].attn.reorder_and_upcast_attn
    assert torch.equal(hf(IDS).logits, expected)


@torch.no_grad()
def test_an_override_of_a_layer_that_does_not_exist_is_refused():
    hf = make("llama")
    saa.attach(hf)
    policy = saa.Policy(mass=0.5, force=(saa.Force(layer=99, key=3),))
    with pytest.raises(saa.PolicyError, match="layer=99 does not exist; choose 0 to 1"):
        hf(IDS, saa=saa.Call(policy))


# Attached, switched, detached, wrapped


@torch.no_grad()
def test_a_call_that_no_attention_meets_is_an_error():
    hf = make("llama", implementation="sdpa")
    model = saa.attach(hf)
    used = saa.Call(ALL)
    hf(IDS, saa=used)
    hf.set_attn_implementation("eager")
    for call in (saa.Call(ALL), used):
        with pytest.raises(saa.ModelError, match=r"no attention layer met the call.*'eager'"):
            hf(IDS, saa=call)
    saa.detach(model)
    for forward in (hf, hf.model):
        with pytest.raises(saa.ModelError, match="no attention layer met the call"):
            forward(IDS, saa=saa.Call(ALL))
    saa.attach(hf)
    hf(IDS, saa=saa.Call(ALL))


@torch.no_grad()
def test_a_model_that_shares_its_configuration_is_not_silently_dense():
    hf = make("llama", implementation="sdpa")
    other = AutoModelForCausalLM.from_config(hf.config).eval()
    other.config = other.model.config = hf.config
    for layer in other.model.layers:
        layer.self_attn.config = hf.config
    saa.attach(hf)
    with pytest.raises(saa.ModelError, match="has no gate"):
        other(IDS, saa=saa.Call(ALL))
    with pytest.raises(saa.ModelError, match="shares its configuration"):
        saa.attach(other)


def test_a_peft_model_is_refused_with_what_to_do():
    peft = get_peft_model(make("llama"), LoraConfig(target_modules=["q_proj"], r=2))
    with pytest.raises(saa.ModelError, match="merge_and_unload"):
        saa.attach(peft)
    saa.attach(peft.merge_and_unload())


@torch.no_grad()
def test_weights_on_a_disk_are_brought_layer_by_layer(tmp_path):
    from accelerate import disk_offload

    hf = make("llama")
    expected = hf(IDS).logits
    disk_offload(hf, tmp_path, execution_device="cpu")
    model = saa.attach(hf)
    assert torch.equal(hf(IDS).logits, expected)
    assert apart(hf(IDS, saa=saa.Call(ALL)).logits, expected) < 1e-4
    assert model.device == torch.device("cpu")


def test_a_model_without_weights_is_refused():
    with torch.device("meta"):
        hf = make("llama")
    with pytest.raises(saa.ModelError, match="no weights"):
        saa.attach(hf)


@torch.no_grad()
def test_a_copy_of_an_attached_model_is_attached_by_itself():
    hf = make("llama")
    model = saa.attach(hf)
    twin = copy.deepcopy(hf)
    saa.detach(model)
    call = saa.Call(SOME, record="summary")
    twin(IDS, saa=call)
    assert call.trace().density.mean() < 1
    options = {"max_new_tokens": 2, "do_sample": False}
    assert torch.equal(twin.generate(IDS, saa=ALL, **options), hf.generate(IDS, **options))
    assert twin.prepare_inputs_for_generation.hf is twin


@torch.no_grad()
def test_an_attached_model_comes_back_from_a_file(tmp_path, monkeypatch):
    hf = make("llama")
    saa.attach(hf)
    expected = hf(IDS, saa=saa.Call(SOME)).logits
    torch.save(hf, tmp_path / "model.pt")
    for registry in (AttentionInterface, AttentionMaskInterface):  # as in a new process
        monkeypatch.delitem(registry._global_mapping, "saa_sdpa")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(again(IDS, saa=saa.Call(SOME)).logits, expected)
    assert again.generate(IDS, saa=SOME, max_new_tokens=2).shape == (1, 42)


# The probe


def test_the_probe_disturbs_nothing():
    hf = make("llama", attention_dropout=0.5)
    hf.train()
    hf.model.layers[1].eval()
    modes = {name: module.training for name, module in hf.named_modules()}
    buffers = {name: value.clone() for name, value in hf.named_buffers()}
    state = torch.get_rng_state()
    saa.attach(hf)
    assert torch.equal(torch.get_rng_state(), state)
    after = {name: module.training for name, module in hf.named_modules()}
    assert {name: after[name] for name in modes} == modes
    assert all(torch.equal(value, buffers[name]) for name, value in hf.named_buffers())
    assert all(parameter.grad is None for parameter in hf.parameters())


def test_the_probe_refuses_attention_that_saa_does_not_know(monkeypatch):
    """A modelling file whose eager attention does something that no argument tells of."""
    from transformers.models.llama import modeling_llama

    usual = modeling_llama.eager_attention_forward

    def odd(module, query, key, value, attention_mask, **kwargs):
        return usual(module, query, key, value * 1.01, attention_mask, **kwargs)

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", odd)
    hf = make("llama", implementation="eager")
    expected = hf(IDS).logits
    with pytest.raises(saa.ModelError, match=r"differs from its own attention by 0\.0099"):
        saa.attach(hf)
    assert torch.equal(hf(IDS).logits, expected)
    assert not any("saa" in name for name in hf.state_dict())
    saa.attach(hf, probe=False)


def test_an_argument_that_eager_attention_uses_and_saa_does_not_know_is_named(monkeypatch):
    from transformers.models.llama import modeling_llama

    usual = modeling_llama.eager_attention_forward

    def odd(module, query, key, value, attention_mask, head_mask=None, **kwargs):
        return usual(module, query, key, value, attention_mask, **kwargs)

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", odd)
    hf = make("llama", implementation="eager")
    saa.attach(hf)
    with pytest.raises(saa.ModelError, match=r"head_mask.*uses it"):
        hf(IDS, head_mask=torch.ones(4), saa=saa.Call(ALL))


# Texts and tokenizers


def words(**added: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of 90 words, which has no token for padding."""
    names = ["<s>", "</s>", "[UNK]", *(f"w{index}" for index in range(87))]
    model = WordLevel({word: index for index, word in enumerate(names)}, unk_token="[UNK]")
    backend = Tokenizer(model)
    backend.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", **added)


TEXT = " ".join(f"w{index}" for index in range(30))


def test_a_tokenizer_without_a_padding_token_works():
    tokenizer = words()
    assert tokenizer.pad_token_id is None
    for name in ("llama", "electra", "mixtral"):
        trace = saa.run(saa.attach(make(name), tokenizer), TEXT, SOME)
        assert 0 < trace.density.mean() < 1
        assert trace.tokens[3] == "w3"


def test_added_tokens_need_embeddings():
    tokenizer, hf = words(), make("llama")
    tokenizer.add_tokens([f"new{index}" for index in range(20)])
    model = saa.attach(hf, tokenizer)
    with pytest.raises(saa.ModelError, match=r"'new15'.*99.*resize_token_embeddings"):
        saa.run(model, TEXT + " new15", SOME)
    hf.resize_token_embeddings(len(tokenizer))
    saa.run(model, TEXT + " new15", SOME)


def test_what_is_no_single_text_and_slow_tokenizers_are_said(tmp_path):
    model = saa.attach(make("electra"), words())
    with pytest.raises(saa.TextError, match=r"text is a tuple.*tokenizer\(first, second"):
        saa.run(model, (TEXT, TEXT), SOME)
    vocabulary = tmp_path / "vocab.json"
    vocabulary.write_text('{"a": 0, "<unk>": 1}', encoding="utf-8")
    slow = CTRLTokenizer(str(vocabulary), str(_merges(tmp_path)))
    with pytest.raises(saa.ModelError, match=r"CTRLTokenizer.*fast"):
        saa.run(saa.attach(make("llama"), slow), "a", SOME)


def _merges(folder: Path) -> Path:
    file = folder / "merges.txt"
    file.write_text("#version\n", encoding="utf-8")
    return file


@torch.no_grad()
def test_pairs_of_texts_with_their_token_types_go_through_a_classifier():
    config = AutoConfig.for_model("bert", **{**SMALL, "num_labels": 3})
    hf = AutoModelForSequenceClassification.from_config(config).eval()
    types = (IDS > 20).long()
    expected = hf(IDS, token_type_ids=types).logits
    saa.attach(hf)
    assert apart(hf(IDS, token_type_ids=types, saa=saa.Call(ALL)).logits, expected) < 1e-4


# One representation of what is allowed


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("block", [(1, 1), (32, 16)])
@torch.no_grad()
def test_every_kernel_and_rule_keeps_to_bounds(kernel, block):
    if kernel == "flex" and (block == (1, 1) or flex_unavailable("cpu")):
        pytest.skip("flex executes blocks, where it can")
    if kernel == "triton":
        pytest.skip("triton runs on a GPU")
    B, length, cut = 2, 75, 31
    q, k, v = (torch.randn(B, 4, length, 16) for _ in range(3))
    place = torch.arange(length)
    first = torch.where(place < cut, 0, cut).int()[None]
    last = torch.where(place < cut, cut - 1, length - 1).int()[None]
    bounded = Allowed(length, length, False, q.device, bounds=(first, last))
    masked = Allowed(length, length, False, q.device, bounded.pairs.expand(B, 1, length, length))
    gate = PairGate(GateConfig(heads=4, key_heads=4, head_size=16))
    found = []
    for allowed in (bounded, masked):
        plan = Plan(
            allowed, saa.Policy(mass=0.6, sink=1, local=1, block=block, tail=0), as_is=False
        )
        plan.block = block
        plan.count = allowed.count(block)
        plan.forced = rules.forced(allowed, plan.policy, block, plan.count)
        decision = decide(gate, q, k, plan)
        assert decision.density.max() < 1
        found.append(KERNELS[kernel](q, k, v, decision, allowed, 0.25))
    torch.testing.assert_close(found[0], found[1])
    alone = [
        dense(*(x[:, :, part] for x in (q, k, v)), whole, 0.25)
        for part, whole in (
            (slice(cut), Allowed(cut, cut, False, q.device)),
            (slice(cut, None), Allowed(length - cut, length - cut, False, q.device)),
        )
    ]
    torch.testing.assert_close(dense(q, k, v, bounded, 0.25), torch.cat(alone, 2))


# Threads


@torch.no_grad()
def test_eight_threads_with_policies_of_their_own_share_one_model():
    hf = make("llama")
    saa.attach(hf)
    policies = [saa.Policy(mass=0.2 + 0.1 * index, sink=1, local=1) for index in range(8)]
    alone = [hf(IDS, saa=saa.Call(policy)).logits for policy in policies]

    def fifty(index: int) -> bool:
        with torch.no_grad():
            runs = (hf(IDS, saa=saa.Call(policies[index])).logits for _ in range(50))
            return all(torch.equal(run, alone[index]) for run in runs)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(fifty, range(8)))


# Generation


class Listener(BaseStreamer):
    def __init__(self) -> None:
        self.heard: list[int] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.heard += value.flatten().tolist()

    def end(self) -> None:
        self.ended = True


WAYS = {
    "greedy": {"do_sample": False},
    "beams": {"do_sample": False, "num_beams": 3},
    "sampled": {"do_sample": True, "top_k": 20, "temperature": 1.3},
    "beam-sampled": {"do_sample": True, "num_beams": 2},
    "without a cache": {"do_sample": False, "use_cache": False},
    "static cache": {"do_sample": False, "cache_implementation": "static"},
    "in chunks": {"do_sample": False, "prefill_chunk_size": 7},
    "looked up": {"do_sample": False, "prompt_lookup_num_tokens": 3},
}


def test_an_assistant_model_is_attached_as_well():
    hf, small = make("llama"), make("llama", num_hidden_layers=1)
    options = {"assistant_model": small, "max_new_tokens": 6, "do_sample": False}
    expected = hf.generate(IDS, **options)
    saa.attach(hf)
    saa.attach(small)
    assert torch.equal(hf.generate(IDS, saa=ALL, **options), expected)


@pytest.mark.parametrize("way", WAYS)
def test_generate_under_a_policy_that_keeps_all_writes_what_transformers_writes(way):
    hf = make("llama")
    ids, mask = (IDS, torch.ones_like(IDS)) if way == "looked up" else padded()
    options = {"max_new_tokens": 8, "attention_mask": mask, "pad_token_id": 1, **WAYS[way]}
    torch.manual_seed(11)
    expected = hf.generate(ids, **options)
    saa.attach(hf)
    torch.manual_seed(11)
    assert torch.equal(hf.generate(ids, **options), expected)
    torch.manual_seed(11)
    assert torch.equal(hf.generate(ids, saa=ALL, **options), expected)
    made: list[saa.Call] = []

    def calls() -> saa.Call:
        made.append(saa.Call(SOME, record="summary"))
        return made[-1]

    hf.generate(ids, saa=calls, **options)
    chunks = {"in chunks": 4, "without a cache": 8}.get(way, 1)
    assert len(made) == chunks  # one Call for each forward that reads the prompt
    assert all(call.trace().density.mean() < 1 for call in made)


def test_generate_streams_and_detach_takes_it_away():
    hf = make("llama")
    model = saa.attach(hf)
    listener = Listener()
    out = hf.generate(IDS, saa=ALL, max_new_tokens=4, do_sample=False, streamer=listener)
    assert listener.heard == out[0].tolist()
    assert listener.ended
    assert "prepare_inputs_for_generation" in vars(hf)
    saa.detach(model)
    assert "prepare_inputs_for_generation" not in vars(hf)
    with pytest.raises(ValueError, match="saa"):
        hf.generate(IDS, saa=ALL, max_new_tokens=2)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (saa.Call(ALL), "a Call is for one forward"),
        ("dense", "must be a Policy"),
        (lambda: None, "must be a Policy"),
        (saa.Policy(mass=0.9, guard=saa.Guard(missed_mass=0.1)), "guard.*second time"),
        (saa.Policy(mass=0.9, tokens=0.5), "tokens=0.5"),
    ],
    ids=["call", "text", "no factory", "guard", "tokens"],
)
def test_generate_refuses_by_name_what_it_cannot_follow(given, says):
    hf = make("llama")
    saa.attach(hf)
    with pytest.raises(saa.PolicyError, match=says):
        hf.generate(IDS, saa=given, max_new_tokens=2)
