"""How a text is split before byte-level BPE.

A GGUF file has only a name for it. The expressions behind the names are llama.cpp's
(src/llama-vocab.cpp), which are those of the models' own tokenizer.json.
"""

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# tokenizer.ggml.pre -> expressions, one after the other: each splits further what the
# one before it left in one piece.
SPLITS = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
    "gpt-2": (_GPT2,),
    "smollm": (r"\p{N}", _GPT2),
    "llama-bpe": (_LLAMA3,),
    # Digits one by one.
    "qwen2": (_LLAMA3.replace("{1,3}", ""),),
}
# Of a file that has no name.
DEFAULT = "default"
