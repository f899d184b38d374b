"""`generate`: the likeliest tokens, against a loop without a cache; its arguments."""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import generation, methods, models, quant
from lora_jax.generation import Decoding
from lora_jax.models.decoder import Decoder
from tests.generation.greedy import END, NEW, PROMPTS, likeliest_text, small_model
from tests.models.small_decoders import logits, with_adapters
from tests.models.test_decoder import forms

# `generation.generate` is the function.
module = importlib.import_module("lora_jax.generation.generate")
GREEDY = Decoding(NEW)


def texts(
    model: Decoder, decoding: Decoding = GREEDY, **changes: Any
) -> list[list[int]]:
    options: dict[str, Any] = {"eos_ids": END, "batch": 2} | changes
    return generation.generate(model, PROMPTS, decoding, **options).tokens


class TestParts:
    @pytest.mark.parametrize(
        "tokens, text", [([3, 9, 4, 9], [3]), ([9], []), ([3, 4], [3, 4])]
    )
    def test_a_text_ends_before_its_first_end(self, tokens, text):
        assert module._cut_at_end(np.array(tokens), [9]) == text

    def test_speed_counts_the_ends_that_were_written(self):
        tokens = [[1, 2], [], [3, 4, 5]]
        written = generation.Generated(tokens, ended=2, steps=3, seconds=2.0)
        assert written.tokens_per_second == 3.5


class TestGreedy:
    @pytest.mark.parametrize("size", [0, 2])
    def test_is_the_likeliest_token_after_each_text(self, size):
        """Five prompts in batches of two, of 1 to 32 tokens, in their own order."""
        decoding = Decoding(NEW, no_repeat=size)
        model = small_model()
        expected = [likeliest_text(model, prompt, decoding) for prompt in PROMPTS]
        assert texts(model, decoding) == expected
        assert len({tuple(text) for text in expected}) == 5
        assert max(len(text) for text in expected) == NEW

    def test_reports_how_many_prompts_are_done(self):
        done = []
        texts(small_model(), report=done.append)
        assert done == [2, 4, 5]

    def test_stops_when_all_have_ended(self):
        full = texts(small_model())[0]
        end = full[2]
        stop = full.index(end)
        written = generation.generate(
            small_model(), PROMPTS[:1], GREEDY, eos_ids=end, batch=2
        )
        assert written.tokens == [full[:stop]]
        assert written.steps == stop + 1 < NEW
        assert written.ended == 1

    def test_counts_the_texts_that_ended(self):
        full = texts(small_model())[0]
        written = generation.generate(
            small_model(), PROMPTS[:1], GREEDY, eos_ids=END, batch=2
        )
        assert written.ended == (len(full) < NEW)

    def test_rows_of_an_array_are_prompts(self):
        rows = np.array([[1, 2, 3], [4, 5, 6]])
        written = []
        for prompts in (rows, rows.tolist()):
            result = generation.generate(
                small_model(), prompts, GREEDY, eos_ids=END, batch=2
            )
            written.append(result.tokens)
        assert written[0] == written[1]


class TestModels:
    def test_layers_in_two_stacks(self):
        in_two_stacks = forms(small_model())["stacks"]
        assert texts(in_two_stacks) == texts(small_model())

    def test_adapted_and_merged(self):
        adapted = with_adapters(small_model(), "query,value,gate,tokens,lm_head")
        merged = jax.jit(methods.merge)(adapted)
        written = texts(adapted)
        assert written == texts(merged)
        assert written != texts(small_model())

    def test_quantized_and_dequantized(self):
        quantize = jax.jit(lambda model: quant.quantize_model(model, "nf4"))
        quantized = quantize(small_model())
        assert quant.quantized_leaves(quantized)
        written = texts(quantized)
        assert written == texts(quant.dequantize_model(quantized))
        assert written != texts(small_model())

    def test_bfloat16(self):
        """Rounding may choose another token, but none far from the likeliest."""
        model = small_model()
        written = texts(model, compute_dtype="bfloat16")
        for prompt, text in zip(PROMPTS, written, strict=True):
            length = len(prompt) + len(text)
            row = np.zeros((1, 40), np.int32)
            row[0, :length] = prompt + text
            scores = np.array(logits(model, row, np.array([length])))[0]
            gaps = []
            for index, token in enumerate(text, len(prompt) - 1):
                gaps.append(scores[index].max() - scores[index][token])
            assert gaps
            assert max(gaps) < 0.02 * scores.std()

    def test_a_prepared_model_has_the_dtype_of_computation(self):
        half = generation.prepare(small_model(), "bfloat16")
        assert half.lm_head.kernel.dtype == jnp.bfloat16
        assert half.blocks[0].mlp.up.kernel.dtype == jnp.bfloat16


class TestArguments:
    @pytest.mark.parametrize("eos_ids", [np.array([END, 3]), {END, 3}])
    def test_several_end_tokens_of_any_kind(self, eos_ids):
        assert texts(small_model(), eos_ids=eos_ids) == texts(
            small_model(), eos_ids=[END, 3]
        )

    def test_an_end_token_of_numpy(self):
        assert texts(small_model(), eos_ids=np.int32(END)) == texts(small_model())

    @pytest.mark.parametrize(
        "options, text",
        [
            ({"eos_ids": 999}, "eos_ids: expected token ids in 0 … 23, got 999"),
            ({"eos_ids": None}, "eos_ids: expected token ids in 0 … 23, got None"),
            ({"eos_ids": []}, "eos_ids: expected token ids in 0 … 23, got []"),
            ({"batch": 0}, "batch: expected 1 or more prompts, got 0"),
            (
                {"compute_dtype": "float3"},
                "compute_dtype: expected one of float32, bfloat16, bfloat16_activations, got 'float3'",
            ),
            (
                {"batch": 0, "eos_ids": 24},
                "eos_ids: expected token ids in 0 … 23, got 24; "
                "batch: expected 1 or more prompts, got 0",
            ),
        ],
    )
    def test_what_does_not_fit_the_model(self, options, text):
        with pytest.raises(ValueError) as caught:
            texts(small_model(), **options)
        assert str(caught.value) == text

    def test_settings_and_prompts_are_checked(self):
        with pytest.raises(ValueError, match="top_p: expected"):
            texts(small_model(), Decoding(top_p=2.0))
        with pytest.raises(ValueError, match="got none"):
            generation.generate(small_model(), [], GREEDY, eos_ids=END)

    def test_an_encoder_writes_nothing(self):
        encoder, _ = models.load("tiny")
        message = r"expected a language model \(gpt2, llama\), got Encoder"
        with pytest.raises(ValueError, match=message):
            texts(encoder)
