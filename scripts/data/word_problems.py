#!/usr/bin/env python3
"""Makes arithmetic word problems with worked answers, as chat rows for `tailor train` and `tailor eval`.

    python3 scripts/data/word_problems.py --out data/word_problems     # train.jsonl (4000 rows), test.jsonl (200)

A row is {"messages": [user, assistant], "answer": "15"}; the assistant's turn shows the steps and ends in "#### 15".
The test set is unseen in three ways, which the script asserts on what it wrote:

  wording   test problems use other sentences: with numbers, names and things taken out, no text is in both sets
  numbers   the numbers of a test problem, in whatever order and for whatever operation, are those of no training
            problem: a checksum of the sorted numbers says which set they belong to, whatever the seed
  names     the people have other names

The same arguments give the same bytes.
"""

import argparse
import json
import pathlib
import random
import re
import zlib

import wordings

TEST_SHARE = 5  # every fifth combination of numbers belongs to the test set


def belongs_to_test(numbers: list[int]) -> bool:
    return zlib.crc32(repr(sorted(numbers)).encode()) % TEST_SHARE == 0


def draw_numbers(formula: str, rng: random.Random) -> list[int]:
    """Numbers that a very small model can learn to add and multiply; no step has a result below 1."""
    if "*" in formula:
        a, b = rng.randint(2, 6), rng.randint(2, 9)
    elif formula.startswith("a + b"):
        a, b = rng.randint(2, 20), rng.randint(2, 15)
    else:
        a = rng.randint(5, 25)
        b = rng.randint(2, a - 1)
    if "c" not in formula:
        return [a, b]
    so_far = a * b if "*" in formula else a + b
    most = min(12, so_far - 1) if formula.endswith("- c") else 12
    return [a, b, rng.randint(2, most)]


def work_out(formula: str, numbers: list[int]) -> tuple[str, int]:
    """The steps from left to right, "3 * 4 = 12. 12 - 5 = 7.", and the result."""
    values = dict(zip("abc", numbers))
    first, *rest = formula.split()
    result, steps = values[first], []
    for operation, letter in zip(rest[::2], rest[1::2]):
        left, right = result, values[letter]
        result = {"+": left + right, "-": left - right, "*": left * right}[operation]
        steps.append(f"{left} {operation} {right} = {result}.")
    return " ".join(steps), result


def make_row(split: str, templates: dict[str, list[str]], rng: random.Random) -> dict:
    formula = rng.choice(list(templates))
    numbers = draw_numbers(formula, rng)
    while belongs_to_test(numbers) != (split == "test"):
        numbers = draw_numbers(formula, rng)
    (name, she, her), (other, _, _) = rng.sample(wordings.NAMES[split], 2)
    problem = rng.choice(templates[formula]).format(
        n=name, m=other, s=she, S=she.capitalize(), p=her, x=rng.choice(wordings.THINGS), **dict(zip("abc", numbers))
    )
    steps, result = work_out(formula, numbers)
    return {
        "messages": [
            {"role": "user", "content": problem},
            {"role": "assistant", "content": f"{steps}\n#### {result}"},
        ],
        "answer": str(result),
    }


def make_rows(split: str, templates: dict[str, list[str]], count: int, seed: int) -> list[dict]:
    """`count` rows with different problems."""
    rng = random.Random(f"{seed} {split}")
    rows: dict[str, dict] = {}
    for _ in range(100 * count):
        if len(rows) == count:
            break
        row = make_row(split, templates, rng)
        rows.setdefault(row["messages"][0]["content"], row)
    else:
        raise SystemExit(f"word_problems.py: no {count} different problems for {split}; ask for fewer")
    return list(rows.values())


def problem_text(row: dict) -> str:
    return row["messages"][0]["content"]


def wording(row: dict) -> str:
    slots = [name for split in wordings.NAMES.values() for name, _, _ in split] + wordings.THINGS
    pattern = re.compile(r"\d+|\b(?:" + "|".join([*slots, "he", "she", "his", "her"]) + r")\b", re.IGNORECASE)
    return pattern.sub("_", problem_text(row))


def numbers_of(row: dict) -> tuple[int, ...]:
    return tuple(sorted(int(number) for number in re.findall(r"\d+", problem_text(row))))


def assert_disjoint(train: list[dict], test: list[dict]) -> None:
    names = re.compile(r"\b(?:" + "|".join(name for name, _, _ in wordings.NAMES["test"]) + r")\b")
    assert not {wording(r) for r in train} & {wording(r) for r in test}, "a wording is in both sets"
    assert not {numbers_of(r) for r in train} & {numbers_of(r) for r in test}, "numbers are in both sets"
    assert not any(names.search(problem_text(row)) for row in train), "a name is in both sets"


def write(path: pathlib.Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=4000, metavar="ROWS")
    parser.add_argument("--test", type=int, default=200, metavar="ROWS")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR")
    arguments = parser.parse_args()
    if arguments.train < 1 or arguments.test < 1:
        parser.error("--train and --test must be at least 1")

    train = make_rows("train", wordings.TRAIN, arguments.train, arguments.seed)
    test = make_rows("test", wordings.TEST, arguments.test, arguments.seed)
    assert_disjoint(train, test)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write(arguments.out / "train.jsonl", train)
    write(arguments.out / "test.jsonl", test)
    print(
        f"{arguments.out}: {len(train)} problems to learn from in {len({wording(r) for r in train})} wordings, "
        f"{len(test)} held out in {len({wording(r) for r in test})} others"
    )


if __name__ == "__main__":
    main()
