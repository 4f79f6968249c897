#!/usr/bin/env python3
"""Writes tests/golden/architecture_counts.json: parameters of small models of every family, counted in transformers.

One object a model: config (as config.json), parameters (with the correction biases of routers, which transformers keeps as
buffers), attention_rank_1 (in + out of every linear layer of attention).

    python scripts/golden/make_architecture_counts.py [--out tests/golden/architecture_counts.json]
"""

import argparse
import json
import pathlib

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

SHARED = dict(hidden_size=48, num_hidden_layers=5, vocab_size=320, num_attention_heads=6, num_key_value_heads=2)
MLA = dict(
    num_key_value_heads=6,
    kv_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=4,
    v_head_dim=10,
    intermediate_size=80,
    moe_intermediate_size=24,
    n_routed_experts=8,
    n_shared_experts=2,
    num_experts_per_tok=3,
    first_k_dense_replace=2,
)
QWEN = dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24, decoder_sparse_step=2, mlp_only_layers=[3])
MODELS = [
    ("llama", dict(intermediate_size=80, tie_word_embeddings=True)),
    ("llama", dict(intermediate_size=80, attention_bias=True, mlp_bias=True, head_dim=12)),
    ("qwen2", dict(intermediate_size=80, tie_word_embeddings=False)),
    ("qwen3", dict(intermediate_size=80, head_dim=16, tie_word_embeddings=True)),
    ("mixtral", dict(intermediate_size=56, num_local_experts=4, num_experts_per_tok=2)),
    ("qwen2_moe", dict(QWEN, intermediate_size=80, shared_expert_intermediate_size=40, tie_word_embeddings=False)),
    ("qwen3_moe", dict(QWEN, intermediate_size=80, head_dim=16, tie_word_embeddings=False)),
    ("olmoe", dict(intermediate_size=24, num_experts=8, num_experts_per_tok=2)),
    ("deepseek_v2", dict(MLA, q_lora_rank=20, n_group=1, topk_group=1)),
    ("deepseek_v3", dict(MLA, q_lora_rank=20, n_group=2, topk_group=1)),
    ("deepseek_v3", dict(MLA, q_lora_rank=None, n_group=1, topk_group=1)),
]
FIELDS = set().union(SHARED, MLA, QWEN, *(fields for _, fields in MODELS), ["model_type", "qkv_bias", "moe_layer_freq"])


def count(family, fields):
    config = AutoConfig.for_model(family, **{**SHARED, **fields})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    biases = [b for name, b in model.named_buffers() if name.endswith("e_score_correction_bias")]
    linear = [m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and ".self_attn." in name]
    published = {key: value for key, value in config.to_dict().items() if key in FIELDS}
    return {
        "config": {"model_type": family, **published},
        "parameters": sum(p.numel() for p in [*model.parameters(), *biases]),
        "attention_rank_1": sum(m.in_features + m.out_features for m in linear),
    }


def main():
    default = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/architecture_counts.json"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=default)
    arguments = parser.parse_args()
    golden = {
        "source": f"scripts/golden/make_architecture_counts.py, transformers {transformers.__version__}",
        "models": [count(family, fields) for family, fields in MODELS],
    }
    arguments.out.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
