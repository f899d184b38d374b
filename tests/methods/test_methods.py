"""What holds for every adaptation method.

Another method is tested as soon as it has a line in METHODS. It needs a line of COUNTS,
and of CASES where it has options of its own.
"""

import functools
import inspect
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lora_jax import data, methods, models, quant, train, tree
from lora_jax.checkpoints import adapter
from lora_jax.models import gpt2, llama
from lora_jax.nn.attention import AttentionContext
from lora_jax.nn.blocks import stacks
from lora_jax.nn.visibility import Visibility
from lora_jax.train import classification

KEY = jax.random.key(1)
CASES: dict[str, methods.Method] = {
    **{name: make() for name, make in methods.METHODS.items()},
    "lora everywhere": methods.lora(
        r"attention/|mlp/|embed/|pooler", 2, bias="all", init="kaiming_uniform"
    ),
    "lora padded": methods.lora("query,output", 3, rank_multiple=8, bias="lora_only"),
    "lora one layer": methods.lora("value,up", 2, layers=[1], rank_stabilized=True),
    "top one layer": methods.top(1),
}
# It starts with tokens in front of the text; test_prefix.py has what holds instead.
STARTS_ELSEWHERE = {"prefix"}
# They are no matrices, so that merging leaves them in place.
NOT_MERGED = {"adapter_h", "adapter_l", "prefix"}
STEP = {"loss": classification.loss, "config": train.StepConfig()}
# A key's bias adds the same to all scores of a query, which softmax does not see.
WITHOUT_GRADIENT = r"attention/key/(base/)?bias$"
every_case = pytest.mark.parametrize("case", CASES)


# Compiled as written: an optimizing compiler fuses, and so rounds, two programs
# differently, and takes twice as long.
compiled = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


def every_case_but(excluded: Iterable[str]) -> pytest.MarkDecorator:
    cases = [case for case in CASES if case not in excluded]
    return pytest.mark.parametrize("case", cases)


def forward(model: Any, batch: data.Batch) -> jax.Array:
    return model(batch.tokens, batch.segments, batch.length)


logits = compiled(forward)


@compiled
def gradient(trainable: Any, frozen: Any, batch: data.Batch) -> Any:
    key = jax.random.key(0)
    _, gradients = train.gradient(trainable, frozen, batch, key, **STEP)
    return gradients


def split(model: Any, case: str) -> tuple[Any, Any]:
    """Return the trainable and the frozen tree of a case's model."""
    return tree.split(model, methods.mask(model, CASES[case]))


def assert_close(ours: Any, theirs: Any, rtol: float = 1e-5, atol: float = 1e-5):
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)


class Trained(NamedTuple):
    """Three steps of gradient descent at a huge learning rate, far from the start."""

    start: Any
    frozen: Any
    trainables: list[Any]  # before each step, and after the last
    gradients: list[Any]  # of each step

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
        start = compiled(CASES[case].adapt)(KEY, base)
        trainable, frozen = split(start, case)
        trainables = [trainable]
        gradients = []
        for _ in range(3):
            slope = gradient(trainable, frozen, batch)
            trainable = jax.tree.map(lambda x, dx: x - 0.5 * dx, trainable, slope)
            gradients.append(slope)
            trainables.append(trainable)
        return Trained(start, frozen, trainables, gradients)

    return train_case


@every_case_but(STARTS_ELSEWHERE)
def test_it_starts_at_the_base_model_bit_for_bit(case, base, trained, batch):
    start = logits(trained(case).start, batch)
    np.testing.assert_array_equal(start, logits(base, batch))


@every_case
def test_gradient_reaches_every_trainable_leaf_and_no_other(case, trained):
    run = trained(case)
    marked = set()
    for path, is_trainable in tree.leaves(methods.mask(run.start, CASES[case])).items():
        if is_trainable:
            marked.add(path)
    # The second step's, because LoRA's A waits for B to leave zero.
    gradients = tree.leaves(run.gradients[1])
    assert set(gradients) == marked
    for path, leaf in gradients.items():
        has_gradient = float(jnp.linalg.norm(leaf)) > 1e-5
        is_expected = not re.search(WITHOUT_GRADIENT, path)
        assert has_gradient == is_expected, path


def test_b_moves_first_and_a_after_it(trained):
    run = trained("lora")
    for path, leaf in tree.leaves(run.gradients[0]).items():
        has_gradient = bool(jnp.any(leaf != 0))
        assert has_gradient != path.endswith("lora_a"), path


@every_case
def test_everything_trainable_moves_and_the_frozen_bytes_stay(case, trained, same):
    run = trained(case)
    start = tree.leaves(run.start)
    for path, leaf in tree.leaves(run.trainables[-1]).items():
        has_moved = not np.array_equal(leaf, start[path])
        assert has_moved or re.search(WITHOUT_GRADIENT, path), path
    trainable, frozen = split(run.end, case)
    assert same(frozen, run.frozen)
    assert not same(trainable, run.trainables[0])


@every_case
def test_merged_is_the_trained_model_and_not_the_base(case, base, trained, batch, same):
    run = trained(case)
    before = jax.tree.map(jnp.copy, run.end)
    merged = methods.merge(run.end)
    if case in NOT_MERGED:
        assert same(merged, run.end)
    else:
        assert jax.tree.structure(merged) == jax.tree.structure(base)
    merged_logits = logits(merged, batch)
    assert_close(merged_logits, logits(run.end, batch))
    change = np.abs(merged_logits - logits(base, batch))
    assert change.max() > 0.01
    # The model passed in is not changed, and a merged one merges to itself.
    assert same(run.end, before)
    assert same(methods.merge(merged), merged)


@every_case
def test_unload_gives_the_base_layers_back_bit_for_bit(case, base, trained, same):
    run = trained(case)
    assert same(methods.unload(run.start), base)
    unloaded = methods.unload(run.end)
    assert jax.tree.structure(unloaded) == jax.tree.structure(base)
    trainable = set()
    for path in tree.leaves(run.trainables[0]):
        # As the path is in the base, without adapters and in one stack.
        trainable.add(re.sub(r"base/|(?<=blocks/)last/", "", path))
    base_leaves = tree.leaves(base)
    for path, leaf in tree.leaves(unloaded).items():
        if path not in trainable:
            np.testing.assert_array_equal(leaf, base_leaves[path], err_msg=path)


@every_case
def test_several_adapters_over_one_base_in_one_call(case, trained, batch):
    run = trained(case)

    def forward_with(trainable):
        return forward(tree.merge(trainable, run.frozen), batch)

    stacked = tree.stack(run.trainables)
    together = compiled(jax.vmap(forward_with))(stacked)
    for one, trainable in zip(together, run.trainables, strict=True):
        model = tree.merge(trainable, run.frozen)
        assert_close(one, logits(model, batch))


@every_case
def test_the_scan_over_stacked_blocks_is_the_loop_over_blocks(case, trained, batch):
    model = trained(case).end
    context = AttentionContext(Visibility(stop=batch.length))
    x = model.embed(batch.tokens, batch.segments)
    for stack in stacks(model.blocks):
        for block in tree.unstack(stack):
            x = block(x, context)
    pooled = jnp.tanh(model.pooler(x[:, 0]))
    assert_close(model.head(pooled), logits(model, batch))


@every_case
def test_a_key_and_the_path_decide_the_start(case, base, trained, same):
    adapt = compiled(CASES[case].adapt)
    start = trained(case).start
    assert same(adapt(KEY, base), start)
    # Another key draws another adapter, if there is one to draw.
    draws_nothing = not methods.adapters(start)
    assert same(adapt(jax.random.key(2), base), start) == draws_nothing


@every_case
def test_a_trained_adapter_is_saved_and_comes_back(case, trained, same, tmp_path):
    run = trained(case)
    path = tmp_path / "adapter.safetensors"
    mask = methods.mask(run.start, CASES[case])
    path.write_bytes(adapter.dump(run.end, mask, {"seed": 1}))
    model, row = adapter.load(path, run.start, mask)
    assert same(model, run.end)
    assert row == {"seed": 1}


# Bits cannot be trained in full; tests/nn/test_dense.py has more of LoRA.
@every_case_but(["full", "lora everywhere", "lora padded", "lora one layer"])
def test_a_quantized_base_has_the_gradients_of_its_dequantized_one(case, base, batch):
    model = CASES[case].adapt(KEY, quant.quantize_model(base, "nf4"))
    trainable, frozen = split(model, case)
    for leaf in tree.leaves(trainable).values():
        assert leaf.dtype == jnp.float32
    ours = tree.leaves(gradient(trainable, frozen, batch))

    plain_parts = split(quant.dequantize_model(model), case)
    expected = tree.leaves(gradient(*plain_parts, batch))
    for path, leaf in ours.items():
        np.testing.assert_allclose(
            leaf, expected[path], rtol=1e-3, atol=1e-5, err_msg=path
        )


# What a person can add up, for width d = 16, f = 32, L = 2, 50 tokens, 24 positions, 2
# segments and 3 labels.
VECTORS = 4 * 16 + 32 + 16  # biases of a block: attention, up and down
NORM = 16  # a scale or a bias
MATRICES = 4 * 16 * 16 + 2 * 16 * 32  # of a block
BLOCK = MATRICES + VECTORS + 2 * 2 * NORM
EMBEDDINGS = (50 + 24 + 2) * 16
# Of the blocks and their two norms, the embedding's norm, and the pooler.
BIASES = 2 * (VECTORS + 2 * NORM) + NORM + 16
# Of rank 1, for a layer: query, key, value and output; up and down; embeddings, pooler.
ATTENTION = 4 * (16 + 16)
MLP = 2 * (16 + 32)
OUTSIDE = (50 + 24 + 2 + 3 * 16) + (16 + 16)
# The two projections of a bottleneck of 8, and their biases.
BOTTLENECK = 2 * 16 * 8 + 8 + 16
COUNTS = {
    "lora": 2 * 2 * 16 * 8 * 2,  # query and value: 2 L d r each
    "full": 2 * BLOCK + EMBEDDINGS + 2 * NORM + (16 * 16 + 16),
    "head": 0,  # it is counted apart
    "bitfit": BIASES,
    "top": 2 * BLOCK,
    "top one layer": BLOCK,
    "adapter_h": 2 * 2 * BOTTLENECK,  # in two places
    "adapter_l": 2 * (BOTTLENECK + 2 * NORM),  # in one place, with a norm
    "prefix": 2 * 10 * 16,
    "lora everywhere": 2 * (2 * (ATTENTION + MLP) + OUTSIDE) + BIASES,
    # Rank 3, though 8 are stored, and the biases of both layers.
    "lora padded": 2 * 2 * (2 * 16 * 3 + 16),
    # One layer, though two are stored.
    "lora one layer": 2 * (16 + 16) + 2 * (16 + 32),
}


@every_case
def test_counts_are_the_closed_formula(case, trained):
    head = 16 * 3 + 3
    expected = methods.Counts(COUNTS[case], head)
    assert methods.counts(trained(case).start, CASES[case]) == expected


def test_counts_of_full_fine_tuning_are_the_whole_model(base):
    assert sum(methods.counts(base, methods.full())) == tree.count(base)


def test_counts_need_no_arrays_but_the_scales(base):
    method = methods.lora(rank=2)
    model = method.adapt(KEY, base)
    scales = tree.find(model, "scale$")
    abstract = tree.replace(jax.eval_shape(lambda: model), scales)
    assert methods.counts(abstract, method) == methods.counts(model, method)


@pytest.mark.parametrize(
    "method", [methods.full(), methods.bitfit()], ids=["full", "bitfit"]
)
def test_the_head_is_trained_unless_excluded(method, base):
    head = {"head/kernel", "head/bias"}
    trainable, _ = tree.split(base, methods.mask(base, method))
    assert head <= set(tree.leaves(trainable))
    trainable, _ = tree.split(base, methods.mask(base, method, head=False))
    paths = set(tree.leaves(trainable))
    assert "pooler/bias" in paths
    assert not head & paths


def test_a_model_that_was_not_adapted_has_nothing_to_train(base):
    text = r"lora_\[ab\].* matches no leaf; there are: "
    with pytest.raises(ValueError, match=text):
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


def moved(model: Any, method: methods.Method, rng: np.random.Generator) -> Any:
    """Return the model with its trainable leaves moved at random."""
    trainable, frozen = tree.split(model, methods.mask(model, method))

    def move(leaf):
        return leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32)

    return tree.merge(jax.tree.map(move, trainable), frozen)


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("name", [name for name in methods.METHODS if name != "head"])
def test_an_adapted_decoder_computes_the_same_token_by_token(name, family):
    """In rows that are padded on the left, as generation has them."""
    module, config = DECODERS[family]
    method = methods.make(name, rank=2)
    base = module.init(jax.random.key(0), config)
    rng = np.random.default_rng(0)
    model = moved(method.adapt(KEY, base), method, rng)
    tokens = rng.integers(0, 50, (2, 6))
    length = np.array([6, 3])
    hidden = compiled(type(model).hidden)
    expected = hidden(model, tokens, length)
    change = np.abs(expected - hidden(base, tokens, length))
    assert change.max() > 0.1

    start = 6 - length  # index of each row's first token
    padded = np.stack([np.roll(tokens[row], start[row]) for row in (0, 1)])
    extend = compiled(type(model).extend)
    cache = model.cache(2, 8)
    for index in range(6):
        token = padded[:, index : index + 1]
        x, cache = extend(model, token, cache, index, start)
        for row in np.flatnonzero(start <= index):
            state = expected[row, index - start[row]]
            assert_close(x[row, 0], state, rtol=1e-4, atol=1e-4)


def test_a_decoder_has_no_head_that_could_be_trained_alone():
    module, config = DECODERS["llama"]
    decoder = module.init(jax.random.key(0), config)
    with pytest.raises(ValueError, match="head: expected a model with a head for lab"):
        methods.head().adapt(KEY, decoder)


class Stock(nnx.Module):
    """A model of flax's own layers, one of them called `value`, as a user's would be."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(7, 4, rngs=rngs)
        self.value = nnx.Linear(4, 6, rngs=rngs)
        middle = nnx.Linear(6, 5, rngs=rngs)
        last = nnx.Linear(5, 3, use_bias=False, rngs=rngs)
        self.layers = nnx.List([middle, last])

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = jnp.tanh(self.value(self.embed(tokens)))
        for layer in self.layers:
            x = layer(x)
        return x


STOCK = {
    "full": methods.full(),
    "bitfit": methods.bitfit(),
    "lora": methods.lora(r"value|layers/\d$|embed", 2),
}


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_model_of_stock_flax_layers_can_be_adapted(name, same):
    if name not in STOCK:
        pytest.skip("made for this library's own blocks")
    method = STOCK[name]
    model = Stock(nnx.Rngs(0))
    tokens = jnp.arange(7)
    adapted = compiled(method.adapt)(jax.random.key(0), model)
    # Outside of jit, where each operation is compiled by itself.
    np.testing.assert_array_equal(adapted(tokens), model(tokens))
    assert same(methods.unload(adapted), model)
    trainable, frozen = tree.split(adapted, methods.mask(adapted, method))

    def loss(trainable):
        outputs = tree.merge(trainable, frozen)(tokens)
        return jnp.sum((outputs - 1) ** 2)

    @compiled
    def step(trainable):
        slope = jax.grad(loss)(trainable)
        return jax.tree.map(lambda x, dx: x - 0.03 * dx, trainable, slope)

    after = step(step(trainable))
    leaves_after = tree.leaves(after)
    for path, leaf in tree.leaves(trainable).items():
        assert not np.array_equal(leaves_after[path], leaf)
    trained_model = tree.merge(after, frozen)
    outputs = trained_model(tokens)
    assert_close(methods.merge(trained_model)(tokens), outputs, atol=1e-6)
    assert np.abs(outputs - model(tokens)).max() > 1e-3


def test_make_takes_the_settings_that_a_method_knows(base):
    assert methods.make("bitfit", rank=3).name == "bitfit"
    model = methods.make("lora", rank=3, targets="key").adapt(KEY, base)
    assert list(methods.adapters(model)) == ["blocks/attention/key"]
    assert model.blocks.attention.key.lora_a.shape == (2, 16, 3)


def test_options_are_those_of_the_constructor():
    assert methods.options("bitfit") == ()
    assert methods.options("prefix") == ("prefix_length",)
    assert set(methods.INTERNAL_OPTIONS) <= set(methods.options("lora"))


def test_defaults_leave_internal_options_out():
    assert methods.defaults("top") == {"top_layers": 2}
    defaults = methods.defaults("lora")
    assert defaults["rank"] == 8
    assert not set(methods.INTERNAL_OPTIONS) & set(defaults)


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_option_has_a_help_text(name):
    text = inspect.getdoc(methods.METHODS[name])
    for option in methods.options(name):
        # One sentence in the Args section, in words that a flag's help can repeat.
        assert re.search(rf"^    {option}: [A-Z][^.]", text, re.MULTILINE), option


def test_bitfit_needs_biases():
    llama_model, _ = models.load("tiny-llama")
    text = "^bitfit: expected a model with biases, got one without any$"
    with pytest.raises(ValueError, match=text):
        methods.bitfit().adapt(KEY, llama_model)


def test_an_unknown_method_is_an_error_with_the_names():
    with pytest.raises(ValueError, match=r"method: expected one of lora, .*got 'lroa'"):
        methods.make("lroa")
    # All of them, the nearest first.
    with pytest.raises(ValueError, match=r"full.*bitfit|bitfit.*full"):
        methods.defaults("lroa")
