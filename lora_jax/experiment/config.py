"""One run: a model, its data, a method, a training and a seed.

A `RunConfig` is a value. Its fields are flags of every experiment that trains, and,
flattened, the `config` of the run's row. The options of an adaptation method are not
declared here: they are the keywords of the method's constructor, and a run holds those
of its own method alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, Literal

from lora_jax import methods
from lora_jax.data.labels import LabelKind
from lora_jax.generation import Decoding
from lora_jax.train import TrainConfig

# Tokens of the longest rows that the committed runs have room for. Nothing is cut where
# text is generated, so a task without an entry takes what its longest row needs.
LENGTHS = {"e2e": 160, "wikisql": 320}
# Columns of a user's file that a flag can name.
COLUMNS = ("text", "label", "source", "target")
NO_METHOD = "none"  # the pretrained model as it is: nothing is trained


@dataclass(frozen=True)
class DataConfig:
    """Which texts a run trains on, and how many of them."""

    data: str = "rotten-tomatoes"
    """Task: rotten-tomatoes, or one of GLUE (cola, sst2, mrpc, qqp, stsb, mnli, qnli,
    rte, wnli); for language models e2e, webnlg, dart, wikisql or samsum; or your own
    FILE or folder with columns text, text_pair (optional) and label, or source and
    target."""
    text_column: str | None = None
    """Column of your file that holds the text, where it is not called text."""
    label_column: str | None = None
    """Column that holds the label, where it is not called label."""
    source_column: str | None = None
    """Column that holds the source of a text to be generated."""
    target_column: str | None = None
    """Column that holds the text to be generated."""
    label_kind: LabelKind = "auto"
    """What the labels of your file are. auto: words and whole numbers are classes, and
    so are up to ten numbers such as 3.0 that are whole; other numbers are scores."""
    data_dir: str | None = None
    """Folder or zip with the task's official files, instead of a download."""
    glue_dir: str | None = None
    """Folder with a GLUE task's official files; the same as --data-dir."""
    rows: int = 2000
    """Training rows, the first after a shuffle with seed 0. 0 takes all of them."""
    validation_rows: int = 500
    """Validation rows that choose the best epoch. 0 takes all of them."""
    test_sources: int = 0
    """Test sources that a text is generated for. 0 takes all of them."""
    max_length: int | Literal["auto"] = 64
    """Longest text, in tokens. Longer texts are cut; where a target has to be
    generated, a text that is too long is an error. 0 is as long as the longest text;
    auto is 160 for e2e, 320 for wikisql and 0 for other tasks."""
    loss_on: Literal["target", "all"] = "target"
    """Tokens in a language model's loss: the target's alone, or the source's too."""

    @property
    def longest(self) -> int:
        """`max_length` as a number, 0 for as long as the longest text."""
        if self.max_length == "auto":
            return LENGTHS.get(self.data, 0)
        return self.max_length

    @property
    def columns(self) -> dict[str, str]:
        """The names that columns have in a user's file, by the names they have here."""
        columns = {}
        for name in COLUMNS:
            column = getattr(self, f"{name}_column")
            if column is not None:
                columns[name] = column
        return columns


@dataclass(frozen=True)
class RunConfig:
    """One training with one seed. `options` are the method's, by keyword."""

    model: str = "minilm-l6"
    """Pretrained model: minilm-l6, smollm2-135m, a directory with config.json and
    model.safetensors, a GGUF file, or a hub id."""
    method: str = "lora"
    """Adaptation method, a name in lora_jax.methods.METHODS."""
    quantize: Literal[
        "none",
        "float",
        "nf4",
        "nf4_double",
        "fp4",
        "fp4_double",
        "int4",
        "int4_affine",
        "int8",
    ] = "none"
    """Format of the frozen matrices (QLoRA). float turns a checkpoint's quantized
    matrices into arrays."""
    adapter_dtype: Literal["float32", "bfloat16"] = "float32"
    """What adapters are stored in. With bfloat16, QLoRA's, they and their gradients take
    half, and updates that are small beside a weight are rounded away."""
    seed: int = 0
    """Seed of the adapter's initialization, of the batches and of dropout."""
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(compute_dtype="auto")
    )
    decode: Decoding = field(default_factory=Decoding)
    options: Mapping[str, Any] = field(default_factory=dict)
    # Where model and data came from: part of a row's identity, filled in by `check`.
    model_source: str = ""
    data_source: str = ""

    def changed(self, **changes: Any) -> "RunConfig":
        """Return a copy with new values, by their row names.

        A name that is a field neither of the run nor of its parts is an option of the
        method.
        """
        parts: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
        run_fields: dict[str, Any] = {}
        options = dict(self.options)
        # Sorted into the parts first, so that each part is replaced once.
        for name, value in changes.items():
            part = part_of(name)
            if part is None:
                options[name] = value
            elif part == "run":
                run_fields[name] = value
            else:
                parts[part][_field_names().get(name, name)] = value
        for part, values in parts.items():
            run_fields[part] = _replaced(getattr(self, part), values)
        return replace(self, options=options, **run_fields)

    def flat(self) -> dict[str, Any]:
        """Return the settings by row name, with every option of the method."""
        flat: dict[str, Any] = {}
        # The order is that of the flags and of the lists of settings on pages.
        for name in RUN_FIELDS:
            flat[name] = getattr(self, name)
        for part in PARTS:
            values = field_values(getattr(self, part))
            flat |= {ROW_NAMES.get(name, name): values[name] for name in values}
        # How a step is made to fit a machine changes no number beyond its rounding.
        for name in FITTED:
            del flat[name]
        # What `auto` means for the task, so that a row says it.
        flat["max_length"] = self.data.longest
        return {**flat, **method_defaults(self.method), **self.method_options()}

    def method_options(self) -> dict[str, Any]:
        """Return the given options that the method takes; others belong to others."""
        names = method_defaults(self.method)
        return {name: self.options[name] for name in self.options if name in names}


PARTS = ("data", "train", "decode")
# Settings of a training that are none of its row.
FITTED = ("remat", "attention", "mesh", "shard_base")
RUN_FIELDS = (
    "model",
    "method",
    "quantize",
    "adapter_dtype",
    "seed",
    "model_source",
    "data_source",
)
# A field's name in a row, where it differs from that in the library.
ROW_NAMES = {
    "compute_dtype": "compute",
    "max_new_tokens": "new_tokens",
    "beams": "beam",
    "no_repeat_ngram": "no_repeat",
}


def part_of(name: str) -> str | None:
    """Return the part of a run that a row name belongs to, `run` for its own fields.

    None stands for an option of a method, or for a setting of a measurement.
    """
    if name in RUN_FIELDS:
        return "run"
    field_name = _field_names().get(name, name)
    for part in PARTS:
        if field_name in field_values(getattr(DEFAULT, part)):
            return part
    return None


@cache
def method_defaults(method: str) -> Mapping[str, Any]:
    """Return the options of a method with their defaults; none of an unknown method."""
    if method not in methods.METHODS:
        return {}
    return methods.defaults(method)


def from_row(config: Mapping[str, Any]) -> RunConfig:
    """Return the run of a row's config; settings that are none of a run are left out."""
    method = config.get("method", DEFAULT.method)
    names = method_defaults(method)
    # A measurement's own settings are none of the run's.
    known = {}
    for name, value in config.items():
        if part_of(name) is not None or name in names:
            known[name] = value
    return DEFAULT.changed(**known)


@cache
def _field_names() -> Mapping[str, str]:
    """The field of each row name, among the fields that the parts have now."""
    names = {}
    for part in PARTS:
        for field_name in field_values(getattr(DEFAULT, part)):
            names[ROW_NAMES.get(field_name, field_name)] = field_name
    return names


def field_values(part: Any) -> dict[str, Any]:
    """Return the fields of a part of a run by name."""
    if hasattr(part, "_asdict"):
        return part._asdict()
    return {item.name: getattr(part, item.name) for item in fields(part)}


def _replaced(part: Any, values: Mapping[str, Any]) -> Any:
    """The part with new values, be it a named tuple or a dataclass."""
    if hasattr(part, "_replace"):
        return part._replace(**values)
    return replace(part, **values)


# Identities are what differs from it: see `identity`.
DEFAULT = RunConfig()
