"""The flags of an experiment, derived from its values.

Their names are those of rows. Help texts are the docstrings of the fields, and of the
keywords of a method's constructor.
"""

import ast
import inspect
import textwrap
from collections import abc
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, get_origin, get_type_hints

import docstring_parser

from lora_jax import methods
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
PARTS = ("texts", "training", "adaptation", "decoding")  # of a run, groups of flags


class Flag(NamedTuple):
    """One flag."""

    name: str  # as rows have it
    annotation: Any
    default: Any
    help: str


def option_flags(options: Any) -> list[Flag]:
    """Return the experiment's own options."""
    return _field_flags(type(options), options)


def run_flags(
    base: RunConfig, chosen: Sequence[str], swept: set[str]
) -> dict[str, list[Flag]]:
    """Return the flags of a run by group; not those that the experiment sweeps or sets."""
    groups = {
        "texts": _field_flags(DataConfig, base.data),
        "training": _field_flags(TrainConfig, base.train),
        "adaptation": _field_flags(RunConfig, base) + _method_flags(base, chosen),
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


def command_flags(preset: str, presets: Mapping[str, Any]) -> list[Flag]:
    """Return the flags that every experiment has."""
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


def process_flags(keep: bool, *, trains: bool = True) -> list[Flag]:
    """Return the flags of how the process runs; some of them for what trains alone."""
    huge_pages = Flag(
        "huge_pages",
        bool,
        True,
        "On a CPU under Linux, restart once with an allocator that uses huge "
        "pages: a step takes 15 percent less time.",
    )
    if not trains:
        return [huge_pages]
    return [
        Flag(
            "keep",
            bool,
            keep,
            "Whether what each training learns is kept in OUT/adapters, where the "
            "analyses look for it: some hundred kB with LoRA, the whole model with full "
            "fine-tuning.",
        ),
        Flag(
            "population",
            int,
            0,
            "Trainings that share one compiled step and one frozen model, at most: they "
            "may differ in seed, rank, alpha, targets within attention, learning rate "
            "and weight decay. 0 or 1 trains one by one.",
        ),
        Flag(
            "coordinator",
            str,
            "",
            "HOST:PORT of the first of several processes that run this command together, "
            "each with devices of its own; or cluster, where SLURM, MPI or a TPU says "
            "it. The first one alone writes.",
        ),
        Flag("processes", int, 1, "How many processes there are, with --coordinator."),
        Flag("process_index", int, 0, "Which of them this one is, counted from 0."),
        huge_pages,
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
