"""Models as shapes, by name or by a config.json: no weight is read or allocated."""

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax

from lora_jax.accounting.llama_memory import LLAMAS, VOCABULARY
from lora_jax.models import bert, tiny
from lora_jax.models.boundary import errors_about
from lora_jax.models.load import FAMILIES
from lora_jax.models.sources import find_files


def _llama(layers: int, width: int, ffn: int, **others: Any) -> dict[str, Any]:
    """Return LLaMA's config.json: heads of 128, as many of keys as of queries."""
    return {
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_attention_heads": width // 128,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "eos_token_id": 2,
        **others,
    }


# Grouped queries, the larger vocabulary, and longer texts (arXiv 2407.21783).
_LLAMA3 = {
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 128_001,
}
_GPT3 = {  # Brown et al. 2020 (arXiv 2005.14165), Table 2.1
    "model_type": "gpt2",
    "n_layer": 96,
    "n_embd": 12_288,
    "n_head": 96,
    "vocab_size": 50_257,
    "n_positions": 2048,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
    "eos_token_id": 50_256,
}


def _bert(layers: int, width: int, heads: int) -> dict[str, Any]:
    """Return BERT's config.json: an MLP four times as wide as the model."""
    return {
        "model_type": "bert",
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "vocab_size": 30_522,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "pad_token_id": 0,
    }


CONFIGS: dict[str, dict[str, Any]] = {
    "llama-7b": _llama(*LLAMAS["LLaMA 7B"]),
    "llama-13b": _llama(*LLAMAS["LLaMA 13B"]),
    "llama-33b": _llama(*LLAMAS["LLaMA 33B"]),
    "llama-65b": _llama(*LLAMAS["LLaMA 65B"]),
    "llama-1.2b": _llama(16, 2048, 8192, **_LLAMA3, tie_word_embeddings=True),
    "llama-8b": _llama(32, 4096, 14_336, **_LLAMA3),
    "gpt3-175b": _GPT3,
    # Devlin et al. 2019 (arXiv 1810.04805), section 3.
    "bert-large": _bert(24, 1024, 16),
    "bert-base": _bert(12, 768, 12),
    # Wang et al. 2020 (arXiv 2002.10957); its weights are `models.load`'s.
    "minilm-l6": _bert(6, 384, 12),
}
"""What of a config.json shapes a model, by our name of it."""


@cache
def shaped_model(name: str) -> Any:
    """Return the model of a name, a directory or a config.json, every leaf a shape.

    An encoder has a head for two classes. All leaves are float32.

    Raises:
        ValueError: there is no such name and no such directory, or a config.json of no
            family of the library.
        FileNotFoundError: a directory without a config.json.
    """
    if name in tiny.MODELS:
        return jax.eval_shape(lambda: tiny.MODELS[name](labels=2)[0])
    config = _config(name)
    family = _family(name, config)
    with errors_about(name):
        family_config = family.Config.from_hf(config)
    init = partial(family.init, config=family_config)
    if family is bert:
        init = partial(init, labels=2)
    # Traced and not run: no weight is drawn.
    return jax.eval_shape(init, jax.random.key(0))


def _config(name: str) -> Mapping[str, Any]:
    if name in CONFIGS:
        return CONFIGS[name]
    path = Path(name).expanduser()
    # The file itself may be named, or the directory that it is in.
    folder = path.parent if path.name == "config.json" else path
    if not name or not folder.is_dir():
        names = ", ".join([*CONFIGS, *tiny.MODELS])
        raise ValueError(
            f"model: expected one of {names}, or a directory with a config.json, "
            f"got {name!r}"
        )
    return find_files(folder).config()


def _family(name: str, config: Mapping[str, Any]) -> Any:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ValueError(
            f"{name}: expected a model_type among {sorted(FAMILIES)} in config.json, "
            f"got {model_type!r}"
        )
    return FAMILIES[model_type]
