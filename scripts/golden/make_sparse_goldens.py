#!/usr/bin/env python3
"""Writes tests/golden/sparse/*/: adapters of every linear layer, expert and router of tests/golden/tiny_*, and gradients.

A directory is a PEFT folder with factors by expert (B is not zero) and trained routers (modules_to_save), and
golden.safetensors:

  input_ids, labels, document_offsets, loss, gradient.<key>
                            as make_peft_goldens.py has them; among the keys are the routers' matrices

transformers holds the experts of a layer as one parameter, of which PEFT adapts no single expert. Here every adapted
matrix of transformers' model is W + s B A, experts' stacked, and autograd goes through that to each A and B, in float64
but for what transformers itself computes in float32. Of the seeds with which the choice of experts is clear, that is taken
whose gradients depend least on rounding, so that they may be compared by the largest entry of their tensor.

The metadata records the library versions, `router_margin`, the smallest distance between two numbers whose order decides
in a router, without and with the adapter, and `rounding`: by the same measure, how far transformers' float32 is away, or
float64 where every weight is off by up to 2^-22 of itself, two to four units of float32's last place, whichever is
further. (One float32 run may be near by luck, and another order of its sums five times as far.)

    python scripts/golden/make_sparse_goldens.py [--golden tests/golden] [NAME...]
"""

import json
import pathlib
import re

import safetensors.torch
import torch
import transformers
from make_peft_goldens import make_documents, mean_loss, run, save_golden, step_tensors
from make_tiny_models import router_tensors

NAMES = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v2_groups", "deepseek_v3"]
RANK, ALPHA = 2, 3
ROUTER_MARGIN = 1e-3  # float32 of another program differs by far less
SEEDS = 200
LAST_PLACES = 2.0**-22  # of a weight: rounding moves a number by 2^-24, and some roundings follow each other
NUM_MOVES = 4  # ways of moving all weights at random; the furthest counts


class Adapter:
    """Factors and routers as leaves, by the keys of their file."""

    def __init__(self, model, given: dict[str, torch.Tensor] | None = None):
        self.model, self.given, self.tensors = model, given, {}
        self.ranks = {}  # by last segments of the adapted paths
        self.adapted = {}  # how a parameter is computed, by its name in transformers' model
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and name != "lm_head":
                self.adapted[f"{name}.weight"] = self.linear(name, module.weight)
            elif name.endswith(".experts"):
                self.add_experts(name, module)
            elif name.endswith(".mlp.gate"):
                self.add_router(name, module)

    def put(self, key: str, drawn: torch.Tensor):
        value = drawn if self.given is None else self.given[key]
        self.tensors[key] = value.detach().to(self.model.dtype, copy=True)
        return self.tensors[key]

    def linear(self, path: str, weight):
        (size_out, size_in), key, module = weight.shape, f"base_model.model.{path}", path.rpartition(".")[2]
        rank = self.ranks[module] = min(RANK, size_out)  # Qwen2-MoE's shared_expert_gate has one output
        A = self.put(f"{key}.lora_A.weight", torch.empty(rank, size_in).uniform_(-1, 1) / size_in**0.5)
        B = self.put(f"{key}.lora_B.weight", torch.randn(size_out, rank) * 0.1)
        return lambda: weight.detach() + ALPHA / rank * (B @ A)

    def add_experts(self, name: str, module):
        mixtral = self.model.config.model_type == "mixtral"
        gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
        path = name.replace(".mlp.", ".block_sparse_moe.") if mixtral else name
        gates_and_ups, downs = [], []
        for e, (both, below) in enumerate(zip(module.gate_up_proj.detach(), module.down_proj.detach())):
            halves = zip((gate, up), both.chunk(2))
            gates_and_ups += [self.linear(f"{path}.{e}.{projection}", half) for projection, half in halves]
            downs.append(self.linear(f"{path}.{e}.{down}", below))
        shape = module.gate_up_proj.shape
        self.adapted[f"{name}.gate_up_proj"] = lambda: torch.cat([weight() for weight in gates_and_ups]).view(shape)
        self.adapted[f"{name}.down_proj"] = lambda: torch.stack([weight() for weight in downs])

    def add_router(self, name: str, module):
        for parameter, value in module.state_dict().items():  # a matrix, and where there is one the correction bias
            saved = self.put(f"base_model.model.{name}.{parameter}", value + torch.randn_like(value) * 0.1)
            self.adapted[f"{name}.{parameter}"] = lambda saved=saved: saved

    def write(self, directory: pathlib.Path):
        directory.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(self.tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
        document = dict(peft_type="LORA", task_type="CAUSAL_LM", base_model_name_or_path="", r=RANK, lora_alpha=ALPHA)
        document |= dict(target_modules=sorted(self.ranks), modules_to_save=["mlp.gate"])
        document["rank_pattern"] = {module: rank for module, rank in self.ranks.items() if rank != RANK}
        (directory / "adapter_config.json").write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")

    def weights(self):
        return {name: weight() for name, weight in self.adapted.items()}

    def __call__(self, **inputs):
        """transformers' model with the adapted weights."""
        return torch.func.functional_call(self.model, self.weights(), kwargs=inputs)


def load(golden: pathlib.Path, name: str):
    options = dict(dtype=torch.float32, experts_implementation="eager")  # grouped products know no float64
    return transformers.AutoModelForCausalLM.from_pretrained(golden / f"tiny_{name}", **options).eval()


@torch.no_grad()
def router_margin(golden: pathlib.Path, name: str, adapter: Adapter, documents) -> float:
    plain, merged, ids = load(golden, name), load(golden, name), [ids for ids, _ in documents]
    merged.load_state_dict(adapter.weights(), strict=False)
    return min(router_tensors(model, ids)[1] for model in (plain, merged))


def gradients(adapter: Adapter, documents):
    trained = {key: value.requires_grad_() for key, value in adapter.tensors.items() if not key.endswith("bias")}
    loss, logits = mean_loss(adapter, documents)
    loss.backward()
    return loss, logits, {key: value.grad for key, value in trained.items()}


def rounding(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    """The largest difference over the largest entry of its tensor; experts of a projection are one tensor."""
    differences, sizes = {}, {}
    for key, value in exact.items():
        tensor = re.sub(r"\.experts\.\d+", "", key)
        for largest, values in ((differences, found[key] - value), (sizes, value)):
            largest[tensor] = max(largest.get(tensor, 0.0), values.abs().max().item())
    return max(difference / sizes[tensor] for tensor, difference in differences.items())


def moved(golden: pathlib.Path, name: str, adapter: Adapter) -> Adapter:
    """The same in float64, with every weight and factor off by what rounding may do."""

    def move(value: torch.Tensor) -> torch.Tensor:
        value = value.detach().double()
        return value * (1 + LAST_PLACES * torch.empty_like(value).uniform_(-1, 1))

    model = load(golden, name).double()
    model.load_state_dict({key: move(value) for key, value in model.state_dict().items()})
    return Adapter(model, {key: move(value) for key, value in adapter.tensors.items()})


def draw(golden: pathlib.Path, name: str, seed: int):
    """An adapter with its documents, and the smallest distance that decides in a router."""
    torch.manual_seed(seed)
    adapter = Adapter(load(golden, name))
    documents = make_documents(adapter.model.config.vocab_size)
    return adapter, documents, router_margin(golden, name, adapter, documents)


def both_gradients(golden: pathlib.Path, name: str, adapter: Adapter, documents):
    """In float64, and how far rounding may move them."""
    loss, logits, exact = gradients(Adapter(load(golden, name).double(), adapter.tensors), documents)
    rounded = [moved(golden, name, adapter) for _ in range(NUM_MOVES)] + [adapter]
    return loss, logits, exact, max(rounding(gradients(each, documents)[2], exact) for each in rounded)


def make(golden: pathlib.Path, name: str):
    errors = {}
    for seed in range(SEEDS):
        adapter, documents, margin = draw(golden, name, seed)
        if margin > ROUTER_MARGIN:
            errors[seed] = both_gradients(golden, name, adapter, documents)[-1]
    seed = min(errors, key=errors.get)
    adapter, documents, margin = draw(golden, name, seed)
    directory = golden / "sparse" / name
    adapter.write(directory)
    loss, logits, exact, error = both_gradients(golden, name, adapter, documents)
    out = step_tensors(documents, loss.float(), logits)
    del out["logits"]  # the loss and all gradients say more, in less room
    out |= {f"gradient.{key}": value.float() for key, value in exact.items()}
    save_golden(directory, out, seed=str(seed), router_margin=f"{margin:.5f}", rounding=f"{error:.1e}")
    size = sum(file.stat().st_size for file in directory.iterdir())
    print(f"{directory}: {len(exact)} gradients, loss {loss.item():.6f}, rounding {error:.1e}, seed {seed}, {size // 1000} kB")


if __name__ == "__main__":
    run(make, NAMES)
