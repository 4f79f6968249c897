#!/usr/bin/env python3
"""`tailor` with trained routers, as users meet it: training, what is saved, going on, merging, mistakes.

    router_cli_test.py PROGRAM GOLDEN

GOLDEN holds tiny_qwen3_moe, tiny_mixtral, tiny_qwen2_moe, tiny_deepseek_v3, tiny_llama and sparse/mixtral.
"""

import functools
import json
import pathlib
import random
import struct
import sys
import tempfile

from program import JOB, Job, expect, expect_equal, kill, run_program

PROGRAM, GOLDEN = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
run = functools.partial(run_program, PROGRAM)
ROUTER = "router: {{train_router: true, router_aux_loss_coef: 0.02, router_z_loss_coef: 0.001}}\n"
CAPACITY = "router: {{expert_capacity_factor: 1.0, token_drop_policy: position}}\n"
# Dropout is not for experts.
SPARSE_JOB = JOB.replace("lora_dropout: 0.1, ", "") + ROUTER

TOKENS_JOB = """\
model: {{name_or_path: {model}, dtype: float32}}
peft: {{r: 4, lora_alpha: 8, target_modules: [o_proj]}}
data: {{train: [{{path: rows.jsonl, format: tokens}}], max_length: 32, packing: false}}
train: {{learning_rate: 3.0e-3, max_steps: {steps}, per_device_train_batch_size: 4, threads: 1}}
output: {{dir: {run}, save_steps: {save_steps}, eval_steps: {eval_steps}}}
"""


def read_floats(file):
    data = file.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    out = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if entry.get("dtype") == "F32":
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            out[name] = struct.unpack(f"<{(end - begin) // 4}f", data[begin:end])
    return out


def adapter_of(job):
    folder = job.run / "adapter"
    config = json.loads((folder / "adapter_config.json").read_text())
    return read_floats(folder / "adapter_model.safetensors"), config


def rows_of(job):
    return [json.loads(line) for line in (job.run / "metrics.jsonl").read_text().splitlines()]


def check_training(folder):
    job = Job(PROGRAM, GOLDEN / "tiny_qwen3_moe", folder, "router", job=SPARSE_JOB)
    _, log = job.finish()
    expect("and 2 routers" in log, f"the log tells of routers: {log}")
    tensors, config = adapter_of(job)
    base = read_floats(GOLDEN / "tiny_qwen3_moe" / "model.safetensors")
    expect(config["modules_to_save"] == ["mlp.gate"], f"PEFT's modules_to_save: {config['modules_to_save']}")
    for layer in range(2):
        name = f"model.layers.{layer}.mlp.gate.weight"
        trained = tensors[f"base_model.model.{name}"]
        expect(len(trained) == len(base[name]) and trained != base[name], f"{name} is trained")
    steps = [row for row in rows_of(job) if "loss" in row]
    expect(steps[-1]["loss"] < steps[0]["loss"], "the loss falls")
    for name in ("aux_loss", "z_loss", "router/max_load"):
        expect(all(row[name] > 0.9 for row in steps), f"{name} of every step")
    return job


def eval_loss(model, adapter, data):
    more = ("--adapter", adapter) if adapter else ("--without-adapter",)
    command = ("eval", "--model", model, *more, "--data", data, "--format", "prompt_completion", "--dtype", "float32")
    return json.loads(run(*command, "--json").stdout)["loss"]


def check_use(job, folder):
    """Every command that takes an adapter takes its routers."""
    model, adapter, data = GOLDEN / "tiny_qwen3_moe", job.run / "adapter", folder / "test.jsonl"
    trained = [row["eval_loss"] for row in rows_of(job) if "eval_loss" in row][-1]
    expect(abs(eval_loss(model, adapter, data) - trained) < 1e-6, "eval has the run's last evaluation")
    expect(abs(eval_loss(model, None, data) - trained) > 1e-3, "and the base another")
    merged = folder / "merged"
    run("merge", "--model", model, "--adapter", adapter, "--output", merged, "--json")
    expect(abs(eval_loss(merged, None, data) - trained) < 1e-4, "so has the merged model")
    tensors, _ = adapter_of(job)
    name = "model.layers.1.mlp.gate.weight"
    expect(read_floats(merged / "model.safetensors")[name] == tensors[f"base_model.model.{name}"], "to the bit")
    for experts in ("per-expert", "fused"):
        exported = folder / experts
        run("export", adapter, "--to", "peft", "--experts", experts, "--output", exported)
        expect(abs(eval_loss(model, exported, data) - trained) < 1e-5, f"and the exported one ({experts})")
    words = "--prompt a --temperature 0 --max-new-tokens 8 --ignore-eos --dtype float32 --json".split()
    say = lambda *more: json.loads(run("generate", "--model", more[0], *more[1:], *words).stdout)["token_ids"]
    expect(say(model, "--adapter", adapter) == say(merged), "and completes alike")


def check_resume(straight, folder):
    killed = Job(PROGRAM, GOLDEN / "tiny_qwen3_moe", folder, "killed", job=SPARSE_JOB)
    for steps in (6, 13):
        process = killed.start()
        killed.wait_for_steps(process, steps)
        kill(process)
    killed.finish()
    expect_equal(killed.result(), straight.result(), "killed and resumed")
    _, error = killed.finish("--set", "router.router_aux_loss_coef=0.5", "--set", "train.max_steps=21", code=2)
    expect("router.router_aux_loss_coef: begun with 0.02" in error, f"another coefficient is another run: {error}")


def check_start(job, folder):
    """peft.adapter_path, with routers and without."""
    model = GOLDEN / "tiny_qwen3_moe"
    further = Job(PROGRAM, model, folder, "further", steps=2, job=SPARSE_JOB)
    _, log = further.finish("--set", f"peft.adapter_path={job.run / 'adapter'}", "--set", "train.learning_rate=1e-9")
    tensors, _ = adapter_of(job)
    name = "base_model.model.model.layers.0.mlp.gate.weight"
    near = all(abs(a - b) < 1e-6 for a, b in zip(adapter_of(further)[0][name], tensors[name]))
    expect(near, "training goes on from the saved router")

    plain = Job(PROGRAM, model, folder, "plain", steps=2, job=SPARSE_JOB.replace(ROUTER, ""))
    _, error = plain.finish("--set", f"peft.adapter_path={job.run / 'adapter'}", code=2)
    expect("router.train_router" in error, f"a trained router is not dropped: {error}")
    plain.finish()
    expect(adapter_of(plain)[1]["modules_to_save"] is None, "no router is saved where none is trained")
    behind = Job(PROGRAM, model, folder, "behind", steps=2, job=SPARSE_JOB)
    _, log = behind.finish("--set", f"peft.adapter_path={plain.run / 'adapter'}")
    expect("holds no routers" in log, f"routers begin as the model's: {log}")


def check_families(folder):
    rng = random.Random(3)
    with open(folder / "rows.jsonl", "w") as out:
        for _ in range(16):
            ids = [rng.randrange(60) for _ in range(rng.randrange(5, 20))]
            out.write(json.dumps({"input_ids": ids, "labels": ids}) + "\n")
    for family in ("tiny_mixtral", "tiny_qwen2_moe", "tiny_deepseek_v3"):
        deepseek = family == "tiny_deepseek_v3"
        more = "router: {{train_router: true, router_seq_aux_loss_coef: 0.01" + (
            ", router_bias_update_rate: 0.01}}\n" if deepseek else ", router_aux_loss_scope: micro_batch}}\n"
        )
        job = Job(PROGRAM, GOLDEN / family, folder, family, steps=3, job=TOKENS_JOB + more)
        job.finish()
        tensors, _ = adapter_of(job)
        expect("base_model.model.model.layers.1.mlp.gate.weight" in tensors, f"{family}: {sorted(tensors)}")
        expect(not any("shared_expert_gate" in name for name in tensors), f"{family}: no other gate")
        expect("seq_aux_loss" in rows_of(job)[-1], f"{family}: {rows_of(job)[-1]}")
        bias = tensors.get("base_model.model.model.layers.1.mlp.gate.e_score_correction_bias")
        expect((bias is not None) == deepseek, f"{family}: a bias where the family has one")
        if deepseek:
            base = read_floats(GOLDEN / family / "model.safetensors")
            moved = [a - b for a, b in zip(bias, base["model.layers.1.mlp.gate.e_score_correction_bias"])]
            expect(max(map(abs, moved)) > 0.009, f"the bias moved: {moved}")
            expect(all(min(abs(abs(m) - 0.01 * n) for n in range(4)) < 1e-6 for m in moved), f"by steps: {moved}")


def check_fused(folder):
    """Experts of Mixtral in PEFT's fused form, whose names are not the family's: every command knows them."""
    model, given, fused, again = GOLDEN / "tiny_mixtral", GOLDEN / "sparse" / "mixtral", folder / "one", folder / "each"
    run("export", given, "--to", "peft", "--experts", "fused", "--output", fused)
    run("export", fused, "--to", "peft", "--model", model, "--output", again)
    factors = [read_floats(adapter / "adapter_model.safetensors") for adapter in (given, again)]
    expect(factors[0] == factors[1], "the same factors")
    words = ("--data", folder / "rows.jsonl", "--format", "tokens", "--dtype", "float32", "--json")
    loss = lambda adapter: json.loads(run("eval", "--model", model, "--adapter", adapter, *words).stdout)["loss"]
    expect(loss(given) == loss(fused) == loss(again), "the same loss")
    peft = TOKENS_JOB.replace("r: 4, lora_alpha: 8, target_modules: [o_proj]", "r: 2, lora_alpha: 3")
    job = Job(PROGRAM, model, folder, "from-fused", steps=1, job=peft + ROUTER)
    job.finish("--set", f"peft.adapter_path={fused}", "--set", "train.learning_rate=1e-9")
    name = "base_model.model.model.layers.1.block_sparse_moe.experts.7.w3.lora_B.weight"
    near = all(abs(a - b) < 1e-6 for a, b in zip(adapter_of(job)[0][name], factors[0][name], strict=True))
    expect(near, "training goes on from fused experts")


def check_capacity(folder):
    """Experts that are full drop tokens in training, and nowhere else."""
    job = Job(PROGRAM, GOLDEN / "tiny_qwen3_moe", folder, "capacity", steps=3, job=SPARSE_JOB.replace(ROUTER, CAPACITY))
    job.finish()
    rows = rows_of(job)
    dropped = [row["router/dropped"] for row in rows if "loss" in row]
    expect(all(0.05 < share < 0.6 for share in dropped), f"a part of the pairs is dropped: {dropped}")
    expect(adapter_of(job)[1]["modules_to_save"] is None, "routers are frozen")
    evaluated = [row["eval_loss"] for row in rows if "eval_loss" in row][-1]
    mine = eval_loss(GOLDEN / "tiny_qwen3_moe", job.run / "adapter", folder / "test.jsonl")
    expect(abs(mine - evaluated) < 1e-6, "the run's evaluation drops nothing")


def check_refusals(folder):
    def refused(text, model, *more, job=SPARSE_JOB):
        given = Job(PROGRAM, GOLDEN / model, folder, "refused", job=job)
        arguments = [word for pair in more for word in ("--set", pair)]
        _, error = given.finish(*arguments, code=2)
        expect(text in error and not given.run.exists(), f"{text!r} in {error!r}, nothing written")

    refused("refused.yaml:19:24: router.train_router: the model has no routed experts", "tiny_llama")
    refused("frozen router is not balanced", "tiny_qwen3_moe", "router.train_router=false")
    refused("have no e_score_correction_bias", "tiny_qwen3_moe", "router.router_bias_update_rate=0.001")
    capacity = SPARSE_JOB.replace(ROUTER, CAPACITY)
    refused("router.expert_capacity_factor: the model has no sparse layer", "tiny_llama", job=capacity)
    refused("did you mean", "tiny_qwen3_moe", "router.router_aux_los_coef=0.1")
    flat = SPARSE_JOB.replace(ROUTER, "") + "router_aux_loss_coef: 0.1\n"
    refused("router.router_aux_loss_coef", "tiny_qwen3_moe", job=flat)


def main():
    with tempfile.TemporaryDirectory(prefix="tailor-router-") as name:
        folder = pathlib.Path(name)
        job = check_training(folder)
        check_use(job, folder)
        check_resume(job, folder)
        check_start(job, folder)
        check_families(folder)
        check_fused(folder)
        check_capacity(folder)
        check_refusals(folder)


if __name__ == "__main__":
    main()
