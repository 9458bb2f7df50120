"""Writes a golden trace for a new format version: python tests/golden/make.py v2

A tiny random Llama on ten tokens. Files of older versions stay as they are, so that they are read
for ever.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import saa_core as saa


def main(version: str) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    hf = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    saa.attach(hf)
    policy = saa.Policy(mass=0.6, sink=1, local=2, block=(4, 2), granularity="block")
    call = saa.Call(policy, record="full")
    text = "abcdefghij"
    with torch.inference_mode():
        hf(torch.tensor([[ord(letter) % 97 for letter in text]]), saa=call)
    trace = call.trace(
        text=text, tokens=tuple(text), offsets=tuple((i, i + 1) for i in range(len(text)))
    )
    file = trace.save(Path(__file__).parent / f"{version}.saa")
    rows = trace.keep_map(1, 3).astype(int)
    drawn = "\n".join("".join(".#"[cell] for cell in row) for row in rows)
    file.with_suffix(".txt").write_text(drawn + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
