#!/usr/bin/env python3
"""Writes tests/golden/{peft,fused}/*/: LoRA adapters saved by HF PEFT over tests/golden/tiny_*, and what PEFT computes.

A directory is a PEFT folder (adapter_config.json, adapter_model.safetensors; B is not zero) and golden.safetensors:

  input_ids, labels          (T)     int64: documents one after the other; label -100 is not supervised
  document_offsets           (D + 1) int64: document d is [d] up to [d + 1]
  logits                     (T, V)  float32: every document alone through model and adapter
  loss                       (1)     float32: mean negative log likelihood of the supervised tokens, in nats
  gradient.<key>             float32: gradient of that mean with respect to a factor, by the adapter's keys
  trained.<key>              float32: the factor behind 20 steps of torch.optim.AdamW (lr 1e-3, weight decay 0.01) on that loss
  losses                     (20)    float32: the loss in front of each step

Of a sparse model ("qwen3_moe") the adapter has keys for every expert, which PEFT converts at loading into factors of the
fused parameters; their gradients are cut back by expert. There are no training steps: PEFT would also train the zeros
between the gate's and the up projection's blocks.

In fused/ routed experts are adapted by `target_parameters`, as PEFT does on transformers 5, and golden.safetensors has the
first five tensors, logits of the first document alone. "mixtral_by_expert" is tests/golden/sparse/mixtral, whose keys are
those of every expert, as PEFT saves it again; it has no golden.safetensors.

The metadata records the library versions.

    python scripts/golden/make_peft_goldens.py [--golden tests/golden] [NAME...]    # fused/mixtral, ...
"""

import argparse
import json
import pathlib
import sys

import peft
import safetensors
import safetensors.torch
import torch
import transformers

NUM_STEPS = 20
DOCUMENT_LENGTHS = [9, 14, 6, 11]

ADAPTERS = {
    # Every field that decides a module's rank and scale.
    "llama": (
        "tiny_llama",
        dict(
            r=4,
            lora_alpha=8,
            target_modules="all-linear",
            exclude_modules=["k_proj"],
            rank_pattern={r"layers\.1\..*\.up_proj": 2, "q_proj": 3},
            alpha_pattern={"v_proj": 5},
        ),
    ),
    # A regular expression of Python's own (a look-behind) and the other scale.
    "qwen2": (
        "tiny_qwen2",
        dict(r=4, lora_alpha=6, use_rslora=True, target_modules=r"model\.layers\.\d+\..*(?<!gate)_proj"),
    ),
}


SPARSE = {"qwen3_moe": ("tiny_qwen3_moe", dict(r=2, lora_alpha=3))}

EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
SHARED = [f"{name}.weight" for name in ("gate_proj", "up_proj", "down_proj")]
FUSED = {
    "mixtral": dict(
        target_modules=["q_proj", "v_proj"],
        target_parameters=EXPERTS,
        rank_pattern={"experts.down_proj": 1},
    ),
    # Nothing but experts, by bare names, and the other scale.
    "qwen3_moe": dict(
        target_modules=[],
        target_parameters=["gate_up_proj", "down_proj"],
        use_rslora=True,
        alpha_pattern={"gate_up_proj": 5},
    ),
    # PEFT takes names such as gate_proj among target_modules for experts', so other layers are parameters too.
    "deepseek_v3": dict(
        target_modules=["q_b_proj", "kv_b_proj"],
        target_parameters=[*EXPERTS, *(f"shared_experts.{name}" for name in SHARED)],
        rank_pattern={"shared_experts.down_proj.weight": 1, "up_proj": 7},  # the second means no weight
        modules_to_save=["mlp.gate"],
    ),
}
BY_EXPERT = "mixtral_by_expert"


def mean_loss(model, documents):
    """Sum over supervised tokens of all documents, divided by their number; also every logit."""
    total, count, logits = 0.0, 0, []
    for ids, labels in documents:
        out = model(input_ids=ids[None]).logits[0]
        logits.append(out)
        total = total + torch.nn.functional.cross_entropy(out[:-1], labels[1:], ignore_index=-100, reduction="sum")
        count += int((labels[1:] != -100).sum())
    return total / count, torch.cat(logits)


def make_documents(vocab_size):
    documents = []
    for index, length in enumerate(DOCUMENT_LENGTHS):
        ids = torch.randint(0, vocab_size, (length,))
        labels = ids.clone()
        labels[: length // 3] = -100  # a prompt
        if index == 1:
            labels[8:10] = -100  # a turn in the middle
        documents.append((ids, labels))
    return documents


def step_tensors(documents, loss, logits) -> dict[str, torch.Tensor]:
    """What a step began with, and its forward."""
    return {
        "input_ids": torch.cat([ids for ids, _ in documents]),
        "labels": torch.cat([labels for _, labels in documents]),
        "document_offsets": torch.tensor([0, *DOCUMENT_LENGTHS]).cumsum(0),
        "logits": logits.detach().contiguous(),
        "loss": loss.detach()[None],
    }


def save_golden(directory: pathlib.Path, tensors: dict[str, torch.Tensor], **metadata: str):
    versions = {m.__name__: m.__version__ for m in (peft, transformers, torch, safetensors)}
    safetensors.torch.save_file(tensors, directory / "golden.safetensors", metadata=versions | metadata)
    for file in directory.iterdir():
        file.chmod(0o644)


def run(make, names: list[str]):
    """make(golden, name) of the names on the command line, or of all."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__.splitlines()[0])
    parser.add_argument("--golden", type=pathlib.Path, default=pathlib.Path("tests/golden"))
    parser.add_argument("names", nargs="*", default=names, metavar="NAME")
    arguments = parser.parse_args()
    for name in arguments.names:
        make(arguments.golden, name)


def save(model, directory: pathlib.Path):
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)  # a model card of PEFT's
    saved = json.loads((directory / "adapter_config.json").read_text())
    for key in ("target_modules", "target_parameters"):
        if isinstance(saved[key], list):
            saved[key].sort()  # written in the order of a set: another one at every run
    (directory / "adapter_config.json").write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")
    (directory / "adapter_model.safetensors").chmod(0o644)


def make(golden: pathlib.Path, name: str):
    base, config = ADAPTERS[name]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(golden / base, dtype=torch.float32)
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **config))
    model.eval()
    factors = {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for key, parameter in factors.items():
            if ".lora_B." in key:
                parameter.normal_(std=0.1)
    directory = golden / "peft" / name
    save(model, directory)

    documents = make_documents(model.config.vocab_size)
    loss, logits = mean_loss(model, documents)
    loss.backward()
    out = step_tensors(documents, loss, logits)
    out |= {f"gradient.{key}": parameter.grad.clone() for key, parameter in factors.items()}

    optimizer = torch.optim.AdamW(factors.values(), lr=1e-3, weight_decay=0.01)
    losses = []
    for _ in range(NUM_STEPS):
        optimizer.zero_grad()
        loss, _ = mean_loss(model, documents)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    out["losses"] = torch.tensor(losses)
    out |= {f"trained.{key}": parameter.detach().clone() for key, parameter in factors.items()}
    save_golden(directory, out)
    print(f"{directory}: {len(factors)} factors, loss {losses[0]:.6f} -> {losses[-1]:.6f}")


def expert_adapter(directory: pathlib.Path, config, settings: dict):
    """An adapter of attention and of every expert, by expert, as transformers 4 and PEFT would have saved it."""
    sizes = {"gate_proj": (config.hidden_size, config.moe_intermediate_size)}
    sizes["up_proj"], sizes["down_proj"] = sizes["gate_proj"], sizes["gate_proj"][::-1]
    head_dim, hidden, r = config.head_dim, config.hidden_size, settings["r"]
    width, kv = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    attention = {"q_proj": (hidden, width), "k_proj": (hidden, kv), "v_proj": (hidden, kv), "o_proj": (width, hidden)}
    modules = {}
    for layer in range(config.num_hidden_layers):
        prefix = f"base_model.model.model.layers.{layer}"
        modules |= {f"{prefix}.self_attn.{name}": size for name, size in attention.items()}
        for expert in range(config.num_experts):
            modules |= {f"{prefix}.mlp.experts.{expert}.{name}": size for name, size in sizes.items()}
    tensors = {}
    for path, (size_in, size_out) in modules.items():
        tensors[f"{path}.lora_A.weight"] = torch.empty(r, size_in).uniform_(-1, 1) / size_in**0.5
        tensors[f"{path}.lora_B.weight"] = torch.randn(size_out, r) * 0.1
    directory.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = sorted([*attention, *sizes])
    document = dict(peft_type="LORA", task_type="CAUSAL_LM", target_modules=targets, base_model_name_or_path="", **settings)
    (directory / "adapter_config.json").write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")


def by_expert(key: str, gradient: torch.Tensor, config, r: int) -> dict[str, torch.Tensor]:
    """The gradient of a fused factor as gradients of the experts' own; any other as it is."""
    num_experts, width = config.num_experts, config.moe_intermediate_size
    path, _, factor = key.rpartition(".lora_")
    if not path.endswith((".experts", ".experts.base_layer")):
        return {key: gradient}
    if factor.startswith("A"):
        parts = gradient.reshape(num_experts, -1, gradient.shape[1])
        cut = {"gate_proj": parts[:, :r], "up_proj": parts[:, r:], "down_proj": parts}
    else:
        parts = gradient.reshape(gradient.shape[0], -1, num_experts).permute(2, 0, 1)
        cut = {"gate_proj": parts[:, :width, :r], "up_proj": parts[:, width:, r:], "down_proj": parts}
    names = ["gate_proj", "up_proj"] if path.endswith(".base_layer") else ["down_proj"]
    experts = path.removesuffix(".base_layer")
    return {
        f"{experts}.{e}.{name}.lora_{factor}": cut[name][e].contiguous() for name in names for e in range(num_experts)
    }


def make_sparse(golden: pathlib.Path, name: str):
    base, settings = SPARSE[name]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(golden / base, dtype=torch.float32)
    directory = golden / "peft" / name
    expert_adapter(directory, model.config, settings)
    model = peft.PeftModel.from_pretrained(model, directory, is_trainable=True).eval()
    documents = make_documents(model.config.vocab_size)
    loss, logits = mean_loss(model, documents)
    loss.backward()
    out = step_tensors(documents, loss, logits)
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            cut = by_expert(key.replace(".default", ""), parameter.grad, model.config, settings["r"])
            out |= {f"gradient.{part}": gradient.clone() for part, gradient in cut.items()}
    save_golden(directory, out)
    print(f"{directory}: {len(out) - 5} factors, loss {loss.item():.6f}")


def make_fused(golden: pathlib.Path, name: str):
    torch.manual_seed(0)
    directory = golden / "fused" / name
    if name == BY_EXPERT:
        model = transformers.AutoModelForCausalLM.from_pretrained(golden / "tiny_mixtral", dtype=torch.float32)
        save(peft.PeftModel.from_pretrained(model, golden / "sparse" / "mixtral"), directory)
        return print(directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(golden / f"tiny_{name}", dtype=torch.float32)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=3, **FUSED[name])
    model = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if ".lora_B." in key or ".modules_to_save." in key:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        save(model, directory)
        documents = make_documents(model.config.vocab_size)
        loss, logits = mean_loss(model, documents)
        out = step_tensors(documents, loss, logits[: DOCUMENT_LENGTHS[0]])
    save_golden(directory, out)
    print(f"{directory}: loss {loss.item():.6f}")


def make_any(golden: pathlib.Path, name: str):
    """The name is "llama", or "fused/mixtral"."""
    if name.startswith("fused/"):
        make_fused(golden, name.removeprefix("fused/"))
    else:
        (make_sparse if name in SPARSE else make)(golden, name)


if __name__ == "__main__":
    run(make_any, [*ADAPTERS, *SPARSE, *(f"fused/{name}" for name in (*FUSED, BY_EXPERT))])
