"""GPT-2 has transformers' numbers, of the same files."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import methods, tree
from lora_jax.models import gpt2
from lora_jax.nn.blocks import UNROLL
from tests.models.small_decoders import (
    FULL,
    LENGTH,
    error,
    logits,
    shapes,
    token_rows,
    with_adapters,
)
from tests.models.test_gpt2 import HF, load

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def peer(
    folder: Path, kind: str = "GPT2LMHeadModel", **changes: Any
) -> tuple[Any, gpt2.Decoder]:
    """transformers' model, every parameter drawn at random, and ours of its files."""
    torch.manual_seed(0)
    make = getattr(transformers, kind)
    theirs = make(transformers.GPT2Config(**{**HF, **changes})).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            is_scale = "ln_" in name and name.endswith("weight")
            parameter.normal_(float(is_scale), 0.3)
    theirs.save_pretrained(folder)
    config = gpt2.Config.from_hf(theirs.config.to_dict())
    leaves = load(folder, config)
    leaves = {path: jnp.asarray(leaf) for path, leaf in leaves.items()}
    return theirs, tree.replace(shapes(config), leaves)


def output(theirs: Any, tokens: np.ndarray, length: np.ndarray) -> np.ndarray:
    """What transformers' model gives for rows of so many real tokens."""
    is_real = np.arange(tokens.shape[1]) < length[:, None]
    mask = torch.tensor(is_real).long()
    with torch.no_grad():
        outputs = theirs(input_ids=torch.tensor(tokens).long(), attention_mask=mask)
    return outputs[0].numpy()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(activation_function="relu", n_inner=24),
        dict(n_layer=UNROLL + 1, n_head=4),
    ],
)
def test_logits(changes, tmp_path):
    theirs, model = peer(tmp_path, **changes)
    is_real = np.arange(10) < LENGTH[:, None]
    actual = logits(model, token_rows(), LENGTH)
    expected = output(theirs, token_rows(), LENGTH)
    assert actual.shape == (3, 10, 50)
    assert error(actual[is_real], expected[is_real]) < 1e-4


def test_hidden_states_of_a_headless_checkpoint(tmp_path):
    theirs, model = peer(tmp_path, "GPT2Model")
    expected = output(theirs, token_rows(), FULL)
    assert error(model.hidden(token_rows()), expected) < 1e-4


def test_lora_on_query_and_value_changes_those_columns_of_c_attn(tmp_path):
    theirs, base = peer(tmp_path)
    model = with_adapters(base, "query,value")
    leaves = tree.leaves(model)
    for name, start in (("query", 0), ("value", 32)):
        columns = slice(start, start + 16)
        a = np.asarray(leaves[f"blocks/attention/{name}/lora_a"])
        b = np.asarray(leaves[f"blocks/attention/{name}/lora_b"])
        for layer, block in enumerate(theirs.transformer.h):
            delta = torch.tensor(8 / 4 * a[layer] @ b[layer])  # alpha / r
            with torch.no_grad():
                block.attn.c_attn.weight[:, columns] += delta

    expected = output(theirs, token_rows(), FULL)
    assert error(logits(base, token_rows(), FULL), expected) > 0.01
    for adapted in (model, methods.merge(model)):
        assert error(logits(adapted, token_rows(), FULL), expected) < 1e-4
