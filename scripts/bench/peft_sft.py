"""The peer's half of sft_vs_peft.py: LoRA steps by transformers + PEFT on rows of token ids; prints JSON.

Its best settings on a CPU: scaled_dot_product_attention, no gradient checkpointing (slower), no padding, adapter and
AdamW in float32.
"""

import argparse
import json
import pathlib
import time

import peft
import torch
import transformers


def train(arguments: argparse.Namespace) -> dict:
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=getattr(torch, arguments.dtype), attn_implementation="sdpa"
    )
    model.config.use_cache = False
    config = peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-4, weight_decay=0.0)

    with arguments.data.open() as file:
        rows = torch.tensor([json.loads(line)["input_ids"] for line in file])
    losses, step_times_s = [], []
    for ids in rows.split(arguments.batch):
        start = time.perf_counter()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        step_times_s.append(time.perf_counter() - start)
    return {"losses": losses, "step_times_s": step_times_s, "trained_parameters": sum(p.numel() for p in parameters)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    print(json.dumps(train(parser.parse_args())))


if __name__ == "__main__":
    main()
