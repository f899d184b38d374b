"""What a run works on: the loaded model, the task, and its splits as tokens.

Loading and encoding take longer than a smoke run. `Workbenches` does each once for all
runs that share it, and is passed to whoever needs it.
"""

import sys
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from lora_jax import data, generation, methods, models, train
from lora_jax.experiment.config import NO_METHOD, DataConfig, RunConfig
from lora_jax.models.decoder import Decoder
from lora_jax.train import classification, language_modeling

# All ranks up to this one are stored alike, so that they share one compiled program.
RANK_MULTIPLE = 8
# For the same reason every set of attention matrices has adapters beside all of these.
ATTENTION = "query,key,value,output"


class Workbench(NamedTuple):
    """One run's model and data."""

    run: RunConfig
    model: Any  # as loaded, without adapters
    tokenizer: Any
    task: data.Task
    encoded: dict[str, data.Encoded]  # by split
    prompts: dict[str, list[list[int]]]  # test splits whose targets are generated
    widths: tuple[int, ...]  # of batches, in tokens
    pad: int  # the token that fills a row

    @property
    def eval_options(self) -> dict[str, Any]:
        """How batches are made where nothing is trained: twice as many rows."""
        size = 2 * self.run.train.batch
        return {"widths": self.widths, "pad": self.pad, "size": size}

    @property
    def test_split(self) -> str:
        """The split to score: test if there is one, else validation."""
        return "test" if "test" in self.encoded else "validation"

    def unquantized(self) -> Any:
        """Return the pretrained model as it is before the run quantizes it."""
        # Loaded anew, as the bench has nothing but the quantized model.
        labels = len(self.task.labels) or 1
        return models.load(self.run.model, labels=labels)[0]

    def objective(self) -> train.Objective:
        """Return the loss of the task, and the rows to train on."""
        losses = language_modeling if self.task.generates else classification
        encoded = self.encoded["train"]
        return train.Objective(losses.loss, encoded, self.widths, self.pad)

    def predict(self, model: Any, split: str, *, compute: str) -> np.ndarray:
        """Return a classifier's logits [N, C] on a split."""
        encoded = self.encoded[split]
        return classification.predict(
            model, encoded, compute_dtype=compute, **self.eval_options
        )

    def method(self) -> methods.Method:
        """Return the run's adaptation method, stored so that a sweep compiles once."""
        run = self.run
        options = dict(run.method_options())
        # Methods that choose no matrices have no targets.
        targets = run.flat().get("targets", "")
        within_attention = set(targets.split(",")) <= set(ATTENTION.split(","))
        # The bias beside an idle adapter would be trained too.
        if within_attention and options.get("bias") != "lora_only":
            options["idle_targets"] = ATTENTION
        method = methods.make(run.method, rank_multiple=RANK_MULTIPLE, **options)
        return methods.with_adapter_dtype(method, run.adapter_dtype)

    def adapted(self) -> tuple[Any, Any]:
        """Return the model as training finds it, and the mask of what is trainable.

        The mask is None where nothing is trained.
        """
        if self.run.method == NO_METHOD:
            return self.model, None
        method = self.method()
        model = method.adapt(jax.random.key(self.run.seed), self.model)
        return model, methods.mask(model, method)

    def counts(self) -> methods.Counts:
        """Return the trainable parameters, of the adapter and of the head."""
        if self.run.method == NO_METHOD:
            return methods.Counts(0, 0)
        method = self.method()
        model = method.adapt(jax.random.key(self.run.seed), self.model)
        return methods.counts(model, method)


class Workbenches:
    """Makes workbenches, and keeps the latest models, tasks and encodings."""

    def __init__(self) -> None:
        self._models = _Latest()
        self._tasks = _Latest()
        self._splits = _Latest()

    def task(self, run: RunConfig) -> data.Task:
        """Return the run's task, cut to the rows that the run takes."""
        config = run.data
        return self._tasks.get(_task_key(config), lambda: _load_task(config))

    def model(self, run: RunConfig) -> tuple[Any, Any]:
        """Return the run's model and its tokenizer."""
        # A regression has one output; a language model has no head, and ignores it.
        labels = len(self.task(run).labels) or 1
        quantize = None if run.quantize == "none" else run.quantize
        return self._models.get(
            (run.model, labels, quantize, run.train.mesh, run.train.shard_base),
            lambda: _load_model(run, labels, quantize),
        )

    def bench(self, run: RunConfig) -> Workbench:
        """Return the run's workbench.

        Raises:
            ValueError: model, data and lengths do not go together.
        """
        task = self.task(run)
        model, tokenizer = self.model(run)
        _check_kind(run, task, model)
        _check_length(run, model.config)
        # Everything that tokens depend on; method and seed do not matter.
        splits_key = (
            run.model,
            run.decode.new_tokens,
            run.data.longest,
            run.data.loss_on,
            _task_key(run.data),
        )
        encoded, prompts = self._splits.get(
            splits_key, lambda: _encode(run, task, model.config, tokenizer)
        )
        return Workbench(
            run=run,
            model=model,
            tokenizer=tokenizer,
            task=task,
            encoded=encoded,
            prompts=prompts,
            widths=data.widths(run.data.longest or _longest(encoded)),
            pad=model.config.pad,
        )


def _load_model(run: RunConfig, labels: int, quantize: str | None) -> tuple[Any, Any]:
    """The model, where its training is to be, and its tokenizer."""
    places = train.placement(run.train)
    options: Any = {"labels": labels, "quantize": quantize, "report": _print_notice}
    if not places.by_rule:
        return models.load(run.model, **options)
    # One device alone need not have room for all of it.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        model, tokenizer = models.load(run.model, **options)
    return places.put(model), tokenizer


def _print_notice(line: str) -> None:
    # Not among the lines of the runs, which are standard output.
    print(line, file=sys.stderr, flush=True)


class _Latest:
    """The two values that were asked for last, by key."""

    LIMIT = 2

    def __init__(self) -> None:
        self._values: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        value = self._values.pop(key) if key in self._values else make()
        # Last in order, so the last to be dropped: two models are in memory at most.
        self._values[key] = value
        while len(self._values) > self.LIMIT:
            oldest = next(iter(self._values))
            del self._values[oldest]
        return value


def _task_key(config: DataConfig) -> Hashable:
    # Tokens are made of a task later.
    return replace(config, max_length=0, loss_on="target")


def _load_task(config: DataConfig) -> data.Task:
    task = data.load(
        config.data,
        data_dir=config.data_dir or config.glue_dir,
        columns=config.columns,
        label_kind=config.label_kind,
    )
    # What was left out of the files, or understood in a way that might surprise.
    for note in task.notes:
        _print_notice(note)
    limits = {"train": config.rows, "validation": config.validation_rows}
    splits = {}
    for name, examples in task.splits.items():
        if limits.get(name):
            examples = data.subset(examples, limits[name])
        # A source has several references: half of them would be another task.
        elif task.generates and name not in limits:
            examples = data.subset_of_sources(examples, config.test_sources)
        splits[name] = examples
    return task._replace(splits=splits)


def _encode(
    run: RunConfig, task: data.Task, config: Any, tokenizer: Any
) -> tuple[dict[str, data.Encoded], dict[str, list[list[int]]]]:
    """The splits as tokens; of a test split to be generated for, only its prompts."""
    max_length = run.data.longest or _positions(config)
    encoded: dict[str, data.Encoded] = {}
    prompts: dict[str, list[list[int]]] = {}
    for name, examples in task.splits.items():
        if not task.generates:
            encoded[name] = data.encode(tokenizer, examples, max_length=max_length)
        elif name in ("train", "validation"):
            pairs = data.encode_pairs(
                tokenizer, examples, max_length=max_length, end=config.eos_ids[0]
            )
            # The source's tokens count as targets, too.
            if run.data.loss_on == "all":
                pairs = pairs._replace(segments=np.ones_like(pairs.segments))
            encoded[name] = pairs
        else:
            # Each source once, in its first place.
            sources = list(data.references(examples))
            prompts[name] = data.encode_prompts(
                tokenizer, sources, max_length=max_length
            )
            generation.check_prompts(config, prompts[name], run.decode.new_tokens)
    return encoded, prompts


def _check_kind(run: RunConfig, task: data.Task, model: Any) -> None:
    """Raise a ValueError unless the model is of the kind that the task needs."""
    writes = isinstance(model, Decoder)
    name = run.data.data
    if task.generates and not writes:
        raise ValueError(
            f"data: {name} is text to be generated, for a language model; "
            f"{run.model} is an encoder"
        )
    if writes and not task.generates:
        raise ValueError(
            f"data: {name} has labels, for an encoder; {run.model} is a language "
            f"model, which learns from {', '.join(data.GENERATION_TASKS)} or a file with "
            "source and target"
        )
    if writes:
        _check_end(run, model.config)


def _check_end(run: RunConfig, config: Any) -> None:
    vocabulary = config.vocabulary
    ends = config.eos_ids
    # Without a token that ends a text, none would ever be finished.
    known = [end for end in ends if 0 <= end < vocabulary]
    if not ends or len(known) < len(ends):
        ends_text = ", ".join(map(str, ends)) or "none"
        raise ValueError(
            f"model: expected a token in 0 … {vocabulary - 1} that ends a text "
            "(eos_token_id in config.json or generation_config.json), "
            f"{run.model} has {ends_text}"
        )


def _check_length(run: RunConfig, config: Any) -> None:
    positions = _positions(config)
    if run.data.longest > positions:
        raise ValueError(
            f"max_length: {run.model} has positions for {positions} tokens, "
            f"got {run.data.longest}"
        )


def _positions(config: Any) -> int:
    # RoBERTa's first positions are those of its padding.
    return config.max_positions - config.offset


def _longest(encoded: dict[str, data.Encoded]) -> int:
    """Tokens of the longest row of all splits."""
    return max(int(split.lengths.max()) for split in encoded.values())
