"""A small random BERT with a task, gates that drop about half of the tokens, and a reference model."""

from dataclasses import replace

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoModel, BertConfig, PreTrainedTokenizerFast

import saa_core as saa
from saa_core.run.varlen import encode_all, packing_of
from saa_core.task import Task, add_token_gates
from tests.conftest import TINY

SHARES = (0.2, 0.95)
LONGEST, LIMIT = 40, 256
NAMES = {"cls_token": "[CLS]", "pad_token": "[PAD]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
LABELS = ("bad", "fair", "good")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Words w4 to w96 between [CLS] (0) and [SEP] (2)."""
    words = {name: at for at, name in enumerate(NAMES.values())}
    words |= {f"w{at}": at for at in range(4, TINY["vocab_size"])}
    words |= {"[PAD]": 1, "[SEP]": 2}
    made = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, **NAMES)


def make_side(side: str, seed: int, margin: float) -> saa.Model:
    torch.manual_seed(seed)
    given = {**TINY, "num_hidden_layers": 4, "max_position_embeddings": LIMIT, "pad_token_id": 1}
    hf = AutoModel.from_config(BertConfig(**given), attn_implementation="sdpa").eval()
    for name, weight in hf.named_parameters():
        if "LayerNorm.weight" not in name:
            torch.nn.init.normal_(weight, std=0.15)  # so that texts differ in what comes out
    model = saa.attach(hf, make_tokenizer(), rank=8)
    if side == "sparse":
        for gate in add_token_gates(packing_of(model), TINY["hidden_size"]):
            torch.nn.init.normal_(gate.up.weight, std=2)
            torch.nn.init.normal_(gate.norm.bias)
            gate.shift.data += 1.5 * torch.randn(())
    guard = saa.Guard(missed_mass=None, margin=margin) if margin else None
    policy = saa.Policy(mass=1.0, tokens=0.5, guard=guard)
    head = torch.nn.Linear(TINY["hidden_size"], len(LABELS)).requires_grad_(False)
    torch.nn.init.normal_(head.weight, std=2)
    means, _ = encode_all(model, [[0, *range(at, at + 9), 2] for at in range(4, 80, 5)])
    head.bias.copy_(-head(means).mean(0))  # so that each label is as likely
    if side == "dense":
        policy = saa.Policy(mass=1.0)
    task = Task("toys", LABELS, head, policy, SHARES, LONGEST, side=side)
    spec = replace(model.spec, name="tiny", task="toys", policy=policy)
    return replace(model, task=task, spec=spec)


def make_model(margin: float = 0.1) -> saa.Model:
    dense = make_side("dense", 1, 0.0)
    return replace(make_side("sparse", 0, margin), load_reference=lambda: dense)
