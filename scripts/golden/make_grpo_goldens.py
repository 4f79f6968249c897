#!/usr/bin/env python3
"""Writes tests/golden/grpo/*.safetensors: what TRL's GRPOTrainer, over tests/golden/tiny_llama, makes of fixed completions.

advantages   GRPOTrainer._generate_and_score_completions, two groups of four
  rewards.<table>            (F, N) float32, NaN where a function gave None; weights 1, 0.5, 0.25, as many as functions
  <table>.<scale>            (N): advantages, scale group, batch, none or normalize_then_sum
  <table>.<scale>.logged     (3 + 2 F): reward, reward_std, frac_reward_zero_std, then mean and std of every function
correction   the same method with its correction of a sampler's log-probabilities
  offsets, old, sampler      packed responses
  <mode>                     (S): the weight of every token, clip_min 0.8, clip_max 1.25
losses       GRPOTrainer._compute_loss on log-probabilities made up, float64
  offsets, mask, logprobs, old, reference, sampler, weights, entropies, advantages    packed responses
  <loss_type>.<level>        (additions, 1 + S): the loss and its gradient by logprobs; additions as in ADDITIONS, in that order
  <loss_type>.<level>.logged (additions, 5): kl, clip_ratio low_mean, high_mean, low_min, high_max; 0 where TRL has none
step_<name>  GRPOTrainer.train in float64: two optimizer steps (AdamW, lr 1e-3, no decay) on the same rollouts, adapter tests/golden/peft/llama
  prompt_ids, prompt_offsets, completion_ids, completion_offsets    packed; four completions a prompt
  rewards, advantages        a completion
  old, reference             a completion token; the reference is the model without adapter
  logprobs.<k>, loss.<k>, logged.<k> (kl, entropy; TRL multiplies kl by the ratio where it corrects its bias), gradient.<k>.<key>, trained.<k>.<key>    step k of 0, 1; trained: behind it

The metadata records the library versions.

    python scripts/golden/make_grpo_goldens.py [--golden tests/golden]
"""

import argparse
import itertools
import pathlib
import tempfile
import types

import datasets
import peft
import safetensors
import safetensors.torch
import torch
import transformers
import trl
import trl.trainer.grpo_trainer as implementation

NUM_GENERATIONS = 4
PROMPTS = [[11, 45, 7, 101, 9], [200, 33, 14]]
LENGTHS = [5, 3, 6, 4, 2, 7, 5, 4]
WEIGHTS = [1.0, 0.5, 0.25]
NONE = float("nan")

TABLES = {
    "binary": [[1, 0, 0, 1, 1, 0, 0, 0]],
    "mixed": [[0.2, 0.9, 0.4, 0.5, 3, -1, 2, 0.25]],
    "equal": [[0.1, 0.1, 0.1, 0.1, 0, 1, 0, 1]],
    "holes": [[1, NONE, 0, 1, NONE, 0.5, NONE, 0.25]],
    "two": [[1, 0, 0, 1, 0, 1, 1, 1], [0.5, 0.1, 0.9, 0.3, 0.2, 0.4, 0.6, 0]],
    "three": [[1, NONE, 0, 1, 0, 1, 1, 1], [0.5, NONE, NONE, 0.3, 0.2, 0.4, 0.6, 0], [2, NONE, 1, NONE, 1, 0, 1, NONE]],
}
MODES = ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
LOSS_TYPES = ["grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"]

ADDITIONS = {
    "plain": {},
    "delta": dict(delta=1.5),
    "k3": dict(beta=0.1),
    "bias_correction": dict(beta=0.1, use_bias_correction_kl=True),
    "weights": dict(weights=True),
    "off_policy": dict(off_policy_mask_threshold=0.1),
    "top_entropy": dict(top_entropy_quantile=0.4),
    "all": dict(
        delta=1.5,
        beta=0.1,
        use_bias_correction_kl=True,
        weights=True,
        off_policy_mask_threshold=0.1,
        top_entropy_quantile=0.4,
    ),
}


class Rollouts:
    """Hands completions, drawn from the model once, and rewards to a trainer."""

    def __init__(self, model):
        generator = torch.Generator().manual_seed(1)
        self.completions = []
        for i, length in enumerate(LENGTHS):
            ids = list(PROMPTS[i // NUM_GENERATIONS])
            for _ in range(length):
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
                ids.append(int(torch.multinomial(logits.softmax(0), 1, generator=generator)))
            self.completions.append(ids[-length:])
        for row in (0, 3, 5):
            self.completions[row][-1] = 2  # the end token
        self.logprobs = None
        self.rewards = TABLES["binary"]

    def __call__(self, prompts, trainer):
        prompt_ids = [PROMPTS[i // NUM_GENERATIONS] for i in range(len(LENGTHS))]
        return {"prompt_ids": prompt_ids, "completion_ids": self.completions, "logprobs": self.logprobs}

    def reward(self, function: int):
        def score(completions, **_):
            return [None if x != x else x for x in self.rewards[function]]

        score.__name__ = f"function_{function}"
        return score


def make_trainer(golden: pathlib.Path, scratch: str, num_functions: int, **settings):
    tokenizer = transformers.AutoTokenizer.from_pretrained(golden / "tiny_llama")
    model = transformers.AutoModelForCausalLM.from_pretrained(golden / "tiny_llama", dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(model, golden / "peft" / "llama", is_trainable=True)
    rollouts = Rollouts(model)
    arguments = dict(
        output_dir=scratch,
        per_device_train_batch_size=len(LENGTHS),
        num_generations=NUM_GENERATIONS,
        max_completion_length=8,
        reward_weights=WEIGHTS[:num_functions],
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to=[],
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        seed=0,
        remove_unused_columns=False,
    )
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=[rollouts.reward(f) for f in range(num_functions)],
        args=trl.GRPOConfig(**(arguments | settings)),
        train_dataset=datasets.Dataset.from_dict({"prompt": [f"prompt {i}" for i in range(len(PROMPTS))]}),
        processing_class=tokenizer,
        rollout_func=rollouts,
    )
    if "ref" in trainer.model.peft_config:  # TRL's reference would be a copy of the adapter
        trainer.model.delete_adapter("ref")
    return trainer, rollouts


def rows():
    return [{"prompt": f"prompt {i // NUM_GENERATIONS}"} for i in range(len(LENGTHS))]


def offsets_of(lengths):
    return torch.tensor([0, *itertools.accumulate(lengths)])


def packed(padded, lengths):
    return torch.cat([padded[i, :n] for i, n in enumerate(lengths)]).contiguous()


def last(trainer, name):
    values = trainer._metrics["train"].get(name)
    return values[-1] if values else 0.0


def make_advantages(golden, scratch):
    out = {}
    for table, rewards in TABLES.items():
        trainer, rollouts = make_trainer(golden, scratch, len(rewards))
        trainer.model.train()
        rollouts.rewards = rewards
        out[f"rewards.{table}"] = torch.tensor(rewards, dtype=torch.float32)
        for scale in ["group", "batch", "none", "normalize_then_sum"]:
            whole = scale == "normalize_then_sum"
            trainer.multi_objective_aggregation = scale if whole else "sum_then_normalize"
            trainer.scale_rewards = "group" if whole else scale
            inputs = trainer._generate_and_score_completions(rows())
            out[f"{table}.{scale}"] = inputs["advantages"].contiguous()
            names = ["reward", "reward_std", "frac_reward_zero_std"]
            names += [f"rewards/function_{f}/{kind}" for f in range(len(rewards)) for kind in ("mean", "std")]
            out[f"{table}.{scale}.logged"] = torch.tensor([last(trainer, name) for name in names])
    return out


def make_correction(golden, scratch):
    trainer, rollouts = make_trainer(golden, scratch, 1)
    trainer.model.train()
    trainer.use_vllm, trainer.vllm_importance_sampling_correction = True, True
    trainer._last_loaded_step = trainer.state.global_step  # there is no vLLM that wants weights
    trainer.vllm_importance_sampling_clip_min, trainer.vllm_importance_sampling_clip_max = 0.8, 1.25
    rollouts.logprobs = [[0.0] * n for n in LENGTHS]
    old = trainer._generate_and_score_completions(rows())["old_per_token_logps"]
    noise = torch.randn(old.shape, generator=torch.Generator().manual_seed(2)) * 0.15
    sampler = old - noise
    rollouts.logprobs = [sampler[i, :n].tolist() for i, n in enumerate(LENGTHS)]
    out = {"offsets": offsets_of(LENGTHS), "old": packed(old, LENGTHS), "sampler": packed(sampler, LENGTHS)}
    for mode in MODES:
        trainer.vllm_importance_sampling_mode = mode
        ratio = trainer._generate_and_score_completions(rows())["importance_sampling_ratio"]
        out[mode] = packed(ratio.expand_as(old), LENGTHS)
    return out


def made_up_batch():
    """Responses of 6, 4, 5 and 1 tokens; two tokens in the middle are a tool's."""
    lengths, generator = [6, 4, 5, 1], torch.Generator().manual_seed(3)

    def draw(scale):
        return torch.randn((len(lengths), max(lengths)), generator=generator, dtype=torch.float64) * scale

    completion_mask = torch.tensor([[1] * n + [0] * (max(lengths) - n) for n in lengths])
    tool_mask = torch.ones_like(completion_mask)
    tool_mask[0, 2] = tool_mask[2, 1] = 0
    old = -draw(1.0).abs() - 0.1
    batch = {
        "old": old,
        "logprobs": old + draw(0.4),
        "reference": old + draw(0.3),
        "sampler": old - draw(0.3),
        "weights": draw(0.2).exp(),
        "entropies": draw(1.0).abs(),
    }
    return lengths, completion_mask, tool_mask, batch, torch.tensor([1.2, -0.8, 0.5, -1.5], dtype=torch.float64)


def loss_case(trainer, loss_type, level, addition):
    """Loss, gradient and logged numbers of one setting."""
    lengths, completion_mask, tool_mask, batch, advantages = made_up_batch()
    args = trainer.args
    trainer.loss_type, trainer.importance_sampling_level = loss_type, level
    trainer.epsilon_low, trainer.epsilon_high = 0.2, 1.3 if loss_type == "cispo" else 0.28
    args.delta = addition.get("delta")
    trainer.beta = addition.get("beta", 0.0)
    args.use_bias_correction_kl = addition.get("use_bias_correction_kl", False)
    trainer.off_policy_mask_threshold = addition.get("off_policy_mask_threshold")
    trainer.top_entropy_quantile = addition.get("top_entropy_quantile", 1.0)
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = "weights" in addition
    trainer.current_gradient_accumulation_steps = 1
    trainer._metrics["train"].clear()

    leaf = batch["logprobs"].clone().requires_grad_()
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (leaf, batch["entropies"], None)
    mask = completion_mask * tool_mask
    inputs = {
        "prompt_ids": torch.zeros((len(lengths), 1), dtype=torch.long),
        "prompt_mask": torch.ones((len(lengths), 1), dtype=torch.long),
        "completion_ids": torch.zeros_like(completion_mask),
        "completion_mask": completion_mask,
        "tool_mask": tool_mask,
        "advantages": advantages,
        "old_per_token_logps": batch["old"],
        "ref_per_token_logps": batch["reference"],
        "sampling_per_token_logps": batch["sampler"],
        "num_items_in_batch": mask.sum(),
    }
    if "weights" in addition:  # of masked tokens 1, as TRL has them
        inputs["importance_sampling_ratio"] = torch.where(mask == 1, batch["weights"], 1.0)
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    names = ["kl", *(f"clip_ratio/{name}" for name in ("low_mean", "high_mean", "low_min", "high_max"))]
    logged = torch.tensor([last(trainer, name) for name in names], dtype=torch.float64)
    return torch.cat([loss.detach()[None], packed(leaf.grad, lengths)]), logged


def make_losses(golden, scratch):
    trainer, _ = make_trainer(golden, scratch, 1)
    trainer.model.train()
    lengths, completion_mask, tool_mask, batch, advantages = made_up_batch()
    out = {"offsets": offsets_of(lengths), "mask": packed(tool_mask.double(), lengths), "advantages": advantages}
    out |= {name: packed(values, lengths) for name, values in batch.items()}
    for loss_type, level in itertools.product(LOSS_TYPES, ["token", "sequence"]):
        cases = [loss_case(trainer, loss_type, level, addition) for addition in ADDITIONS.values()]
        out[f"{loss_type}.{level}"] = torch.stack([case[0] for case in cases])
        out[f"{loss_type}.{level}.logged"] = torch.stack([case[1] for case in cases])
    return out


class Recorder(transformers.TrainerCallback):
    """Gradients and factors of every optimizer step."""

    def __init__(self, model):
        self.factors = {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}
        self.out = {}
        self.step = 0

    def on_pre_optimizer_step(self, *_, **__):
        self.out |= {f"gradient.{self.step}.{key}": p.grad.clone() for key, p in self.factors.items()}

    def on_optimizer_step(self, *_, **__):
        self.out |= {f"trained.{self.step}.{key}": p.detach().clone() for key, p in self.factors.items()}
        self.step += 1


def make_step(golden, scratch, **settings):
    trainer, rollouts = make_trainer(
        golden,
        scratch,
        1,
        num_iterations=2,
        max_steps=2,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=0.0,
        **settings,
    )
    rollouts.rewards = TABLES["mixed"]
    trainer.model.double()  # so that only the other program rounds
    recorder = Recorder(trainer.model)
    trainer.add_callback(recorder)
    recorded = types.SimpleNamespace(inputs=None)
    compute_loss, logprobs_of = trainer._compute_loss, trainer._get_per_token_logps_and_entropies

    def recording_loss(model, inputs):
        loss = compute_loss(model, inputs)
        recorded.inputs = inputs
        recorder.out[f"loss.{recorder.step}"] = loss.detach()[None].clone()
        recorder.out[f"logged.{recorder.step}"] = torch.tensor([last(trainer, "kl"), last(trainer, "entropy")])
        return loss

    def recording_logprobs(*args, **kwargs):
        out = logprobs_of(*args, **kwargs)
        if out[0].requires_grad:
            recorder.out[f"logprobs.{recorder.step}"] = packed(out[0].detach(), LENGTHS)
        return out

    trainer._compute_loss, trainer._get_per_token_logps_and_entropies = recording_loss, recording_logprobs
    implementation.shuffle_sequence_dict = lambda batch: batch  # completions stay in their order
    trainer.train()
    inputs = recorded.inputs
    out = recorder.out | {
        "prompt_ids": torch.tensor(sum(PROMPTS, [])),
        "prompt_offsets": offsets_of([len(p) for p in PROMPTS]),
        "completion_ids": torch.tensor(sum(rollouts.completions, [])),
        "completion_offsets": offsets_of(LENGTHS),
        "rewards": torch.tensor(rollouts.rewards[0]),
        "advantages": inputs["advantages"].contiguous(),
        "old": packed(inputs["old_per_token_logps"], LENGTHS),
        "reference": packed(inputs["ref_per_token_logps"], LENGTHS),
    }
    return {key: value.float() if value.is_floating_point() else value for key, value in out.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--golden", type=pathlib.Path, default=pathlib.Path("tests/golden"))
    golden = parser.parse_args().golden
    directory = golden / "grpo"
    directory.mkdir(exist_ok=True)
    versions = {m.__name__: m.__version__ for m in (trl, peft, transformers, torch, safetensors)}
    makers = {
        "advantages": make_advantages,
        "correction": make_correction,
        "losses": make_losses,
        "step_dapo": lambda *places: make_step(
            *places, loss_type="dapo", beta=0.1, use_bias_correction_kl=False, temperature=0.7, epsilon_high=0.28
        ),
        "step_gspo": lambda *places: make_step(
            *places,
            loss_type="grpo",
            importance_sampling_level="sequence",
            beta=0.1,
            use_bias_correction_kl=True,
            epsilon=0.02,
        ),
    }
    for name, make in makers.items():
        with tempfile.TemporaryDirectory() as scratch:
            tensors = make(golden, scratch)
        path = directory / f"{name}.safetensors"
        safetensors.torch.save_file({k: t.contiguous() for k, t in tensors.items()}, path, metadata=versions)
        print(f"{path}: {len(tensors)} tensors, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
