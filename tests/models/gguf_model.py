"""A GGUF file with a model of one layer and a tokenizer."""

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quants

LETTERS = [*"abcdefghijklmnopqrstuvwxyzĠĊ", "ab", "<|end|>"]
END = len(LETTERS) - 1
SHAPES: dict[str, tuple[int, ...]] = {  # GGUF's names, [out, in]
    "token_embd": (len(LETTERS), 32),
    "output_norm": (32,),
    "blk.0.attn_norm": (32,),
    "blk.0.attn_q": (32, 32),
    "blk.0.attn_k": (32, 32),
    "blk.0.attn_v": (32, 32),
    "blk.0.attn_output": (32, 32),
    "blk.0.ffn_norm": (32,),
    "blk.0.ffn_gate": (64, 32),
    "blk.0.ffn_up": (64, 32),
    "blk.0.ffn_down": (32, 64),
}


def write_gguf(
    path: Path, *, family: str = "llama", scale: float = 1.0
) -> dict[str, np.ndarray]:
    """Write the file; return the numbers that its tensors stand for, by their names."""
    writer = GGUFWriter(path, family)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_block_count(1)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(LETTERS)
    writer.add_token_types([1] * END + [3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(END)

    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in SHAPES.items():
        # Vectors, the scales of norms, are stored as they are.
        kind = GGMLQuantizationType.F32
        if len(shape) == 2:
            kind = GGMLQuantizationType.Q8_0
        numbers = (scale * rng.normal(size=shape)).astype(np.float32)
        data = quants.quantize(numbers, kind)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)
        tensors[name] = quants.dequantize(data, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors
