"""Random models of transformers, adapted by peft: the peer of a step of ours."""

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from lora_jax.accounting.fitted_step import NOT_QUANTIZED, FittedStep
from lora_jax.accounting.model_shapes import shaped_model
from lora_jax.accounting.peft_step import bert_sizes, import_peers
from lora_jax.models import bert, llama

# Our formats in bitsandbytes, by whether the scales are quantized too.
DOUBLE = {"nf4": False, "nf4_double": True}
PACKAGES = ("torch", "transformers", "peft")
# Of the layers that are adapted; BERT's have our names.
_LLAMA_NAMES = {"query": "q_proj", "value": "v_proj"}
QUANTIZER = "bitsandbytes"  # for a base in NF4


def missing_packages(names: Iterable[str]) -> str:
    """Return a sentence on the packages that are not installed; empty if all are."""
    missing = [name for name in names if find_spec(name) is None]
    if not missing:
        return ""
    listed = ", ".join(missing)
    return f"expected {listed}, which is not installed: pip install -e '.[peers]'"


def adapted_peer(step: FittedStep, device: str) -> Any:
    """Return a model of a step's shape and storage on torch's device, with LoRA.

    Raises:
        ValueError: a package is not installed, or the step has no peer: it is of
            another family, method or format.
    """
    torch, _, peft = import_peers()
    _check(step)
    torch.manual_seed(0)
    # Drawn where they are to be.
    with torch.device(device):
        model = _random_model(step)
    model = model.to(getattr(torch, step.dtype))
    is_llama = hasattr(model.config, "num_key_value_heads")
    if step.quantize != NOT_QUANTIZED:
        _quantize(model, step, device)
    task = peft.TaskType.CAUSAL_LM if is_llama else peft.TaskType.SEQ_CLS
    targets = step.targets.split(",")
    if is_llama:
        targets = [_LLAMA_NAMES[name] for name in targets]
    options = peft.LoraConfig(
        task_type=task,
        r=step.rank,
        lora_alpha=16,
        target_modules=targets,
    )
    return peft.get_peft_model(model, options)


def _check(step: FittedStep) -> None:
    formats = (NOT_QUANTIZED, *DOUBLE)
    problems = []
    if step.method != "lora" or step.targets != "query,value":
        problems.append(f"lora of query,value, got {step.method} of {step.targets}")
    if step.quantize not in formats:
        problems.append(f"a format of {', '.join(formats)}, got {step.quantize}")
    config = shaped_model(step.model).config
    is_bert = isinstance(config, bert.Config) and config.kind == "bert"
    if not is_bert and not isinstance(config, llama.Config):
        problems.append(f"a BERT or a Llama, got {step.model}")
    if problems:
        raise ValueError(f"peft: expected {'; '.join(problems)}")


def _random_model(step: FittedStep) -> Any:
    _, transformers, _ = import_peers()
    config = shaped_model(step.model).config
    if isinstance(config, bert.Config):
        sizes = transformers.BertConfig(**bert_sizes(config))
        return transformers.BertForSequenceClassification(sizes)
    sizes = transformers.LlamaConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim,
        intermediate_size=config.ffn,
        max_position_embeddings=config.max_positions,
        tie_word_embeddings=config.tie_embeddings,
        # No cache is read in training.
        use_cache=False,
    )
    return transformers.LlamaForCausalLM(sizes)


def _quantize(model: Any, step: FittedStep, device: str) -> None:
    """Put bitsandbytes' layers in the place of the blocks' linear ones."""
    torch = import_peers()[0]
    if missing := missing_packages([QUANTIZER]):
        raise ValueError(f"peft: {step.quantize}: {missing}")
    layers = import_module(QUANTIZER).nn
    body = model.model.layers
    # A list, as the modules change.
    for name, layer in list(body.named_modules()):
        if not isinstance(layer, torch.nn.Linear):
            continue
        narrow = layers.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=False,
            compute_dtype=torch.bfloat16,
            device="meta",
        )
        narrow.weight = layers.Params4bit(
            layer.weight.data,
            requires_grad=False,
            quant_type="nf4",
            compress_statistics=DOUBLE[step.quantize],
        ).to(device)
        body.set_submodule(name, narrow)
    # By this peft knows them.
    model.is_loaded_in_4bit = True
