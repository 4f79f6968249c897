#!/usr/bin/env python3
"""Compares the event files of a run with its metrics.jsonl, read by TensorBoard's own reader.

    check_tensorboard.py RUN_DIRECTORY

The directory holds metrics.jsonl and tensorboard/. Needs the package tensorboard (checked with 2.21).
Exits with 1 and says where the two differ.
"""
import collections
import json
import math
import pathlib
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def tag_of(name):
    return "eval/" + name[len("eval_"):] if name.startswith("eval_") else "train/" + name


def as_float32(value):
    return struct.unpack("f", struct.pack("f", float(value)))[0]


def same(a, b):
    return a == b or (math.isnan(a) and math.isnan(b))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    run = pathlib.Path(sys.argv[1])
    expected = collections.defaultdict(list)
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        for name, value in row.items():
            if name != "step":
                expected[tag_of(name)].append((row["step"], as_float32(value)))

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    tags = set(events.Tags()["scalars"])
    if tags != set(expected):
        sys.exit(f"tags differ: {sorted(tags ^ set(expected))}")
    for tag, values in expected.items():
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        steps = [step for step, _ in values]
        if [step for step, _ in found] != steps:
            sys.exit(f"{tag}: steps differ: {[step for step, _ in found]} against {steps}")
        for (step, value), (_, read) in zip(values, found):
            if not same(value, read):
                sys.exit(f"{tag}, step {step}: {read} against {value}")
    print(f"{len(expected)} tags, {sum(map(len, expected.values()))} values: equal")


if __name__ == "__main__":
    main()
