"""transformers' generate token for token, its causal loss and peft's LoRA on it, and a published language model's logits."""

import re
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import data, generation, methods, models, train, tree
from lora_jax.generation.generate import Decoding
from lora_jax.models.decoder import Decoder
from lora_jax.train import language_modeling
from tests.checkpoints.gguf.published import read_smollm2
from tests.models.small_decoders import error, with_adapters
from tests.parity import test_gpt2, test_llama

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

NEW = 14
PROMPTS = [
    np.random.default_rng(n).integers(1, 50, n).tolist() for n in (3, 1, 11, 6, 2)
]


def padded(prompts: list[list[int]]) -> dict[str, Any]:
    """On the left, as transformers wants it."""
    width = max(map(len, prompts))
    rows = [[0] * (width - len(prompt)) + prompt for prompt in prompts]
    real = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(real)}


def theirs_writes(
    model: Any, prompts: list[list[int]], how: Decoding, end: int | list[int] | None
) -> list[list[int]]:
    given = padded(prompts)
    out = model.generate(
        **given,
        max_new_tokens=how.new_tokens,
        num_beams=how.beam,
        do_sample=False,
        length_penalty=how.length_penalty,
        no_repeat_ngram_size=how.no_repeat,
        eos_token_id=end,
        pad_token_id=0,
    )
    rows = out[:, given["input_ids"].shape[1] :].tolist()
    ends = np.array([-1] if end is None else end)
    stops = [np.flatnonzero(np.isin(row, ends)) for row in rows]
    return [
        row[: stop[0]] if len(stop) else row
        for row, stop in zip(rows, stops, strict=True)
    ]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def pair(request, tmp_path_factory) -> tuple[Any, Decoder, int]:
    """(transformers' model, ours, a token that it often writes)."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "llama":
        theirs, ours = test_llama.peer(
            folder, max_position_embeddings=64, rope_parameters=test_llama.SCALED
        )
    else:
        theirs, ours = test_gpt2.peer(folder, n_positions=64)
    theirs.generation_config = transformers.GenerationConfig()
    (end, _), *_ = Counter(
        token
        for text in theirs_writes(theirs, PROMPTS, Decoding(NEW), None)
        for token in text[2:]
    ).most_common()
    return theirs, ours, end


@pytest.mark.parametrize(
    "how",
    [
        Decoding(NEW, no_repeat=2),
        Decoding(NEW, beam=3, length_penalty=0.0),
        Decoding(NEW, beam=4, length_penalty=0.9, no_repeat=4),
        Decoding(NEW, beam=10, length_penalty=2.0, no_repeat=2),
    ],
    ids=str,
)
def test_every_token_is_theirs(pair, how):
    theirs, ours, end = pair
    wanted = theirs_writes(theirs, PROMPTS, how, end)
    found = generation.generate(ours, PROMPTS, how, eos_ids=end, batch=2)
    assert found.tokens == wanted
    assert sum(len(text) < NEW for text in wanted) > 0, (
        "none ends: this does not show what an end does"
    )


@pytest.mark.parametrize(
    "how", [Decoding(NEW), Decoding(NEW, beam=4, length_penalty=0.9)], ids=str
)
def test_each_of_several_tokens_ends_a_text(pair, how):
    theirs, ours, end = pair
    once = {
        token for text in theirs_writes(theirs, PROMPTS, how, end) for token in text
    }
    ends = [
        49 if 49 not in once else 48,
        end,
        *sorted(once - {48, 49})[:2],
    ]  # the first ends nothing here, the others do
    wanted = theirs_writes(theirs, PROMPTS, how, ends)
    assert (
        generation.generate(ours, PROMPTS, how, eos_ids=ends, batch=2).tokens == wanted
    )
    assert wanted != theirs_writes(theirs, PROMPTS, how, ends[:2])


NAMES = {
    "q_proj": "attention/query",
    "v_proj": "attention/value",
    "gate_proj": "mlp/gate",
    "lm_head": "lm_head",
}


class TestLoRA:
    """On both sides with the same A and B, the head's too; labels of what the loss is not about are -100."""

    STEP = train.StepConfig(weight_decay=0.1, clip=0.5)

    @pytest.fixture
    def pair(self, tmp_path) -> tuple[Any, methods.Method, Any]:
        """(our adapted model, its method, peft's model) with the same numbers everywhere."""
        peft = pytest.importorskip("peft")
        theirs, base = test_llama.peer(tmp_path)
        targets = ",".join(NAMES.values())
        model = with_adapters(base, targets)
        wrapped = peft.get_peft_model(
            theirs,
            peft.LoraConfig(
                task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=list(NAMES)
            ),
        )
        with torch.no_grad():
            for path, parameter in self.parameters(wrapped).items():
                parameter.copy_(torch.tensor(np.asarray(self.leaf(model, *path)).T))
        return model, methods.lora(targets, 4, 8.0), wrapped

    def parameters(self, model: Any) -> dict[tuple[str, int | None, str], Any]:
        """peft's A and B by (our name of the adapted matrix, layer, side)."""
        found = {}
        for path, parameter in model.named_parameters():
            if match := re.search(r"(?:layers\.(\d+)\.\w+\.)?(\w+)\.lora_([AB])", path):
                layer = None if match[1] is None else int(match[1])
                found[NAMES[match[2]], layer, f"lora_{match[3].lower()}"] = parameter
        return found

    def leaf(self, model: Any, name: str, layer: int | None, side: str) -> jax.Array:
        leaves = tree.leaves(model)
        return (
            leaves[f"{name}/{side}"]
            if layer is None
            else leaves[f"blocks/{name}/{side}"][layer]
        )

    @pytest.fixture
    def batch(self) -> data.Batch:
        """Three rows of which the last ones are a target, and one that only fills the batch up."""
        rng = np.random.default_rng(0)
        sizes = np.array([12, 5, 9])
        segments = np.concatenate([np.arange(n) >= n - 3 for n in sizes]).astype(
            np.int32
        )
        tokens = rng.integers(0, 50, sizes.sum()).astype(np.int32)
        encoded = data.Encoded(
            tokens,
            segments,
            np.concatenate([[0], sizes.cumsum()]),
            np.zeros(3, np.int32),
        )
        return next(data.batches(encoded, size=4, widths=(16,), seed=None, pad=0))

    def loss(self, theirs: Any, batch: data.Batch) -> Any:
        real = np.arange(16) < batch.length[:, None]
        asked = (batch.segments == 1) & real & (batch.weight[:, None] > 0)
        labels = np.where(asked, batch.tokens, -100)
        arrays = dict(input_ids=batch.tokens, attention_mask=real, labels=labels)
        return theirs(
            **{
                name: torch.tensor(array.astype(np.int64))
                for name, array in arrays.items()
            }
        ).loss

    def test_loss_gradients_and_two_steps_of_adamw(self, pair, batch):
        model, method, theirs = pair
        trainable, frozen = tree.split(model, methods.mask(model, method))
        key = jax.random.key(0)
        gradient = jax.jit(train.gradient, static_argnames=("loss", "config"))
        step = {"loss": language_modeling.loss, "config": self.STEP}
        value, gradients = gradient(trainable, frozen, batch, key, **step)
        wanted = self.loss(theirs, batch)
        wanted.backward()
        assert error(value, wanted.detach().numpy()) < 1e-5
        parameters = self.parameters(theirs)
        assert len(parameters) == 2 * (3 * 2 + 1)
        for path, parameter in parameters.items():
            assert (
                error(self.leaf(gradients, *path).T, parameter.grad.numpy()) < 1e-4
            ), path

        trainable, state = (
            jax.tree.map(jnp.copy, trainable),
            train.optimizer(self.STEP).init(trainable),
        )
        learns = [p for p in theirs.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learns, lr=0.02, weight_decay=0.1)
        plain = train.train_step.__wrapped__  # pyright: ignore[reportAttributeAccessIssue]
        train_step = jax.jit(plain, static_argnames=("loss", "config"))
        for number in range(2):
            trainable, state, value = train_step(
                trainable,
                state,
                frozen,
                batch,
                jnp.float32(0.02),
                key,
                **step,
            )
            optimizer.zero_grad()
            loss = self.loss(theirs, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learns, 0.5)
            optimizer.step()
            assert error(value, loss.detach().numpy()) < 1e-4, number
        for path, parameter in parameters.items():
            assert (
                error(self.leaf(trainable, *path).T, parameter.detach().numpy()) < 1e-3
            ), path


@pytest.mark.real
def test_smollm2_has_the_logits_and_the_text_of_transformers(tmp_path):
    path = tmp_path / "smollm2.gguf"
    path.write_bytes(read_smollm2())
    theirs = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, dtype=torch.float32
    ).eval()
    theirs.generation_config = transformers.GenerationConfig()
    model, tokenizer = models.load("smollm2-135m")
    texts = ["The capital of France is", "name : The Vaults | Type : pub\n"]
    prompts = [row.ids for row in tokenizer.encode_batch(texts)]
    lengths = np.array([len(prompt) for prompt in prompts])
    rows = np.array(
        [prompt + [0] * (lengths.max() - len(prompt)) for prompt in prompts]
    )
    found = jax.jit(Decoder.__call__)(model, rows, lengths)
    for row, prompt in zip(found, prompts, strict=True):
        with torch.no_grad():
            assert (
                error(
                    row[: len(prompt)], theirs(torch.tensor([prompt])).logits[0].numpy()
                )
                < 1e-4
            )
    how = Decoding(6, beam=2, no_repeat=4)
    found = generation.generate(
        model, prompts, how, eos_ids=model.config.eos_ids, batch=2
    )
    assert found.tokens == theirs_writes(theirs, prompts, how, model.config.eos_ids[0])
    assert "Paris" in tokenizer.decode(found.tokens[0])
