"""The same training step in torch and peft, to be timed beside the library's own.

These packages are optional: `pip install -e '.[peers]'`.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from lora_jax.accounting.step_time import Step, random_batch
from lora_jax.models import bert


def peft_step(
    config: bert.Config,
    *,
    targets: Sequence[str],
    rank: int,
    batch: int,
    length: int,
    compute_dtype: str,
) -> Step:
    """Return a step on a random model of the same shape, with LoRA on the targets.

    Without targets the model is trained in full. Sizes are those of `optimizer` and
    `checkpoint`; torch does not say what memory a step takes on CPU.

    Raises:
        ValueError: the packages are not installed, or the model is not of the BERT
            family.
    """
    torch = import_peers()[0]
    if config.kind != "bert":
        raise ValueError(
            f"--peer peft: expected a model of the BERT family, got {config.kind}"
        )
    model = _adapted_model(config, targets, rank)
    # The adapter and the head; without targets, all.
    trainable = []
    for parameter in model.train().parameters():
        if parameter.requires_grad:
            trainable.append(parameter)
    optimizer = torch.optim.AdamW(trainable, lr=1e-3)
    inputs = _torch_batch(torch, batch, length, config.vocabulary)
    # What torch calls autocast: weights stay in float32.
    mixed = compute_dtype == "bfloat16"

    # As the library's step: gradient, clipping, Adam.
    def run() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    count = sum(parameter.numel() for parameter in trainable)
    # Two float32 moments, and the trainable weights themselves.
    return Step(run, {"optimizer": 8 * count, "checkpoint": 4 * count})


def _torch_batch(
    torch: Any, batch: int, length: int, vocabulary: int
) -> dict[str, Any]:
    """The same rows as in our own step."""
    rows = random_batch(batch, length, vocabulary)
    return {
        "input_ids": torch.tensor(rows.tokens).long(),
        # No row has padding.
        "attention_mask": torch.ones((batch, length), dtype=torch.long),
        "labels": torch.tensor(rows.label).long(),
    }


def import_peers() -> tuple[Any, Any, Any]:
    """Import torch, transformers and peft.

    torch comes first: the others load without it, but are of no use.

    Raises:
        ValueError: one of them is not installed.
    """
    try:
        torch = import_module("torch")
        return torch, import_module("transformers"), import_module("peft")
    except ImportError as error:
        raise ValueError(
            "--peer peft needs torch, transformers and peft: "
            f"pip install -e '.[peers]' ({error})"
        ) from None


def _adapted_model(config: bert.Config, targets: Sequence[str], rank: int) -> Any:
    """A random model of transformers without dropout, adapted by peft."""
    torch, transformers, peft = import_peers()
    # Random weights take as long as pretrained ones.
    torch.manual_seed(0)
    model: Any = transformers.BertForSequenceClassification(
        transformers.BertConfig(**bert_sizes(config))
    )
    if not targets:
        return model
    lora = peft.LoraConfig(
        task_type=peft.TaskType.SEQ_CLS,
        r=rank,
        lora_alpha=16,
        target_modules=list(targets),
    )
    return peft.get_peft_model(model, lora)


def bert_sizes(config: bert.Config) -> dict[str, Any]:
    """Return what transformers' BertConfig has of an encoder's; nothing is dropped."""
    return {
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.ffn,
        "max_position_embeddings": config.max_positions,
        # Neither has ours.
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
