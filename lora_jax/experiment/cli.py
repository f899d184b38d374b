"""The command line of an experiment, derived from its values.

The first flags are the experiment's own options and those that people need first; the
others are grouped by their part: texts, training, adaptation, decoding. Which flags
there are is in `flags.py`.
"""

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from lora_jax import methods, tree
from lora_jax.experiment.check import raise_all
from lora_jax.experiment.config import NO_METHOD, RunConfig
from lora_jax.experiment.flags import (
    FIRST,
    PARTS,
    Flag,
    command_flags,
    option_flags,
    process_flags,
    run_flags,
)

# A flag by its other names. Data are one task, or several where an experiment takes
# them: all of these names work for either.
ALIASES = {
    "learning_rate": ("--lr",),
    "data": ("--task", "--tasks"),
    "tasks": ("--data", "--task"),
}
DEFAULT_PRESET = "quick"


class Command(NamedTuple):
    """What a command line says."""

    options: Any  # the experiment's own
    run: RunConfig | None  # None where nothing is trained
    preset: str
    out: Path
    dry_run: bool
    huge_pages: bool
    # Of experiments that train.
    keep: bool = False
    population: int = 0  # trainings that share a step; 0 or 1: one by one
    # The first of the processes that run this together, see `hosts.connect`.
    coordinator: str = ""
    processes: int = 1
    process_index: int = 0


def parse(
    name: str,
    description: str,
    presets: Mapping[str, tuple[Any, RunConfig | None]],
    *,
    keep: bool,
    hidden: Sequence[str] = (),
    arguments: Sequence[str] | None = None,
) -> Command:
    """Return the settings of a preset (`--preset`), changed by every other flag.

    `hidden` are settings of a run that the experiment chooses itself. A bad flag exits
    with a message.

    Raises:
        ValueError: there is no such preset or method, with the nearest names; or a flag
            has no value, or an empty one.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Some words decide which flags there are, so they are read before the others.
    early = _early(words)
    preset = early.preset
    if preset not in presets:
        raise ValueError(
            f"--preset: expected one of {', '.join(presets)}, got {preset!r}"
        )
    options, base = presets[preset]
    top = option_flags(options)
    groups: dict[str, list[Flag]] = {}
    # An experiment that trains nothing has no flags of a run.
    if base is not None:
        chosen = early.methods or getattr(options, "methods", ())
        chosen = tuple(chosen) or (early.method or base.method,)
        _check_methods(chosen)
        # A sweep's own option, as --ranks, replaces the run's, as --rank.
        swept = {flag.name for flag in top} | set(hidden)
        groups = run_flags(base, chosen, swept)
        top += groups.pop("first")
    top += command_flags(preset, presets)
    groups["process"] = process_flags(keep, trains=base is not None)
    values = _ask(name, description, top, groups, words)
    flags = [*top, *itertools.chain.from_iterable(groups.values())]
    raise_all(*_empty_problems(flags, values, words))
    return _command(values, options, base, groups, top)


def _command(
    values: Mapping[str, Any],
    options: Any,
    base: RunConfig | None,
    groups: Mapping[str, list[Flag]],
    top: Sequence[Flag],
) -> Command:
    """The flags' values, put back where they belong."""
    # The options are the experiment's own dataclass, whole again.
    option_values = {}
    for flag in option_flags(options):
        option_values[flag.name] = values[flag.name]
    run = base
    if base is not None:
        flags = [flag for flag in top if flag.name in FIRST]
        for group in PARTS:
            flags += groups[group]
        # A default that is left as it is stays the preset's, or the method's.
        changes = {}
        for flag in flags:
            if values[flag.name] != flag.default:
                changes[flag.name] = values[flag.name]
        run = base.changed(**changes)
    return Command(
        options=type(options)(**option_values),
        run=run,
        preset=values["preset"],
        out=values["out"],
        dry_run=values["dry_run"],
        **{flag.name: values[flag.name] for flag in groups["process"]},
    )


def _empty_problems(
    flags: Sequence[Flag], values: Mapping[str, Any], words: Sequence[str]
) -> list[str]:
    """Which flags have nothing after them, or an empty word, as `--targets ''`."""
    empty = set()
    flag = ""
    for word in words:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            word = value if equals else word
        # As from a variable of the shell that is not set.
        if not word.strip():
            empty.add(flag)
    problems = []
    for item in flags:
        option = "--" + item.name.replace("_", "-")
        if empty & {option, *ALIASES.get(item.name, ())}:
            problems.append(f"{option}: expected a value, got ''")
        # A list that may be empty is empty unless it is set.
        elif values[item.name] == () and item.default:
            problems.append(f"{option}: expected at least one value, got none")
    return problems


def _early(words: Sequence[str]) -> argparse.Namespace:
    """What decides which flags there are: the preset and the methods."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default=DEFAULT_PRESET)
    parser.add_argument("--method", default="")
    parser.add_argument("--methods", nargs="*", default=[])
    return parser.parse_known_args(words)[0]


def _check_methods(names: Sequence[str]) -> None:
    candidates = [NO_METHOD, *methods.METHODS]
    unknown = [name for name in names if name not in candidates]
    if unknown:
        raise ValueError(
            f"method: expected one of {tree.near(unknown[0], candidates)}, "
            f"got {', '.join(unknown)}"
        )


def _ask(
    name: str,
    description: str,
    top: Sequence[Flag],
    groups: Mapping[str, list[Flag]],
    words: Sequence[str],
) -> dict[str, Any]:
    """The values by flag; exits with tyro's message when a word is wrong."""
    # tyro takes flags from a dataclass: one is made of them, with one more a group.
    fields: list[Any] = [_field(flag) for flag in top]
    for group, flags in groups.items():
        if flags:
            struct: Any = make_dataclass(group, [_field(flag) for flag in flags])
            default = field(default_factory=struct)
            fields.append((group, tyro.conf.OmitArgPrefixes[struct], default))
    flags_type = make_dataclass("Flags", fields)
    answer = tyro.cli(
        flags_type,
        args=list(words),
        prog=f"python experiments/{name}.py",
        # Pages are Markdown, a terminal is not.
        description=description.replace("**", ""),
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    # Flat again: no two flags have one name.
    values = {flag.name: getattr(answer, flag.name) for flag in top}
    for group, flags in groups.items():
        for flag in flags:
            values[flag.name] = getattr(getattr(answer, group), flag.name)
    return values


def _field(flag: Flag) -> tuple[str, Any, Any]:
    """The flag as `make_dataclass` takes it."""
    conf = tyro.conf.arg(help=flag.help, aliases=ALIASES.get(flag.name, ()))
    return (
        flag.name,
        Annotated[flag.annotation, conf],
        field(default_factory=lambda: flag.default),
    )
