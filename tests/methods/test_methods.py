"""What holds for every adaptation method. A new one is a line of METHODS, and of CASES where it has options of its own."""

import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lora_jax import data, methods, models, quant, train, tree
from lora_jax.checkpoints import adapter
from lora_jax.models import gpt2, llama
from lora_jax.nn.blocks import stacks
from lora_jax.train import classification

CASES: dict[str, methods.Method] = {
    **{name: make() for name, make in methods.METHODS.items()},
    "lora everywhere": methods.lora(
        r"attention/|mlp/|embed/|pooler", 2, bias="all", init="kaiming_uniform"
    ),
    "lora padded": methods.lora("query,output", 3, rank_multiple=8, bias="lora_only"),
    "lora one layer": methods.lora("value,up", 2, layers=[1], rank_stabilized=True),
    "top one layer": methods.top(1),
}
ELSEWHERE = {
    "prefix"
}  # starts with tokens in front of the text: test_prefix has what holds instead
NONLINEAR = {
    "adapter_h",
    "adapter_l",
    "prefix",
}  # no matrix, so that merging leaves them where they are
STEP = {"loss": classification.loss, "config": train.StepConfig()}
UNMOVED = r"attention/key/(base/)?bias$"  # a key's bias adds the same to all scores of a query: softmax forgets it
every_case = pytest.mark.parametrize("case", CASES)


# Compiled as written: an optimizing compiler fuses, and so rounds, two programs differently, and takes twice as long.
compiled = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


def but(*without: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "case", [case for case in CASES if case not in without]
    )


def forward(model: Any, batch: data.Batch) -> jax.Array:
    return model(batch.tokens, batch.segments, batch.length)


logits = compiled(forward)


@compiled
def gradient(trainable: Any, frozen: Any, batch: data.Batch) -> Any:
    return train.gradient(trainable, frozen, batch, jax.random.key(0), **STEP)[1]


class Trained(NamedTuple):
    """A method's three steps of plain gradient descent at a huge rate, far from the start."""

    start: Any
    frozen: Any
    trainables: list[Any]
    gradients: list[Any]

    @property
    def end(self) -> Any:
        return tree.merge(self.trainables[-1], self.frozen)


@pytest.fixture(scope="module")
def base(tiny):
    return tiny()


@pytest.fixture(scope="module")
def trained(base, batch):
    @functools.cache
    def train_case(case: str) -> Trained:
        start = compiled(CASES[case].adapt)(jax.random.key(1), base)
        trainable, frozen = tree.split(start, methods.mask(start, CASES[case]))
        trainables, gradients = [trainable], []
        for _ in range(3):
            gradients.append(gradient(trainables[-1], frozen, batch))
            trainables.append(
                jax.tree.map(
                    lambda leaf, g: leaf - 0.5 * g, trainables[-1], gradients[-1]
                )
            )
        return Trained(start, frozen, trainables, gradients)

    return train_case


@but(*ELSEWHERE)
def test_starts_at_the_base_model_bit_for_bit(case, base, trained, batch):
    np.testing.assert_array_equal(
        logits(trained(case).start, batch), logits(base, batch)
    )


@every_case
def test_gradient_reaches_every_trainable_leaf_and_no_other(case, trained):
    run = trained(case)
    first, second = (tree.leaves(gradients) for gradients in run.gradients[:2])
    learns = {
        path
        for path, marked in tree.leaves(methods.mask(run.start, CASES[case])).items()
        if marked
    }
    assert set(first) == set(second) == learns
    for path, g in second.items():  # the second: LoRA's A waits for B to leave zero
        norm = float(jnp.linalg.norm(g))
        print(path, norm)
        assert norm < 1e-5 if re.search(UNMOVED, path) else norm > 1e-5, path


def test_b_moves_first_and_a_after_it(trained):
    run = trained("lora")
    for path, g in tree.leaves(run.gradients[0]).items():
        assert bool(jnp.any(g != 0)) != path.endswith("lora_a"), path


@every_case
def test_everything_trainable_moves_and_the_frozen_bytes_stay(case, trained, same):
    run = trained(case)
    for path, leaf in tree.leaves(run.trainables[-1]).items():
        moved = not np.array_equal(leaf, tree.leaves(run.start)[path])
        assert moved or re.search(UNMOVED, path), path
    learns, frozen = tree.split(run.end, methods.mask(run.end, CASES[case]))
    assert same(frozen, run.frozen) and not same(learns, run.trainables[0])


@every_case
def test_merged_is_the_trained_model_and_not_the_base(case, base, trained, batch, same):
    run = trained(case)
    before = jax.tree.map(jnp.copy, run.end)
    merged = methods.merge(run.end)
    assert (
        same(merged, run.end)
        if case in NONLINEAR
        else jax.tree.structure(merged) == jax.tree.structure(base)
    )
    np.testing.assert_allclose(
        logits(merged, batch), logits(run.end, batch), rtol=1e-5, atol=1e-5
    )
    assert np.abs(logits(merged, batch) - logits(base, batch)).max() > 0.01
    assert same(run.end, before), "merge changed the model it was given"
    assert same(methods.merge(merged), merged)


@every_case
def test_unload_gives_the_base_layers_back_bit_for_bit(case, base, trained, same):
    unloaded = methods.unload(trained(case).end)
    assert jax.tree.structure(unloaded) == jax.tree.structure(base)
    assert same(methods.unload(trained(case).start), base)
    learns = {
        re.sub(r"base/|(?<=blocks/)last/", "", path)
        for path in tree.leaves(trained(case).trainables[0])
    }
    for path, leaf in tree.leaves(unloaded).items():
        if path not in learns:
            np.testing.assert_array_equal(leaf, tree.leaves(base)[path], err_msg=path)


@every_case
def test_several_adapters_over_one_base_in_one_call(case, trained, batch):
    run = trained(case)
    together = compiled(
        jax.vmap(lambda some: forward(tree.merge(some, run.frozen), batch))
    )(tree.stack(run.trainables))
    for one, some in zip(together, run.trainables, strict=True):
        np.testing.assert_allclose(
            one, logits(tree.merge(some, run.frozen), batch), rtol=1e-5, atol=1e-5
        )


@every_case
def test_the_scan_over_stacked_blocks_is_the_loop_over_blocks(case, trained, batch):
    model = trained(case).end
    mask = (jnp.arange(16) < batch.length[:, None])[:, None]
    x = model.embed(batch.tokens, batch.segments)
    for stack in stacks(model.blocks):
        for block in tree.unstack(stack):
            x = block(x, mask)
    np.testing.assert_allclose(
        model.head(jnp.tanh(model.pooler(x[:, 0]))),
        logits(model, batch),
        rtol=1e-5,
        atol=1e-5,
    )


@every_case
def test_a_key_and_the_path_decide_the_start(case, base, trained, same):
    adapt = compiled(CASES[case].adapt)
    assert same(adapt(jax.random.key(1), base), trained(case).start)
    assert same(adapt(jax.random.key(2), base), trained(case).start) == (
        not methods.adapters(trained(case).start)
    )


@every_case
def test_what_was_learned_is_kept_and_comes_back(case, trained, same, tmp_path):
    run, path = trained(case), tmp_path / "learned.safetensors"
    mask = methods.mask(run.start, CASES[case])
    path.write_bytes(adapter.dump(run.end, mask, {"seed": 1}))
    model, row = adapter.load(path, run.start, mask)
    assert same(model, run.end) and row == {"seed": 1}


@but(
    "full", *(case for case in CASES if case.startswith("lora "))
)  # bits cannot learn; of more LoRA there is test_qlora
def test_a_quantized_base_learns_as_its_dequantized_one_does(case, base, batch):
    model = CASES[case].adapt(jax.random.key(1), quant.quantize_model(base, "nf4"))
    mask = methods.mask(model, CASES[case])
    assert all(
        leaf.dtype == jnp.float32
        for leaf in tree.leaves(tree.split(model, mask)[0]).values()
    )
    plain = quant.dequantize_model(model)
    ours = gradient(*tree.split(model, mask), batch)
    wanted = gradient(*tree.split(plain, methods.mask(plain, CASES[case])), batch)
    for path, g in tree.leaves(ours).items():
        np.testing.assert_allclose(
            g, tree.leaves(wanted)[path], rtol=1e-3, atol=1e-5, err_msg=path
        )


# What a person can add up for width d = 16, f = 32, L = 2, 50 tokens, 24 positions, 2 segments, 3 labels.
BIASES = (
    2 * (4 * 16 + 32 + 16 + 2 * 16) + 16 + 16
)  # blocks: attention, up, down, two norms; embedding norm; pooler
BLOCK = (
    4 * (16 * 16 + 16) + 16 * 32 + 32 + 32 * 16 + 16 + 2 * 2 * 16
)  # attention, up, down, two norms
COUNTS = {
    "lora": 2 * 2 * 16 * 8 * 2,  # query and value: 2 L d r each
    "full": BIASES
    + 2 * (4 * 16 * 16 + 2 * 16 * 32 + 2 * 16)
    + (50 + 24 + 2) * 16
    + 16
    + 16 * 16,
    "bitfit": BIASES,
    "top": 2 * BLOCK,
    "top one layer": BLOCK,
    "adapter_h": 2
    * 2
    * (2 * 16 * 8 + 8 + 16),  # two places: down, its bias, up, its bias
    "adapter_l": 2 * (2 * 16 * 8 + 8 + 16 + 2 * 16),  # one place; and a norm
    "prefix": 2 * 10 * 16,
    "lora everywhere": 2 * 2 * (4 * (16 + 16) + 2 * (16 + 32))
    + 2 * (50 + 24 + 2 + 3 * 16)
    + 2 * (16 + 16)
    + BIASES,
    "lora padded": 2
    * 2
    * (2 * 16 * 3 + 16),  # r = 3 though 8 are stored; and the two biases
    "lora one layer": 2 * (16 + 16) + 2 * (16 + 32),  # one layer though two are stored
}


@every_case
def test_counts_are_the_closed_formula(case, trained):
    assert methods.counts(trained(case).start, CASES[case]) == (
        COUNTS[case],
        16 * 3 + 3,
    )


def test_counts_of_full_fine_tuning_are_the_whole_model(base):
    assert sum(methods.counts(base, methods.full())) == tree.count(base)


def test_counts_need_no_arrays_but_the_scales(base):
    model = methods.lora(rank=2).adapt(jax.random.key(0), base)
    scales = tree.find(model, "scale$")
    abstract = tree.replace(jax.eval_shape(lambda: model), scales)
    assert methods.counts(abstract, methods.lora()) == methods.counts(
        model, methods.lora()
    )


@pytest.mark.parametrize(
    "method", [methods.full(), methods.bitfit()], ids=["full", "bitfit"]
)
def test_the_head_learns_unless_told_otherwise(method, base):
    head = {"head/kernel", "head/bias"}
    assert head <= set(tree.leaves(tree.split(base, methods.mask(base, method))[0]))
    own = tree.leaves(tree.split(base, methods.mask(base, method, head=False))[0])
    assert "pooler/bias" in own and not head & set(own)


def test_a_model_that_was_not_adapted_has_nothing_to_learn(base):
    with pytest.raises(ValueError, match=r"lora_\[ab\].* matches no leaf; there are: "):
        methods.mask(base, methods.lora())


SIZES: dict[str, Any] = dict(
    layers=3, width=16, heads=2, ffn=24, vocabulary=50, max_positions=16, epsilon=1e-5
)
DECODERS = {
    "gpt2": (gpt2, gpt2.Config(**SIZES, activation="gelu_new")),
    "llama": (
        llama,
        llama.Config(
            **SIZES,
            kv_heads=1,
            head_dim=8,
            activation="silu",
            rope_frequencies=(1.0, 0.3, 0.1, 0.03),
            biases=(True, False, False),
            tie_embeddings=False,
        ),
    ),
}


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("name", methods.METHODS)
def test_a_decoder_s_states_are_the_same_token_by_token_in_rows_padded_on_the_left(
    name, family
):
    module, config = DECODERS[family]
    method, base = methods.make(name, rank=2), module.init(jax.random.key(0), config)
    start = method.adapt(jax.random.key(1), base)
    rng, (learns, frozen) = (
        np.random.default_rng(0),
        tree.split(start, methods.mask(start, method)),
    )
    model = tree.merge(
        jax.tree.map(
            lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype("f"), learns
        ),
        frozen,
    )
    tokens, length = rng.integers(0, 50, (2, 6)), np.array([6, 3])
    wanted = compiled(type(model).hidden)(model, tokens, length)
    assert (
        np.abs(wanted - compiled(type(model).hidden)(base, tokens, length)).max() > 0.1
    )
    padded, first = (
        np.stack([np.roll(row, 6 - n) for row, n in zip(tokens, length, strict=True)]),
        6 - length,
    )
    extend, cache = compiled(type(model).extend), model.cache(2, 8)
    for at in range(6):
        x, cache = extend(model, padded[:, at : at + 1], cache, at, first)
        for row in np.flatnonzero(first <= at):
            np.testing.assert_allclose(
                x[row, 0], wanted[row, at - first[row]], rtol=1e-4, atol=1e-4
            )


class Stock(nnx.Module):
    """A model of flax's own layers, one of them called `value`, as a user's would be."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(7, 4, rngs=rngs)
        self.value = nnx.Linear(4, 6, rngs=rngs)
        self.rest = nnx.List(
            [nnx.Linear(6, 5, rngs=rngs), nnx.Linear(5, 3, use_bias=False, rngs=rngs)]
        )

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = jnp.tanh(self.value(self.embed(tokens)))
        for layer in self.rest:
            x = layer(x)
        return x


STOCK = {
    "full": methods.full(),
    "bitfit": methods.bitfit(),
    "lora": methods.lora(r"value|rest/\d$|embed", 2),
}


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_model_of_stock_flax_layers_can_be_adapted(name, same):
    if name not in STOCK:
        pytest.skip("made for this library's own blocks")
    method, model, tokens = STOCK[name], Stock(nnx.Rngs(0)), jnp.arange(7)
    adapted = compiled(method.adapt)(jax.random.key(0), model)
    np.testing.assert_array_equal(
        adapted(tokens), model(tokens)
    )  # outside jit: each operation by itself
    trainable, frozen = tree.split(adapted, methods.mask(adapted, method))

    @compiled
    def step(trainable):
        loss = lambda some: jnp.sum((tree.merge(some, frozen)(tokens) - 1) ** 2)  # noqa: E731
        return jax.tree.map(
            lambda leaf, g: leaf - 0.03 * g, trainable, jax.grad(loss)(trainable)
        )

    after = step(step(trainable))
    start, end = tree.leaves(trainable), tree.leaves(after)
    assert all(not np.array_equal(end[path], leaf) for path, leaf in start.items())
    model_after = tree.merge(after, frozen)
    np.testing.assert_allclose(
        methods.merge(model_after)(tokens), model_after(tokens), rtol=1e-5, atol=1e-6
    )
    assert np.abs(model_after(tokens) - model(tokens)).max() > 1e-3
    assert same(methods.unload(adapted), model)


def test_make_takes_the_settings_that_a_method_knows(base):
    assert methods.make("bitfit", rank=3).name == "bitfit"
    assert methods.options("bitfit") == () and methods.options("prefix") == (
        "prefix_length",
    )
    model = methods.make("lora", rank=3, targets="key").adapt(jax.random.key(0), base)
    assert list(methods.adapters(model)) == ["blocks/attention/key"]
    assert model.blocks.attention.key.lora_a.shape == (2, 16, 3)


def test_bitfit_needs_biases():
    with pytest.raises(
        ValueError, match=r"^bitfit: expected a model with biases, got one without any$"
    ):
        methods.bitfit().adapt(jax.random.key(0), models.load("tiny-llama")[0])


def test_an_unknown_method_is_told_the_names_there_are():
    with pytest.raises(ValueError, match=r"method: expected one of lora, .*got 'lroa'"):
        methods.make("lroa")
    with pytest.raises(ValueError, match=r"full.*bitfit|bitfit.*full"):
        methods.make("lroa")
