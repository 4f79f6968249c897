#!/usr/bin/env python3
"""Writes what optimizer and schedules are compared with.

  tests/golden/adamw.safetensors   20 steps of torch.optim.AdamW with clipping: gradients in, values out
  tests/golden/schedules.json      factors of transformers' learning rate schedules, step by step

Run in an environment with the packages of scripts/golden/requirements.txt, from the repository root.
"""

import json
import pathlib

import torch
import transformers
from safetensors.torch import save_file
from transformers import optimization

GOLDEN = pathlib.Path("tests/golden")
STEPS, SIZE = 20, 257
LEARNING_RATE, WEIGHT_DECAY, MAX_NORM = 1e-2, 0.1, 1.0


def versions():
    return {"torch": torch.__version__, "transformers": transformers.__version__}


def adamw():
    generator = torch.Generator().manual_seed(3)
    parameter = torch.nn.Parameter(torch.randn(SIZE, generator=generator))
    tensors = {"initial": parameter.detach().clone()}
    optimizer = torch.optim.AdamW([parameter], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    gradients, values, norms = [], [], []
    for step in range(STEPS):
        # Large and small gradients, some exactly zero: clipped and unclipped steps.
        gradient = torch.randn(SIZE, generator=generator) * 10.0 ** (step % 5 - 3)
        gradient[step::7] = 0.0
        parameter.grad = gradient.clone()
        norms.append(torch.nn.utils.clip_grad_norm_([parameter], MAX_NORM))
        optimizer.step()
        gradients.append(gradient)
        values.append(parameter.detach().clone())
    state = optimizer.state[parameter]
    tensors |= {
        "gradients": torch.stack(gradients),
        "values": torch.stack(values),
        "norms": torch.stack(norms),
        "exp_avg": state["exp_avg"],
        "exp_avg_sq": state["exp_avg_sq"],
    }
    save_file(tensors, GOLDEN / "adamw.safetensors", metadata=versions())


def factors(make, steps, **arguments):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer, **arguments)
    out = []
    for _ in range(steps):
        out.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return out


def schedules():
    steps, warmup, decay = 50, 7, 12
    with_warmup = {"num_warmup_steps": warmup}
    whole = with_warmup | {"num_training_steps": steps}
    wsd = whole | {"num_decay_steps": decay}
    cases = {
        "constant": factors(optimization.get_constant_schedule_with_warmup, steps, **with_warmup),
        "linear": factors(optimization.get_linear_schedule_with_warmup, steps, **whole),
        "cosine": factors(optimization.get_cosine_schedule_with_warmup, steps, **whole),
        "cosine_min": factors(
            optimization.get_cosine_with_min_lr_schedule_with_warmup, steps, **whole, min_lr_rate=0.1
        ),
        "wsd": factors(optimization.get_wsd_schedule, steps, **wsd),
        "wsd_min": factors(optimization.get_wsd_schedule, steps, **wsd, min_lr_ratio=0.1),
    }
    document = {"versions": versions(), "steps": steps, "warmup": warmup, "decay": decay, "min": 0.1, "factors": cases}
    (GOLDEN / "schedules.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    adamw()
    schedules()
