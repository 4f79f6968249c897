#!/usr/bin/env python3
"""Writes tests/golden/sampling.txt: distributions that transformers' logits processors leave of random logits."""

import pathlib

import torch
import transformers
from transformers.generation import logits_process as hf

CASES = [  # temperature, top_k, top_p, min_p, repetition_penalty
    (1.0, 0, 1.0, 0.0, 1.0),
    (0.7, 0, 1.0, 0.0, 1.0),
    (1.0, 5, 1.0, 0.0, 1.0),
    (0.8, 0, 0.9, 0.0, 1.0),
    (1.5, 0, 1.0, 0.1, 1.0),
    (0.9, 20, 0.8, 0.05, 1.0),
    (1.0, 0, 1.0, 0.0, 1.5),
    (0.6, 10, 0.95, 0.02, 1.3),
    (1.0, 1, 1.0, 0.0, 1.0),
    (1.0, 0, 0.01, 0.0, 1.0),
]


def processors(temperature, top_k, top_p, min_p, penalty):
    """In the order of GenerationMixin._get_logits_processor."""
    if penalty != 1.0:
        yield hf.RepetitionPenaltyLogitsProcessor(penalty)
    if temperature != 1.0:
        yield hf.TemperatureLogitsWarper(temperature)
    if top_k:
        yield hf.TopKLogitsWarper(top_k)
    if top_p < 1.0:
        yield hf.TopPLogitsWarper(top_p)
    if min_p:
        yield hf.MinPLogitsWarper(min_p)


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    lines = [f"# transformers {transformers.__version__}, torch {torch.__version__}; scripts/golden/make_sampling.py",
             "# a case: settings; ids seen; logits; probabilities"]
    for case in CASES:
        logits = torch.randn(1, 60, generator=generator) * 2
        if case[1] == 5:
            logits[0, 7] = logits[0].sort(descending=True).values[4]  # a tie at the fifth place
        seen = torch.randint(0, 60, (1, 12), generator=generator)
        scores = logits.clone()
        for processor in processors(*case):
            scores = processor(seen, scores)
        probabilities = scores.softmax(-1)
        lines.append(" ".join(map(str, case)))
        lines.append(" ".join(map(str, seen[0].tolist())))
        for row in (logits, probabilities):
            lines.append(" ".join(f"{x:.9g}" for x in row[0].tolist()))
    path = pathlib.Path(__file__).parents[2] / "tests/golden/sampling.txt"
    path.write_text("\n".join(lines) + "\n")
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
