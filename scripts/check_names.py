#!/usr/bin/env python3
"""Checks that no two files define a type of the same name in the same namespace: the linker takes one of them, and of
what the compiler makes of a std::vector of it. Run from the repository root; prints offenders."""

import collections
import pathlib
import re
import sys

FOLDERS = ("configs", "models", "peft", "distributed", "serving", "trainer", "tests/support")
OPENS = re.compile(r"namespace ?([\w:]*) ?\{")
CLOSES = re.compile(r"\}  // namespace")
DEFINES = re.compile(r"(?:struct|class|enum class) (\w[\w:]*)(?: final)?(?: : [^;]*)? \{")


def types_of(text: str):
    """Qualified names of the types that a file defines outside of functions, types and unnamed namespaces."""
    namespaces = []
    for line in text.splitlines():
        if opened := OPENS.match(line):
            namespaces.append(opened[1])
        elif CLOSES.match(line):
            namespaces.pop()
        elif "" not in namespaces and (defined := DEFINES.match(line)):
            yield "::".join([*namespaces, defined[1]])


def main() -> int:
    sources = [p for folder in FOLDERS for p in pathlib.Path(folder).rglob("*.[ch]pp")]
    places = collections.defaultdict(set)
    for path in sorted(sources):
        for name in types_of(path.read_text()):
            places[name].add(path.as_posix())
    found = [f"{name} is defined in {' and '.join(sorted(files))}" for name, files in places.items() if len(files) > 1]
    print(*found, f"{len(places)} types, {len(found)} names taken twice", sep="\n")
    return 1 if found or not places else 0


if __name__ == "__main__":
    sys.exit(main())
