"""The command line of an experiment, derived from its values.

The first flags are the experiment's own options and the ten that people need first; the
others are grouped by their part: training, adaptation, texts, decoding. Help
texts are the docstrings of the fields, and of the keywords of a method's constructor.
"""

import argparse
import ast
import inspect
import sys
import textwrap
from collections import abc
from collections.abc import Mapping, Sequence
from dataclasses import field, make_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_origin, get_type_hints

import docstring_parser
import tyro

from lora_jax import methods, tree
from lora_jax.experiment.config import (
    NO_METHOD,
    ROW_NAMES,
    DataConfig,
    RunConfig,
    method_defaults,
)
from lora_jax.generation import Decoding
from lora_jax.train import TrainConfig

FIRST = ("model", "data", "rows", "epochs")  # of a run, shown beside the options
ALIASES = {"learning_rate": ("--lr",)}
DEFAULT_PRESET = "quick"
PARTS = ("training", "adaptation", "texts", "decoding")  # of a run, groups of flags


class Command(NamedTuple):
    """What a command line says."""

    options: Any  # the experiment's own
    run: RunConfig | None  # None where nothing is trained
    preset: str
    out: Path
    dry_run: bool
    keep: bool
    huge_pages: bool


class Flag(NamedTuple):
    """One flag."""

    name: str  # as rows have it
    annotation: Any
    default: Any
    help: str


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
        ValueError: there is no such preset or method, with the nearest names.
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
    top = _option_flags(options)
    groups: dict[str, list[Flag]] = {}
    # An experiment that trains nothing has no flags of a run.
    if base is not None:
        chosen = early.methods or getattr(options, "methods", ())
        chosen = tuple(chosen) or (early.method or base.method,)
        _check_methods(chosen)
        # A sweep's own option, as --ranks, replaces the run's, as --rank.
        swept = {flag.name for flag in top} | set(hidden)
        run_flags = _run_flags(base, chosen, swept)
        top += run_flags.pop("first")
        groups = run_flags
    top += _command_flags(preset, presets)
    groups["process"] = _process_flags(keep)
    values = _ask(name, description, top, groups, words)
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
    for flag in _option_flags(options):
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
        keep=values["keep"],
        huge_pages=values["huge_pages"],
    )


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


def _option_flags(options: Any) -> list[Flag]:
    """The experiment's own options."""
    return _field_flags(type(options), options)


def _run_flags(
    base: RunConfig, chosen: Sequence[str], swept: set[str]
) -> dict[str, list[Flag]]:
    """The flags of a run by group; not those that the experiment sweeps or sets."""
    groups = {
        "training": _field_flags(TrainConfig, base.train),
        "adaptation": _field_flags(RunConfig, base) + _method_flags(base, chosen),
        "texts": _field_flags(DataConfig, base.data),
        "decoding": _field_flags(Decoding, base.decode),
    }
    first: list[Flag] = []
    result: dict[str, list[Flag]] = {"first": first}
    for group, flags in groups.items():
        result[group] = []
        for flag in flags:
            if flag.name in FIRST and flag.name not in swept:
                first.append(flag)
            elif not {flag.name, f"{flag.name}s"} & swept:
                result[group].append(flag)
    # In the order of FIRST, whatever the order of their parts.
    first.sort(key=lambda flag: FIRST.index(flag.name))
    return result


def _command_flags(preset: str, presets: Mapping[str, Any]) -> list[Flag]:
    """What every experiment has."""
    # Rows of a random model never lie among others.
    folder = Path("results/smoke") if preset == "smoke" else Path("results")
    names = ", ".join(presets)
    return [
        Flag(
            "preset",
            str,
            preset,
            f"Named settings, changed by every other flag: {names}.",
        ),
        Flag("out", Path, folder, "Folder for the rows and for the page."),
        Flag("dry_run", bool, False, "Only say what would run, and for how long."),
    ]


def _process_flags(keep: bool) -> list[Flag]:
    """How the process runs, whatever it runs."""
    return [
        Flag(
            "keep",
            bool,
            keep,
            "Whether what each training learns is kept in OUT/adapters, where the "
            "analyses look for it: some hundred kB with LoRA, the whole model with full fine-tuning.",
        ),
        Flag(
            "huge_pages",
            bool,
            True,
            "On a CPU under Linux, restart once with an allocator that uses huge "
            "pages: a step takes 15 percent less time.",
        ),
    ]


def _method_flags(base: RunConfig, chosen: Sequence[str]) -> list[Flag]:
    """The keywords of the methods' constructors."""
    # Several methods may share a keyword: the first one's text and default stand.
    flags: dict[str, Flag] = {}
    for method in chosen:
        if method == NO_METHOD:
            continue
        constructor = methods.METHODS[method]
        texts = _parameter_texts(constructor)
        hints = get_type_hints(constructor)
        for name, default in method_defaults(method).items():
            value = base.options.get(name, default)
            annotation = _scalar(hints.get(name, type(default)))
            flags.setdefault(name, Flag(name, annotation, value, texts.get(name, "")))
    return list(flags.values())


def _field_flags(kind: type, values: Any) -> list[Flag]:
    """The fields of a dataclass or of a named tuple that hold one flag's value."""
    texts = _field_texts(kind)
    hints = get_type_hints(kind)
    flags = []
    for name, text in texts.items():
        value = getattr(values, name)
        flags.append(Flag(ROW_NAMES.get(name, name), hints[name], value, text))
    return flags


def _field_texts(kind: type) -> dict[str, str]:
    """The docstring below each field; a field without one is no flag."""
    # Python keeps no docstrings of fields; the source has them.
    source = textwrap.dedent(inspect.getsource(kind))
    body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
    texts = {}
    for statement, following in pairwise(body):
        is_field = isinstance(statement, ast.AnnAssign)
        is_text = isinstance(following, ast.Expr)
        if is_field and is_text and isinstance(following.value, ast.Constant):
            text = str(following.value.value)
            texts[statement.target.id] = " ".join(text.split())  # type: ignore
    return texts


def _parameter_texts(function: Any) -> dict[str, str]:
    """The texts of a docstring's Args section by parameter."""
    parsed = docstring_parser.parse(inspect.getdoc(function) or "")
    texts = {}
    for parameter in parsed.params:
        text = " ".join((parameter.description or "").split())
        # `rank, alpha: …` is the text of both.
        for name in parameter.arg_name.split(","):
            texts[name.strip()] = text
    return texts


def _scalar(annotation: Any) -> Any:
    """The annotation without mappings, which no flag can hold: `int | Mapping` is int."""
    parts = getattr(annotation, "__args__", ())
    # `int | str` has arguments, but no origin as `list[int]` has.
    is_union = parts and not hasattr(annotation, "__origin__")
    if not is_union:
        return annotation
    kept = [part for part in parts if get_origin(part) is not abc.Mapping]
    result = kept[0]
    for part in kept[1:]:
        result = result | part
    return result


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
