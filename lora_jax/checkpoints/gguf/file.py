"""GGUF files (llama.cpp), read lazily and straight into quantized values.

The header is read first, tensors one by one out of the file's memory map. Shapes are
torch's, (out, in). Names are llama.cpp's; `with_hf_names` gives Hugging Face's.
"""

import re
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

from lora_jax import tree
from lora_jax.checkpoints.gguf.blocks import read_values
from lora_jax.checkpoints.gguf.header import read_header
from lora_jax.checkpoints.placement import Rule
from lora_jax.checkpoints.tensor import Tensor


class File(NamedTuple):
    """A GGUF file: its metadata as plain Python values, its tensors not read yet."""

    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def read(source: Path | str | bytes) -> File:
    """Return a GGUF file, by its path or its bytes.

    A tensor's `read()` gives a numpy array (F32, F16) or a `Quantized` of numpy arrays
    (Q4_0, Q4_1, Q8_0); the transpose of a matrix is our kernel.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no GGUF file, of another version or byte order, damaged or cut
            short, or has tensors of other types or several of one name; all such
            tensors are named.
    """
    if not isinstance(source, bytes):
        return _read(Path(source), str(source))
    # The package reads files only. The map of the file outlives its name.
    with tempfile.NamedTemporaryFile(suffix=".gguf") as copy:
        copy.write(source)
        copy.flush()
        return _read(Path(copy.name), "bytes")


def _read(path: Path, name: str) -> File:
    header = read_header(path, name)
    file_name = Path(name).name
    tensors = {}
    for info in header.tensors:
        # The bytes are mapped, not read, until the tensor is.
        values = partial(read_values, info, header.data)
        tensor = Tensor(file_name, info.shape, info.dtype, values)
        tensors[info.name] = tensor
    return File(header.metadata, tensors)


def with_hf_names(file: File, rules: Iterable[Rule]) -> dict[str, Tensor]:
    """Return the tensors by the Hugging Face names that a family's rules take.

    Tensors that no rule takes keep their names. Values are not touched: in the Llama
    family llama.cpp has permuted the rows of query and key, head by head, which `llama`
    undoes. Tensors that llama.cpp leaves out, such as BERT's pooler, are not there.

    Raises:
        ValueError: the metadata have no block count, or an architecture whose names the
            `gguf` package does not know.
    """
    architecture, layers = _architecture(file)
    # There are fewer layers than tensors: a damaged count does not make a long loop.
    layers = min(layers, len(file.tensors))
    names = get_tensor_name_map(architecture, layers).mapping
    # Matches what any of the rules takes.
    patterns = [f"(?:{rule.pattern})" for rule in rules]
    ruled = re.compile("|".join(patterns))

    # The package has the names that a tensor has in all families. The one that a rule
    # takes is this family's.
    hf_names = {}
    for hf_module, (_, module) in names.items():
        for leaf in ("weight", "bias"):
            hf_name = f"{hf_module}.{leaf}"
            if ruled.fullmatch(hf_name):
                hf_names[f"{module}.{leaf}"] = hf_name
    renamed = {}
    for name, tensor in file.tensors.items():
        hf_name = hf_names.get(name, name)
        renamed[hf_name] = tensor
    return renamed


def _architecture(file: File) -> tuple[MODEL_ARCH, int]:
    """Return the file's architecture and its number of layers."""
    # The package's table the other way round: name -> architecture.
    known = {}
    for architecture, architecture_name in MODEL_ARCH_NAMES.items():
        known[architecture_name] = architecture
    name = file.metadata.get("general.architecture")
    if name not in known:
        candidates = tree.near(str(name), list(known))
        raise ValueError(
            f"general.architecture: got {name!r}, expected one of {candidates}"
        )
    # llama.cpp calls a layer a block.
    layers = file.metadata.get(f"{name}.block_count")
    if not isinstance(layers, int):
        raise ValueError(
            f"{name}.block_count: expected the number of layers, got {layers!r}"
        )
    return known[name], layers
