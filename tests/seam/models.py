"""Small random models of many types, made from configurations alone."""

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

VOCABULARY = 99
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "head_dim": 16,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "attention_dropout": 0.0,
    "initializer_range": 0.2,
}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
MIXED = {"layer_types": ["sliding_attention", "full_attention"]}

DECODERS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 12},
    "qwen2": {},
    "qwen3": {},
    "gpt2": {},
    "gemma": {},
    "gemma2": {"sliding_window": 12, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 5.0},
    "gemma3_text": {"sliding_window": 12, "query_pre_attn_scalar": 16, **MIXED},
    "qwen2_moe": {**EXPERTS, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    "qwen3_moe": {**EXPERTS, "moe_intermediate_size": 32},
    "mixtral": {**EXPERTS},
    "gpt_oss": {**EXPERTS, "sliding_window": 12, **MIXED},
    "phi": {},
    "phi3": {},
    "olmo": {},
    "olmo2": {},
    "olmoe": {**EXPERTS},
    "granite": {"attention_multiplier": 0.2},
    "granitemoe": {**EXPERTS},
    "smollm3": {},
    "gpt_neox": {},
    "starcoder2": {"sliding_window": 12},
    "cohere": {},
    "cohere2": {"sliding_window": 12, **MIXED},
    "glm": {},
    "glm4": {},
    "helium": {},
    "exaone4": {"sliding_window": 12, **MIXED},
    "ernie4_5": {},
    "seed_oss": {},
    "arcee": {},
    "biogpt": {},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "deepseek_v2": {
        "kv_lora_rank": 16,
        "q_lora_rank": 24,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 16,
        "v_head_dim": 24,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
        "head_dim": 16,
        "num_key_value_heads": 4,
    },
    "deepseek_v3": {
        "kv_lora_rank": 16,
        "q_lora_rank": 24,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 16,
        "v_head_dim": 24,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
        "head_dim": 16,
        "num_key_value_heads": 4,
    },
    "modernbert-decoder": {"local_attention": 24, "cls_token_id": 0, "sep_token_id": 2},
    "bitnet": {},
    "apertus": {},
    "hunyuan_v1_dense": {},
    "minimax": {**EXPERTS, "layer_types": ["full_attention", "linear_attention"], "block_size": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
    "qwen3_next": {
        **EXPERTS,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    },
    "granite_swa": {"sliding_window": 12},
}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "xlm-roberta": {},
    "distilbert": {},
    "modernbert": {
        "local_attention": 24,
        "cls_token_id": 0,
        "sep_token_id": 2,
        "num_hidden_layers": 4,
    },
    "electra": {"embedding_size": 64},
    "camembert": {},
    "xlm-roberta-xl": {},
    "roberta-prelayernorm": {},
    "data2vec-text": {},
    "ernie": {},
    "esm": {"position_embedding_type": "rotary", "mask_token_id": 3},
    "eurobert": {},
    "nomic_bert": {},
    "mobilebert": {"embedding_size": 32, "intra_bottleneck_size": 32, "num_attention_heads": 4},
}


def make(
    name: str,
    *,
    implementation: str | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    **changes: Any,
) -> nn.Module:
    """A random model in evaluation mode.

    Args:
        implementation: of its attention; what the model prefers by default.
    """
    own = DECODERS.get(name, ENCODERS.get(name, {}))
    config = AutoConfig.for_model(name, **{**SMALL, **own, **changes})
    auto: Any = AutoModelForMaskedLM if name in ENCODERS else AutoModelForCausalLM
    if type(config) not in auto._model_mapping:
        auto = AutoModel
    torch.manual_seed(seed)
    hf: nn.Module = auto.from_config(config, attn_implementation=implementation, dtype=dtype).eval()
    return hf
