#!/usr/bin/env python3
"""`mpirun -n N tailor train` on a tiny model of random weights: every layout trains and evaluates as one rank does, and
a run goes on at another layout than that which began it.

    ranks_alike_test.py PROGRAM FAMILY MPIEXEC...

FAMILY is one of MODELS; MPIEXEC ends with the option in front of the number of ranks.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

from program import expect
from ranked_job import DP2, EP2, ONE, TP2, Layout, Setting, expect_alike

SIZES = {
    "vocab_size": 264,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "initializer_range": 0.2,
    "bos_token_id": 256,
    "eos_token_id": 258,
    "pad_token_id": 256,
}
MODELS = {
    "dense": {"model_type": "llama", "head_dim": 8, "rms_norm_eps": 1e-5, "tie_word_embeddings": True},
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        "head_dim": 8,
        "moe_intermediate_size": 16,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    },
    "deepseek_v3": {
        "model_type": "deepseek_v3",
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 16,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "q_lora_rank": 20,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "rms_norm_eps": 1e-6,
        "rope_interleave": True,
        "tie_word_embeddings": False,
    },
}
WEIGHTS_SEED = 4

PP2, DP_SHARD2 = Layout(2, pp=2), Layout(2, dp_shard=2)
DP2_TP2, PP2_DP2, PP2_DP_SHARD2 = Layout(4, tp=2), Layout(4, pp=2), Layout(4, pp=2, dp_shard=2)
DP2_EP2, TP2_EP2, EP2_DP_SHARD2 = Layout(4, ep=2), Layout(4, tp=2, ep=2), Layout(2, ep=2, dp_shard=2)
DENSE = [DP2, Layout(4), TP2, Layout(4, tp=4), PP2, Layout(4, pp=4), DP2_TP2, PP2_DP2, DP_SHARD2, PP2_DP_SHARD2]
EXPERTS = [EP2, Layout(4, ep=4), DP2_EP2, TP2_EP2, EP2_DP_SHARD2]
# Of a run that began on the first layout and goes on, behind step 10, on the second.
CHANGES = {
    "dense": [(PP2_DP2, DP_SHARD2), (DP_SHARD2, PP2), (PP2_DP_SHARD2, ONE), (TP2, Layout(4, pp=4))],
    "qwen3_moe": [(DP2_EP2, TP2), (DP2_EP2, ONE), (Layout(4, pp=4), EP2_DP_SHARD2), (EP2_DP_SHARD2, PP2)],
    "deepseek_v3": [(PP2_DP2, TP2_EP2), (DP_SHARD2, PP2), (Layout(4, ep=4), PP2_DP_SHARD2)],
}


def make_model(program, family, folder):
    config = folder / "config.json"
    config.write_text(json.dumps(SIZES | MODELS[family]))
    command = [program, "init", "--config", config, "--output", folder / family, "--seed", str(WEIGHTS_SEED)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=60)
    return folder / family


def run_on(setting, model, layout):
    job = setting.job(layout.name, model)
    result, _ = job.finish(layout)
    expect(result["steps"] == 20 and result["resumed_from"] is None, result)
    return job


def go_on(setting, model, begun, now):
    """As if the run on the first layout had ended behind step 10."""
    job = setting.job(f"{begun.name}-then-{now.name}", model)
    shutil.copytree(setting.folder / begun.name, job.run)
    shutil.rmtree(job.run / "adapter")
    shutil.rmtree(job.run / "checkpoints" / "step-000020")
    result, error = job.finish(now)
    expect("step-000010" in result["resumed_from"], result)
    expect("warning: resuming with a change: " in error and f"begun with {begun}, now {now}" in error, error)
    return job


def main(program, family, *mpiexec):
    with tempfile.TemporaryDirectory(prefix="tailor-ranks-") as name:
        # Rows of the dense model fill several micro-batches a step, which a pipeline works on at once. Those of the
        # others are short: of few tokens none is so undecided between two experts that rounding decides.
        setting = Setting(program, mpiexec, pathlib.Path(name), longest_row=400 if family == "dense" else 20)
        model = make_model(setting.program, family, setting.folder)
        one = run_on(setting, model, ONE)
        evaluations = [row["eval_loss"] for row in one.metrics() if "eval_loss" in row]
        expect(len(evaluations) == 2 and evaluations[1] < evaluations[0], f"it learns: {evaluations}")
        for layout in DENSE + (EXPERTS if family != "dense" else []):
            expect_alike(run_on(setting, model, layout), one, layout.name)
        for begun, now in CHANGES[family]:
            job = go_on(setting, model, begun, now)
            expect_alike(job, one, f"{begun.name}, then {now.name}")
        _, error = job.finish(ONE, "--set", "train.per_device_train_batch_size=4", code=2)
        expect("begun with 8 rows, now 4 rows" in error, error)


if __name__ == "__main__":
    main(*sys.argv[1:])
