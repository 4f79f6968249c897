"""The peer's half of grpo_vs_trl.py: GRPO steps by TRL on prompts of text; prints JSON.

Its best settings on a CPU: float32, scaled_dot_product_attention, no gradient checkpointing, all completions in one
batch. Every completion is as long as the limit, so that both programs do the same work.
"""

import argparse
import json
import pathlib
import tempfile
import time

import datasets
import peft
import torch
import transformers
import trl


def train(arguments: argparse.Namespace) -> dict:
    torch.set_num_threads(arguments.threads)
    transformers.set_seed(0)
    rows = [json.loads(line) for line in arguments.data.read_text().splitlines()]
    data = datasets.Dataset.from_list([{"prompt": row["prompt"]} for row in rows])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=torch.float32, attn_implementation="sdpa"
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    spans, begun = [], []

    def reward(completions, **_):
        return [sum(c in "aeiou" for c in text) / max(len(text), 1) for text in completions]

    class Spans(transformers.TrainerCallback):
        def on_step_begin(self, *_, **__):
            begun.append(time.perf_counter())

        def on_step_end(self, *_, **__):
            spans.append(time.perf_counter() - begun[-1])

    generation_s = []
    with tempfile.TemporaryDirectory() as output:
        config = trl.GRPOConfig(
            output_dir=output,
            per_device_train_batch_size=arguments.completions,
            num_generations=arguments.generations,
            max_completion_length=arguments.length,
            generation_kwargs={"min_new_tokens": arguments.length},
            max_steps=arguments.steps,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            shuffle_dataset=False,
        )
        trainer = trl.GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=config,
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
            callbacks=[Spans()],
        )
        generate = trainer._generate

        def timed(*args, **kwargs):
            start = time.perf_counter()
            out = generate(*args, **kwargs)
            generation_s.append(time.perf_counter() - start)
            return out

        trainer._generate = timed
        trainer.train()
    lengths = [entry["completions/mean_length"] for entry in trainer.state.log_history if "reward" in entry]
    return {"step_times_s": spans, "generation_s": generation_s, "mean_length": lengths}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    for name in ("completions", "generations", "length", "steps", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    result = train(parser.parse_args())
    print("\n" + json.dumps(result))


if __name__ == "__main__":
    main()
