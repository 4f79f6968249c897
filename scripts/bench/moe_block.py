"""transformers' Qwen3-MoE block, forward and backward; one JSON object on stdout. See moe_vs_transformers.py."""

import argparse
import json
import statistics
import time

import torch
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock


def median_seconds(call) -> float:
    call()  # warm-up
    seconds = []
    while len(seconds) < 3 or (sum(seconds) < 2.0 and len(seconds) < 50):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def measure(arguments: argparse.Namespace, implementation: str) -> float:
    config = Qwen3MoeConfig(
        hidden_size=arguments.hidden_size,
        moe_intermediate_size=arguments.moe_intermediate_size,
        num_experts=arguments.num_experts,
        num_experts_per_tok=arguments.num_experts_per_tok,
        norm_topk_prob=True,
        experts_implementation=implementation,
    )
    config._experts_implementation = implementation  # a block alone is not asked
    block = Qwen3MoeSparseMoeBlock(config).requires_grad_(False)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    x = torch.randn(1, arguments.tokens, arguments.hidden_size, requires_grad=True)
    dy = torch.randn_like(x)

    def call() -> None:
        x.grad = None
        block(x).backward(dy)

    return median_seconds(call)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("tokens", "hidden-size", "moe-intermediate-size", "num-experts", "num-experts-per-tok", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--implementation", required=True, choices=["eager", "grouped_mm", "batched_mm"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    seconds = measure(arguments, arguments.implementation)
    print(json.dumps({"tokens_per_second": arguments.tokens / seconds}))


if __name__ == "__main__":
    main()
