"""Calls one Python reward function for Tailor: a line of JSON in, a line of JSON out.

Tailor runs it as `python3 -c <this text> FILE FUNCTION`. The first line out is {"ready": true}, or says why
there is no function. Then each request {"prompts": [...], "completions": [...], "<column>": [...]} is answered
by {"rewards": [...]} or {"error": "..."}. The function is called as TRL calls it, by keyword, with what its
signature accepts. The two pipes of this exchange are out of reach of the function: what it prints goes to
stderr, its stdin is empty, and programs that it starts inherit neither.
"""

import sys

if sys.path[:1] == [""]:  # with -c, the folder it runs in, where a json.py may lie
    del sys.path[0]

import importlib.util
import inspect
import json
import math
import os
import traceback


def take_pipes():
    """The exchange's own descriptors, and harmless ones in their place."""
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return os.fdopen(requests, "rb"), answers


def send(answers, message):
    line = (json.dumps(message, allow_nan=False) + "\n").encode("ascii")
    while line:
        line = line[os.write(answers, line) :]


def told(error, file):
    """An exception's last line, with the line of the user's file that it came through last."""
    last = traceback.format_exception_only(type(error), error)[-1].strip()
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {last}" if error.filename == file else last
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"line {lines[-1]}: {last}" if lines else last


def load(file):
    folder, name = os.path.split(file)
    name = os.path.splitext(name)[0]
    sys.path.insert(0, folder)
    # A file must not stand in for a module that is there, json.py for json.
    if name in sys.modules or not name.isidentifier():
        name = "tailor_reward_" + "".join(c if c.isalnum() else "_" for c in name)
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look there
    spec.loader.exec_module(module)
    return module


def accepted(function, arguments):
    """Those arguments that the function's signature has a place for."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C
        return {key: arguments[key] for key in ("prompts", "completions")}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return arguments
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return {key: value for key, value in arguments.items() if key in named}


def number(reward):
    if reward is None:
        return None
    if isinstance(reward, (str, bytes)):
        return {"bad": f"text, {reward!r:.100}, expected a number or None"}
    try:
        value = float(reward)  # numbers of NumPy and PyTorch too
    except Exception as error:
        return {"bad": f"a {type(reward).__name__}, expected a number or None ({type(error).__name__})"}
    return value if math.isfinite(value) else {"bad": f"{value}, expected a finite number or None"}


def rewards_of(function, arguments):
    rewards = function(**accepted(function, arguments))
    if inspect.isawaitable(rewards):
        import asyncio  # slow to import, and few need it

        rewards = asyncio.run(wait_for(rewards))
    if isinstance(rewards, (str, bytes, dict)) or not hasattr(rewards, "__len__"):
        return {"error": f"answered a {type(rewards).__name__}, expected a list of numbers"}
    wanted = len(arguments["completions"])
    if len(rewards) != wanted:
        return {"error": f"answered {len(rewards)} rewards for {wanted} sample{'s' if wanted != 1 else ''}"}
    return {"rewards": [number(reward) for reward in rewards]}


async def wait_for(rewards):
    return await rewards


def main():
    requests, answers = take_pipes()
    file, name = sys.argv[1:3]
    sys.argv = [file]
    this_process = os.getpid()
    try:
        module = load(file)
    except BaseException as error:
        return send(answers, {"problem": told(error, file)})
    function = getattr(module, name, None)
    if not callable(function):
        names = [n for n, value in vars(module).items() if inspect.isroutine(value) and not n.startswith("_")]
        return send(answers, {"missing": name, "names": names[:1000]})
    send(answers, {"ready": True})
    for line in requests:
        try:
            answer = rewards_of(function, json.loads(line))
        except BaseException as error:  # SystemExit too: it is one sample's
            answer = {"error": told(error, file)}
        if os.getpid() != this_process:
            os._exit(1)  # a fork that came back out of the function
        send(answers, answer)


main()
