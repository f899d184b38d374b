"""The same numbers as transformers' models and peft's LoRA, from the same files, weights and batches."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import BertWordPieceTokenizer

from lora_jax import data, methods, models, train, tree
from lora_jax.models import bert, sources
from lora_jax.train import classification

compiled = partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)  # half the time to compile
hidden, logits = compiled(bert.Encoder.hidden), compiled(bert.Encoder.__call__)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(45))]
SHAPE = dict(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    type_vocab_size=2,
    max_position_embeddings=24,
    pad_token_id=1,
    layer_norm_eps=1e-6,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
CASES = {
    "bert": ("BertConfig", "BertForSequenceClassification", dict(num_labels=3)),
    "roberta": (
        "RobertaConfig",
        "RobertaForSequenceClassification",
        dict(num_labels=3),
    ),
    "bert regression": (
        "BertConfig",
        "BertForSequenceClassification",
        dict(num_labels=1),
    ),
    "roberta relu": (
        "RobertaConfig",
        "RobertaForSequenceClassification",
        dict(num_labels=2, hidden_act="relu"),
    ),
}


def peer(config: str, model: str, settings: dict[str, Any]) -> Any:
    """transformers' model with every parameter drawn at random, its biases and norms too."""
    torch.manual_seed(0)
    made = getattr(transformers, model)(
        getattr(transformers, config)(**SHAPE, **settings)
    ).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.normal_(float("LayerNorm.weight" in name), 0.3)
    return made


def saved(model: Any, folder: Path, **settings: Any) -> Path:
    model.save_pretrained(folder, **settings)
    BertWordPieceTokenizer({word: i for i, word in enumerate(WORDS)}).save(
        str(folder / "tokenizer.json")
    )
    return folder


def inputs(batch: data.Batch) -> dict[str, Any]:
    real = np.arange(batch.tokens.shape[1]) < batch.length[:, None]
    arrays = dict(
        input_ids=batch.tokens, token_type_ids=batch.segments, attention_mask=real
    )
    return {
        name: torch.tensor(array.astype(np.int64)) for name, array in arrays.items()
    }


def ours(batch: data.Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return batch.tokens, batch.segments, batch.length


def error(got: Any, wanted: Any) -> float:
    """max |got - wanted| / max |wanted|."""
    got, wanted = np.asarray(got), wanted.detach().numpy()
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("case", CASES)
def test_hidden_states_and_logits_are_those_of_transformers(case, batch, tmp_path):
    theirs = peer(*CASES[case])
    model, _ = models.load(saved(theirs, tmp_path), labels=CASES[case][2]["num_labels"])
    with torch.no_grad():
        wanted = theirs(**inputs(batch), output_hidden_states=True)
    real = np.arange(16) < batch.length[:, None]
    assert not real.all()
    assert (
        error(hidden(model, *ours(batch))[real], wanted.hidden_states[-1][real]) < 1e-5
    )
    assert error(logits(model, *ours(batch)), wanted.logits) < 1e-5


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_sharded_and_headless_checkpoints_load(kind, batch, tmp_path, same):
    theirs = peer(
        f"{kind}Config", f"{kind}ForSequenceClassification", dict(num_labels=3)
    )
    whole, _ = models.load(saved(theirs, tmp_path / "whole"), labels=3)
    sharded, _ = models.load(
        saved(theirs, tmp_path / "sharded", max_shard_size="8KB"), labels=3
    )
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert same(sharded, whole)
    trunk = getattr(transformers, f"{kind}Model").from_pretrained(tmp_path / "whole")
    headless, _ = models.load(saved(trunk, tmp_path / "headless"), labels=5)
    drawn = {path for path in tree.leaves(headless) if path.startswith("head/")}
    assert len(drawn) == (
        4 if kind == "Roberta" else 2
    )  # RoBERTa's trunk has a pooler, which is left out
    have = {
        path: leaf for path, leaf in tree.leaves(headless).items() if path not in drawn
    }
    assert same(have, {path: tree.leaves(whole)[path] for path in have})
    assert logits(headless, *ours(batch)).shape == (8, 5)


@pytest.mark.real
def test_minilm_has_the_hidden_states_of_transformers(tmp_path):
    files = sources.find_files("minilm-l6")
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes(files.read(name))
    (tmp_path / "model.safetensors").write_bytes(files.read("model.safetensors"))
    theirs = transformers.AutoModel.from_pretrained(tmp_path).eval()
    model, tokenizer = models.load("minilm-l6")
    assert isinstance(model, bert.Encoder)
    texts = [
        "a gripping, funny film",
        "dull",
        "the plot is thin , but the actors carry it with grace and wit",
    ]
    pairs = [None, "a second sentence", None]
    rows = data.Examples(
        texts[1:2] * 3, pairs[1:2] * 3, np.zeros(3, np.int32)
    )  # pairs, then single texts
    for examples in (rows, data.Examples(texts, None, np.zeros(3, np.int32))):
        encoded = data.encode(tokenizer, examples, max_length=32)
        batch = next(data.batches(encoded, size=3, widths=(32,), seed=None, pad=0))
        with torch.no_grad():
            wanted = theirs(**inputs(batch)).last_hidden_state.numpy()
        real = np.arange(32) < batch.length[:, None]
        np.testing.assert_allclose(
            hidden(model, *ours(batch))[real], wanted[real], atol=1e-4, rtol=0
        )


STEP = {
    "loss": classification.loss,
    "config": train.StepConfig(weight_decay=0.1, clip=0.5),
}


class TestPeft:
    """LoRA on both sides with the same A and B; `targets` by our names."""

    @pytest.fixture(params=["query,value", "query,key,value,attention/output"])
    def pair(self, request, tmp_path):
        """(our adapted model, its method, peft's model) with the same numbers everywhere."""
        peft = pytest.importorskip("peft")
        theirs = peer(*CASES["bert"])
        base, _ = models.load(saved(theirs, tmp_path), labels=3)
        method = methods.lora(request.param, 4, 8.0)
        model = method.adapt(jax.random.key(0), base)
        rng = np.random.default_rng(0)
        drawn = {
            p: 0.3 * rng.normal(size=leaf.shape)
            for p, leaf in tree.find(model, "lora_b$").items()
        }
        model = tree.replace(
            model, {path: jnp.float32(leaf) for path, leaf in drawn.items()}
        )
        names = [
            name.replace("attention/output", "attention.output.dense")
            for name in request.param.split(",")
        ]
        settings = peft.LoraConfig(
            task_type="SEQ_CLS", r=4, lora_alpha=8, target_modules=names
        )
        wrapped = peft.get_peft_model(theirs, settings)
        with torch.no_grad():
            for path, parameter in lora_parameters(wrapped).items():
                layer, name, side = path
                parameter.copy_(
                    torch.tensor(np.asarray(leaf_of(model, name, side)[layer].T))
                )
        return model, method, wrapped

    def test_first_loss_and_gradients(self, pair, batch):
        model, method, theirs = pair
        trainable, frozen = tree.split(model, methods.mask(model, method))
        value, gradients = compiled(train.gradient, static_argnames=("loss", "config"))(
            trainable, frozen, batch, jax.random.key(0), **STEP
        )
        wanted = theirs(
            **inputs(batch), labels=torch.tensor(batch.label.astype(np.int64))
        ).loss
        wanted.backward()
        assert error(value, wanted) < 1e-5
        parameters = lora_parameters(theirs)
        assert len(parameters) == 2 * sum(
            "lora_" in path for path in tree.leaves(gradients)
        )
        for (layer, name, side), parameter in parameters.items():
            assert (
                error(leaf_of(gradients, name, side)[layer].T, parameter.grad) < 1e-4
            ), (layer, name, side)
        head = theirs.base_model.model.classifier.modules_to_save["default"]
        assert error(tree.leaves(gradients)["head/kernel"].T, head.weight.grad) < 1e-4

    def test_five_steps_of_adamw_with_clipping_and_decay(self, pair, batch):
        model, method, theirs = pair
        trainable, frozen = tree.split(model, methods.mask(model, method))
        trainable, state = (
            jax.tree.map(jnp.copy, trainable),
            train.optimizer(STEP["config"]).init(trainable),
        )
        config = train.TrainConfig(learning_rate=0.02, warmup=0.4)
        learns = [p for p in theirs.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in learns if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in learns if p.ndim == 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=0.02)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: train.learning_rate(config, step, 5) / 0.02
        )
        for step in range(5):
            now = jnp.float32(train.learning_rate(config, step, 5))
            trainable, state, value = train.train_step(
                trainable, state, frozen, batch, now, jax.random.key(0), **STEP
            )
            optimizer.zero_grad()
            loss = theirs(
                **inputs(batch), labels=torch.tensor(batch.label.astype(np.int64))
            ).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learns, 0.5)
            optimizer.step()
            schedule.step()
            assert error(value, loss) < 1e-4, step
        for (layer, name, side), parameter in lora_parameters(theirs).items():
            assert error(leaf_of(trainable, name, side)[layer].T, parameter) < 1e-3, (
                layer,
                name,
                side,
            )


def lora_parameters(model: Any) -> dict[tuple[int, str, str], Any]:
    """peft's A and B by (layer, our name of the adapted matrix, side)."""
    found = {}
    for path, parameter in model.named_parameters():
        if "lora_" in path:
            before, side = path.split(".lora_")
            words = before.split(".")
            name = "output" if words[-1] == "dense" else words[-1]
            found[
                int(words[words.index("layer") + 1]), name, f"lora_{side[0].lower()}"
            ] = parameter
    return found


def leaf_of(model: Any, name: str, side: str) -> jax.Array:
    return tree.leaves(model)[f"blocks/attention/{name}/{side}"]
