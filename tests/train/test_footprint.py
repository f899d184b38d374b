"""The full moments of a step by hand, and what each setting changes of them."""

from typing import Any

import jax
import pytest

from lora_jax import methods, quant, train, tree
from lora_jax.accounting.step_memory import split_shapes
from lora_jax.train import footprint
from lora_jax.train.block_memory import cast_matrices, copied_matrices, one_block
from lora_jax.train.footprint import Moment, moments, unscaled_gradients
from lora_jax.train.step_shape import StepShape, step_shape
from tests.accounting.encoders import split_encoder
from tests.models import small_decoders

ROWS, LENGTH = 2, 8
TOKENS = ROWS * LENGTH
LLAMA = small_decoders.LLAMA  # of width 16, ffn 24, 50 tokens, and a head of its own
# Of a block: query and output, key and value, and the three of the MLP.
MATRICES = 2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 24
QUERY = methods.lora("query", 3)
ADAPTER = 4 * 3 * (16 + 16)  # A and B of a block, in float32


def config(**settings: Any) -> train.StepConfig:
    return train.StepConfig(**{"remat": "block", "backend": "gpu", **settings})


def llama(method: methods.Method = QUERY, **settings: Any) -> tuple[Any, Any]:
    dtype = settings.get("compute_dtype", "float32")
    return split_shapes(small_decoders.shapes(LLAMA), method, dtype)


def shape_of(method: methods.Method = QUERY, **settings: Any) -> StepShape:
    split = llama(method, **settings)
    return step_shape(*split, config(**settings), rows=ROWS, length=LENGTH)


def full_moments(method: methods.Method = QUERY, **settings: Any) -> list[Moment]:
    split = llama(method, **settings)
    return moments(*split, config(**settings), rows=ROWS, length=LENGTH)


class TestByHand:
    def test_the_backward_pass_of_a_decoder_on_a_gpu(self):
        block, _ = full_moments()
        kept = 2 * 16  # the input of both blocks
        anew = (
            16 + 2 * 8  # query, key and value
            + 2 * 16  # inputs of the norms
            + 2 * 24  # what gate and up return
            + 16  # the input of the adapted layer
            + 3  # between A and B
            + 2 * 4 * 8 + 2 * 4  # scores, and lines of them
        )  # fmt: skip
        gradients = 2 * 24 + 16  # of the activation's output and input, and the block's
        masked = 5 * 4 * 8  # a boolean and a float32 for each score
        per_token = 4 * (kept + anew + gradients) + masked
        assert block.activations == TOKENS * per_token + 4 * MATRICES
        assert block.copies == 0
        assert block.gradients == 2 * ADAPTER

    def test_the_loss_of_a_decoder(self):
        _, loss = full_moments()
        logits = TOKENS * 50  # one chunk holds them all
        states = 3 * TOKENS * 16
        kept = 2 * TOKENS * 16
        assert loss.activations == 4 * (kept + 2 * logits + states)
        # 50 is no multiple of 64.
        assert loss.copies == 2 * 4 * 50 * 16
        _, on_cpu = full_moments(backend="cpu")
        assert on_cpu.activations == 4 * (kept + 3 * logits + states)
        # The head is no transpose of the embedding.
        assert on_cpu.copies == 0

    def test_a_trained_head_is_summed_twice(self):
        block, loss = full_moments(methods.full())
        head = 4 * 50 * 16
        everything = tree.nbytes(llama(methods.full())[0])
        assert block.gradients == everything
        of_blocks = everything - 2 * head - 4 * 16  # embedding, head and last norm
        assert loss.gradients == 2 * head + of_blocks

    def test_an_encoder_has_no_loss_over_a_vocabulary(self):
        split = split_encoder(QUERY, layers=3)
        only = moments(*split, config(), rows=ROWS, length=LENGTH)
        assert len(only) == 1
        # All but the last block are cut off their stacks.
        matrices = 4 * 64 * 64 + 2 * 64 * 256
        assert only[0].copies == 4 * 2 * matrices


class TestSettings:
    def test_the_less_is_computed_anew_the_more_is_kept(self):
        def activations(remat):
            return full_moments(remat=remat)[0].activations

        assert activations("block") < activations("products")

    def test_bfloat16_activations_halve_what_a_gpu_keeps_and_not_what_a_cpu_does(self):
        narrow: Any = {"compute_dtype": "bfloat16_activations"}
        assert shape_of(**narrow).kept_bytes == 2
        assert shape_of(**narrow, backend="cpu").kept_bytes == 4

    def test_a_cpu_converts_stacks_of_bfloat16(self):
        narrow: Any = {"compute_dtype": "bfloat16"}
        assert copied_matrices(shape_of(**narrow)) == 0
        assert copied_matrices(shape_of(**narrow, backend="cpu")) == 4 * 2 * MATRICES
        assert copied_matrices(shape_of(backend="cpu")) == 0

    def test_trained_matrices_are_cast(self):
        narrow = shape_of(methods.full(), compute_dtype="bfloat16")
        assert cast_matrices(narrow) == copied_matrices(narrow) == 2 * 2 * MATRICES
        assert cast_matrices(shape_of(methods.full())) == 0

    def test_two_dequantized_matrices_exist_at_a_time(self):
        nf4 = quant.find_spec("nf4")
        model = jax.eval_shape(
            lambda model: quant.quantize_model(model, nf4), small_decoders.shapes(LLAMA)
        )
        split = split_shapes(model, QUERY, "float32")
        step = step_shape(*split, config(), rows=ROWS, length=LENGTH)
        plain = one_block(shape_of())
        # Two of the MLP's three instead of all seven.
        assert plain - one_block(step) == 4 * (MATRICES - 2 * 16 * 24)
        assert copied_matrices(step) == 0

    def test_gradients_of_matrices_have_the_dtype_of_products(self):
        trainable, _ = llama(methods.full())
        leaves = tree.leaves(trainable)
        everything = tree.nbytes(trainable)
        assert unscaled_gradients(leaves, 4) == everything
        assert unscaled_gradients(leaves, 2) == everything - 2 * 2 * MATRICES

    def test_chunks_of_attention_keep_no_scores(self):
        plain, chunked = (
            full_moments(remat="none", attention=attention)[0].activations
            for attention in ("plain", "chunked")
        )
        scores = 2 * (2 * 4 * 8 + 2 * 4)  # of both blocks
        assert plain - chunked == TOKENS * 4 * scores


def test_the_fullest_moment_has_the_largest_total():
    split = llama()
    full = moments(*split, config(), rows=ROWS, length=LENGTH)
    fullest = footprint.fullest(*split, config(), rows=ROWS, length=LENGTH)
    assert fullest in full
    assert fullest.total == max(moment.total for moment in full)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_tied_head_is_laid_out_on_a_cpu_unless_a_single_row_reads_it(rows):
    tied = small_decoders.shapes(LLAMA._replace(tie_embeddings=True))
    split = split_shapes(tied, QUERY, "float32")
    _, loss = moments(*split, config(backend="cpu"), rows=rows, length=LENGTH)
    assert loss.copies == (4 * 50 * 16 if rows > 1 else 0)
