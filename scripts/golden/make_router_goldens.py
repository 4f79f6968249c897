#!/usr/bin/env python3
"""Writes tests/golden/router/*/: adapters with trained routers (modules_to_save) over tests/golden/tiny_*, and what PEFT computes.

A directory is a PEFT folder and golden.safetensors:

  input_ids, labels, document_offsets, logits, loss, gradient.<key>
                            as make_peft_goldens.py has them; among the keys are the routers'
  aux_loss                  (1) float32: transformers' load_balancing_loss_func of all layers and documents in one
  layer_aux_losses          (L) float32: the same function of one layer at a time
  z_losses                  (L) float32: mean over tokens of logsumexp(z)^2
  coefficients              (2) float32: a, b of the balanced loss
  balanced_gradient.<key>   float32: gradient of loss + a mean_l layer_aux_losses[l] / K + b mean_l z_losses[l], K experts a token

Where a family of transformers has no load_balancing_loss_func (DeepSeek-V3) only the first line is there. PEFT saved the
adapters, except that of "qwen3_moe", whose experts are adapted one by one as transformers 4 and PEFT would have done.

The metadata records the library versions.

    python scripts/golden/make_router_goldens.py [--golden tests/golden] [NAME...]
"""

import importlib
import json
import pathlib

import peft
import safetensors.torch
import torch
import transformers
from make_peft_goldens import by_expert, expert_adapter, make_documents, run, save_golden, step_tensors

NAMES = ["mixtral", "olmoe", "qwen3_moe", "deepseek_v3"]
RANK, ALPHA = 2, 3
COEFFICIENTS = [0.2, 0.05]  # large, so that they show in the gradients


def tiny(golden: pathlib.Path, name: str):
    return transformers.AutoModelForCausalLM.from_pretrained(golden / f"tiny_{name}", dtype=torch.float32)


def save_by_peft(golden: pathlib.Path, name: str, directory: pathlib.Path):
    attention = ["q_a_proj", "kv_b_proj"] if name == "deepseek_v3" else ["q_proj", "v_proj"]
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules=[*attention, "o_proj"], modules_to_save=["gate"]
    )
    model = peft.get_peft_model(tiny(golden, name), config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if ".lora_B." in key or ".modules_to_save." in key:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        for key, buffer in model.named_buffers():
            if ".modules_to_save." in key and key.endswith("e_score_correction_bias"):
                buffer.add_(torch.randn_like(buffer) * 0.1)
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)  # a model card of PEFT's


def save_by_expert(golden: pathlib.Path, name: str, directory: pathlib.Path):
    model = tiny(golden, name)
    expert_adapter(directory, model.config, dict(r=RANK, lora_alpha=ALPHA, modules_to_save=["mlp.gate"]))
    file = directory / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    for key, parameter in model.named_parameters():
        if key.endswith(".mlp.gate.weight"):
            tensors[f"base_model.model.{key}"] = parameter.detach() + torch.randn_like(parameter) * 0.1
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})


def forward(model, documents, with_routers: bool):
    """Mean loss of the supervised tokens, all logits, and of every layer what its router said of all tokens."""
    total, count, logits, routers = 0.0, 0, [], []
    for ids, labels in documents:
        out = model(input_ids=ids[None], **({"output_router_logits": True} if with_routers else {}))
        logits.append(out.logits[0])
        routers.append(out.router_logits if with_routers else ())
        total = total + torch.nn.functional.cross_entropy(logits[-1][:-1], labels[1:], ignore_index=-100, reduction="sum")
        count += int((labels[1:] != -100).sum())
    return total / count, torch.cat(logits), [torch.cat(layer) for layer in zip(*routers)]


def gradients(model, loss, prefix: str):
    model.zero_grad()
    loss.backward()
    out = {}
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        key = key.replace(".modules_to_save.default", "").replace(".default", "")
        parts = by_expert(key, parameter.grad, model.config, RANK) if ".experts." in key else {key: parameter.grad}
        out |= {f"{prefix}.{part}": gradient.clone().contiguous() for part, gradient in parts.items()}
    return out


def make(golden: pathlib.Path, name: str):
    torch.manual_seed(0)
    directory = golden / "router" / name
    directory.mkdir(parents=True, exist_ok=True)
    (save_by_expert if name == "qwen3_moe" else save_by_peft)(golden, name, directory)
    saved = json.loads((directory / "adapter_config.json").read_text())
    saved["target_modules"].sort()  # written in the order of a set: another one at every run
    (directory / "adapter_config.json").write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")
    model = peft.PeftModel.from_pretrained(tiny(golden, name), directory, is_trainable=True).eval()
    config = model.config
    documents = make_documents(config.vocab_size)
    loss, logits, _ = forward(model, documents, with_routers=False)
    out = step_tensors(documents, loss, logits)
    out |= gradients(model, loss, "gradient")
    module = importlib.import_module(type(model.get_base_model()).__module__)
    if balance := getattr(module, "load_balancing_loss_func", None):
        experts = getattr(config, "num_local_experts", None) or config.num_experts
        chosen = config.num_experts_per_tok
        loss, _, routers = forward(model, documents, with_routers=True)
        layers = torch.stack([balance((z,), experts, chosen) for z in routers])
        z_losses = torch.stack([z.logsumexp(1).square().mean() for z in routers])
        out["aux_loss"] = balance(tuple(routers), experts, chosen).detach()[None]
        out["layer_aux_losses"], out["z_losses"] = layers.detach(), z_losses.detach()
        out["coefficients"] = torch.tensor(COEFFICIENTS)
        a, b = COEFFICIENTS
        out |= gradients(model, loss + a * layers.mean() / chosen + b * z_losses.mean(), "balanced_gradient")
    save_golden(directory, out)
    print(f"{directory}: {len(out)} tensors, loss {loss.item():.6f}")


if __name__ == "__main__":
    run(make, NAMES)
