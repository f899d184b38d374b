"""Generation: its parts by hand, against a loop over whole texts, against all texts there are; what stops it, what it refuses."""

import functools
import importlib
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax import generation, methods, models, quant
from lora_jax.generation import next_token, prompts, sampling
from lora_jax.generation.generate import Decoding
from lora_jax.models.decoder import Decoder
from tests.models.test_decoder import forms
from tests.models.test_gpt2 import compiled
from tests.models.test_llama import adapted, tiny

module = importlib.import_module("lora_jax.generation.generate")
PROMPTS = [[1, 2, 3], [4], [5, 6, 5, 6, 5], [7, 8], list(range(23, 7, -1)) * 2]
NEW, END = 8, 0
logits = compiled(Decoder.__call__)


@pytest.fixture(autouse=True, scope="module")
def compiled_quickly():
    with pytest.MonkeyPatch.context() as patch:
        for name, static in (
            ("continue_prompts", ("decoding", "eos_ids", "compute_dtype")),
            ("_prepare", ("compute_dtype",)),
        ):
            patch.setattr(
                module,
                name,
                compiled(getattr(module, name).__wrapped__, static_argnames=static),
            )
        yield


def model() -> Decoder:
    """Of 40 positions, so that the longest prompt and what follows fill them."""
    return tiny(vocabulary=24, max_positions=40)


def texts(
    model: Decoder,
    how: Decoding = Decoding(NEW),  # noqa: B008
    **options: Any,
) -> list[list[int]]:
    return generation.generate(
        model, PROMPTS, how, **dict[str, Any](eos_ids=END, batch=2) | options
    ).tokens


def repeats(tokens: list[int], size: int) -> set[int]:
    """The tokens that would make an n-gram of that size a second time."""
    last = tokens[len(tokens) - size + 1 :]
    return {
        tokens[i + size - 1]
        for i in range(len(tokens) - size + 1)
        if tokens[i : i + size - 1] == last
    }


def written(
    model: Decoder, prompt: list[int], how: Decoding, end: int = END
) -> list[int]:
    """The likeliest token after each whole text."""
    tokens = list(prompt)
    for at in range(len(prompt), len(prompt) + how.new_tokens):
        row = np.zeros((1, model.config.max_positions), np.int32)
        row[0, :at] = tokens
        scores = np.array(logits(model, row, np.array([at]))[0, at - 1])
        if how.no_repeat:
            scores[list(repeats(tokens, how.no_repeat))] = -np.inf
        token = int(scores.argmax())
        if token == end:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


class TestParts:
    def test_rows_are_padded_on_the_left_and_repeated(self):
        tokens, start = prompts.pad_prompts([[7, 8, 9], [5]], 3, 100)
        assert tokens.shape == (3, 32) and start.tolist() == [29, 31, 29]
        assert tokens[:, 28:].tolist() == [[0, 7, 8, 9], [0, 0, 0, 5], [0, 7, 8, 9]]
        assert not tokens[:, :28].any()

    @pytest.mark.parametrize(
        "longest, room, width",
        [(1, 99, 32), (32, 99, 32), (33, 99, 64), (33, 40, 40), (3, 5, 5)],
    )
    def test_widths_are_few_and_leave_room(self, longest, room, width):
        assert prompts.pad_prompts([[1] * longest], 1, room)[0].shape == (1, width)

    @pytest.mark.parametrize(
        "tokens, text", [([3, 9, 4, 9], [3]), ([9], []), ([3, 4], [3, 4])]
    )
    def test_a_text_ends_before_its_first_end(self, tokens, text):
        assert module._cut_at_end(np.array(tokens), [9]) == text

    def test_speed_counts_the_ends_that_were_written(self):
        assert (
            generation.Generated(
                [[1, 2], [], [3, 4, 5]], ended=2, steps=3, seconds=2.0
            ).tokens_per_second
            == 3.5
        )

    def test_no_bigram_twice_by_hand(self):
        """After 1 2 1 2 1 there may be no 2; padding, the tokens before `start`, and what is not written yet do not count."""
        tokens = jnp.array([[1, 2, 1, 2, 1, 1, 3], [1, 0, 1, 3, 1, 1, 2]])
        found = next_token.forbid_repeats(
            jnp.zeros((2, 4)), tokens, jnp.array([0, 2]), 5, 2
        )
        inf = np.inf
        assert found.tolist() == [[0, 0, -inf, 0], [0, 0, 0, -inf]]
        for size in (0, tokens.shape[1] + 1):
            assert (
                next_token.forbid_repeats(
                    jnp.zeros((2, 4)), tokens, jnp.array([0, 2]), 5, size
                ).tolist()
                == [[0] * 4] * 2
            )

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.lists(st.integers(0, 3), min_size=9, max_size=9), min_size=2, max_size=2
        ),
        st.integers(0, 8),
        st.integers(1, 9),
        st.integers(1, 4),
    )
    def test_no_n_gram_twice(self, tokens, start, count, size):
        end = min(start + count, 9)
        found = banned(size)(
            jnp.zeros((2, 4)), jnp.array(tokens), jnp.full(2, start), end
        )
        for row, got in zip(tokens, found, strict=True):
            assert set(np.flatnonzero(np.isinf(got))) == repeats(row[start:end], size)


@functools.cache
def banned(size: int) -> Any:
    return compiled(
        lambda scores, tokens, start, end: next_token.forbid_repeats(
            scores, tokens, start, end, size
        )
    )


class TestChoice:
    """Of tokens with probabilities 0.5, 0.3 and 0.2, not in this order."""

    LOGITS = jnp.log(jnp.array([0.2, 0.5, 0.3]))
    ROWS = 6000

    def frequencies(
        self, *, temperature: float = 1.0, top_p: float = 1.0
    ) -> np.ndarray:
        how = Decoding(temperature=temperature, top_p=top_p)
        drawn = sampling.choose_token(
            jnp.tile(self.LOGITS, (self.ROWS, 1)), jax.random.key(0), how
        )
        return np.bincount(drawn, minlength=3) / self.ROWS

    @pytest.mark.parametrize(
        "settings", [{"top_p": 1e-6}, {"top_p": 0.49}, {"temperature": 1e-3}]
    )
    def test_as_good_as_greedy(self, settings):
        assert self.frequencies(**settings).tolist() == [0, 1, 0]

    @pytest.mark.parametrize(
        "settings, shares",
        [
            ({}, [0.2, 0.5, 0.3]),
            ({"top_p": 0.79}, [0, 0.5 / 0.8, 0.3 / 0.8]),
            ({"top_p": 0.81}, [0.2, 0.5, 0.3]),
            ({"temperature": 0.5}, [0.04 / 0.38, 0.25 / 0.38, 0.09 / 0.38]),
            (
                {"temperature": 0.5, "top_p": 0.7},
                [0, 0.25 / 0.34, 0.09 / 0.34],
            ),  # of the distribution that is drawn from
        ],
    )
    def test_frequencies(self, settings, shares):
        found = self.frequencies(**settings)
        np.testing.assert_allclose(
            found, shares, atol=4 * 0.5 / self.ROWS**0.5
        )  # four standard deviations
        assert (found[np.array(shares) == 0] == 0).all()

    def test_without_a_key_the_likeliest(self):
        assert sampling.choose_token(self.LOGITS[None], None, Decoding()).tolist() == [
            1
        ]


class TestGreedy:
    @pytest.mark.parametrize("size", [0, 2])
    def test_is_the_likeliest_token_after_each_whole_text(self, size):
        """Five prompts in batches of two, of 1 to 32 tokens, in the order they were given."""
        how = Decoding(NEW, no_repeat=size)
        wanted = [written(model(), prompt, how) for prompt in PROMPTS]
        assert texts(model(), how) == wanted
        assert (
            len({tuple(text) for text in wanted}) == 5 and max(map(len, wanted)) == NEW
        )

    def test_says_how_far_it_is(self):
        said = []
        texts(model(), report=said.append)
        assert said == [2, 4, 5]

    def test_stops_when_all_have_ended(self):
        whole = texts(model())[0]
        end = whole[2]
        found = generation.generate(
            model(), PROMPTS[:1], Decoding(NEW), eos_ids=end, batch=2
        )
        stop = whole.index(end)
        assert (
            found.tokens == [whole[:stop]]
            and found.steps == stop + 1 < NEW
            and found.ended == 1
        )
        assert generation.generate(
            model(), PROMPTS[:1], Decoding(NEW), eos_ids=END, batch=2
        ).ended == (len(whole) < NEW)

    def test_layers_in_two_stacks(self):
        assert texts(forms(model())["stacks"]) == texts(model())

    def test_adapted_and_merged(self):
        with_adapters = adapted(model(), "query,value,gate,tokens,lm_head")
        found = texts(with_adapters)
        assert found == texts(compiled(methods.merge)(with_adapters)) != texts(model())

    def test_quantised_and_dequantised(self):
        quantised = compiled(lambda model: quant.quantize_model(model, "nf4"))(model())
        assert quant.quantized_leaves(quantised)
        found = texts(quantised)
        assert found == texts(quant.dequantize_model(quantised)) != texts(model())

    def test_bfloat16(self):
        """Rounding may choose another token, but none that is far from the likeliest."""
        for prompt, text in zip(
            PROMPTS, texts(model(), compute_dtype="bfloat16"), strict=True
        ):
            row = np.zeros((1, 40), np.int32)
            row[0, : len(prompt + text)] = prompt + text
            scores = np.array(logits(model(), row, np.array([len(prompt + text)]))[0])
            short = [
                scores[at].max() - scores[at][token]
                for at, token in enumerate(text, len(prompt) - 1)
            ]
            assert short and max(short) < 0.02 * scores.std()
        half = generation.prepare(model(), "bfloat16")
        assert (
            half.lm_head.kernel.dtype
            == half.blocks[0].mlp.up.kernel.dtype
            == jnp.bfloat16
        )


class TestSampled:
    HOW = Decoding(NEW, temperature=1.0)

    def test_is_a_function_of_the_seed(self):
        one, again, other = (texts(model(), self.HOW, seed=seed) for seed in (0, 0, 1))
        assert one == again != other

    def test_rows_alike_are_drawn_apart(self):
        found = generation.generate(
            model(), [[1, 2, 3]] * 4, self.HOW, eos_ids=END, batch=2
        ).tokens
        assert len({tuple(text) for text in found}) > 2


class TestBeam:
    """A beam that holds all texts of three tokens out of five finds the best of them."""

    @pytest.mark.parametrize("penalty", [0.0, 2.0])
    def test_the_best_of_all_texts(self, penalty):
        model, prompts = (
            tiny(vocabulary=5, max_positions=40),
            [[1, 2], [3, 3], [4, 1], [2, 4]],
        )
        how = Decoding(3, beam=30, length_penalty=penalty)
        wanted = [self.best(model, prompt, penalty) for prompt in prompts]
        assert (
            generation.generate(model, prompts, how, eos_ids=END, batch=4).tokens
            == wanted
        )
        assert wanted != [written(model, prompt, how) for prompt in prompts], (
            "greedy finds them too: this shows nothing"
        )

    def best(self, model: Decoder, prompt: list[int], penalty: float) -> list[int]:
        every = np.array(list(itertools.product(range(5), repeat=3)))
        rows = np.concatenate([np.tile(prompt, (125, 1)), every], 1).astype(np.int32)
        logs = np.take_along_axis(
            np.asarray(jax.nn.log_softmax(logits(model, rows)))[:, 1:4],
            every[..., None],
            2,
        )
        scores = {}
        for text, each in zip(every.tolist(), logs[..., 0], strict=True):
            size = text.index(END) + 1 if END in text else 3
            scores[tuple(text[:size])] = each[:size].sum() / size**penalty
        return [
            token
            for token in max(scores, key=lambda text: scores[text])
            if token != END
        ]


class TestErrors:
    def test_all_wrong_settings_are_told_at_once(self):
        wrong = Decoding(
            new_tokens=0,
            beam=2.0,
            no_repeat=-1,
            length_penalty=math.nan,
            temperature="a",
            top_p=0.0,
        )  # pyright: ignore
        with pytest.raises(ValueError) as caught:
            generation.generate(model(), PROMPTS, wrong, eos_ids=END)
        assert str(caught.value) == (
            "new_tokens: expected a whole number, 1 or more tokens, got 0; "
            "beam: expected a whole number, 1 or more, got 2.0; "
            "no_repeat: expected a whole number, 0 (none) or more, got -1; "
            "length_penalty: expected a finite number, got nan; "
            "temperature: expected 0 (the likeliest token) or more, got a; "
            "top_p: expected in (0, 1], got 0.0"
        )
        with pytest.raises(ValueError, match=r"top_p: expected in \(0, 1\], got 1.5"):
            generation.check(Decoding(top_p=1.5))

    def test_a_beam_draws_nothing(self):
        said = (
            r"^temperature: expected 0 with a beam of 2, which draws nothing, got 1.0$"
        )
        with pytest.raises(ValueError, match=said):
            generation.check(Decoding(beam=2, temperature=1.0))

    def test_all_wrong_prompts_are_told_at_once(self):
        prompts = [[1], [], [24], [1, -1], [1] * 33, []]
        with pytest.raises(ValueError) as caught:
            generation.generate(model(), prompts, Decoding(NEW), eos_ids=END)
        assert str(caught.value) == (
            "expected prompts of 1 to 32 tokens that the model has, got 2 empty (the first: prompt 1); 2 with token ids outside "
            "0 … 23 (the first: prompt 2); 1 longer than 32 tokens (40 positions less 8 new tokens) (the first: prompt 4)"
        )

    def test_drawing_from_the_likeliest_needs_a_temperature(self):
        with pytest.raises(
            ValueError,
            match=r"^top_p: expected 1 with temperature 0, which draws nothing, got 0.5$",
        ):
            generation.check(Decoding(top_p=0.5))
        with pytest.raises(
            ValueError,
            match=r"^new_tokens: expected a whole number, 1 or more tokens, got 4.5$",
        ):
            generation.check(Decoding(new_tokens=4.5))

    @pytest.mark.parametrize(
        "prompts", [[5, 6], "hello", ["hello"], [[5.5, 6.0]], [[[1], [2]]], [[1, [2]]]]
    )
    def test_what_are_no_prompts(self, prompts):
        with pytest.raises(
            ValueError,
            match="expected prompts that are lists of token ids, one list each, got ",
        ):
            generation.generate(model(), prompts, Decoding(NEW), eos_ids=END)

    def test_more_new_tokens_than_positions(self):
        with pytest.raises(
            ValueError,
            match=r"^new_tokens: expected fewer new tokens than the model's 40 positions, got 40$",
        ):
            generation.generate(model(), PROMPTS, Decoding(40), eos_ids=END)

    @pytest.mark.parametrize("ends", [np.array([END, 3]), {END, 3}, np.int32(END)])
    def test_ends_of_any_kind(self, ends):
        assert texts(model(), eos_ids=ends) == texts(
            model(),
            eos_ids=[END, 3] if np.size(ends) > 1 or isinstance(ends, set) else END,
        )

    def test_rows_of_an_array_are_prompts(self):
        rows = np.array([[1, 2, 3], [4, 5, 6]])
        made = [
            generation.generate(model(), each, Decoding(NEW), eos_ids=END, batch=2)
            for each in (rows, rows.tolist())
        ]
        assert made[0].tokens == made[1].tokens

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"eos_ids": 999}, "eos_ids: expected token ids in 0 … 23, got 999"),
            ({"eos_ids": None}, "eos_ids: expected token ids in 0 … 23, got None"),
            ({"eos_ids": []}, "eos_ids: expected token ids in 0 … 23, got []"),
            ({"batch": 0}, "batch: expected 1 or more prompts, got 0"),
            (
                {"compute_dtype": "float3"},
                "compute_dtype: expected float32 or bfloat16, got 'float3'",
            ),
        ],
    )
    def test_what_does_not_go_with_the_model(self, options, text):
        with pytest.raises(ValueError) as caught:
            generation.generate(
                model(), PROMPTS, Decoding(NEW), **{"eos_ids": END, **options}
            )
        assert str(caught.value) == text

    def test_an_encoder_writes_nothing(self):
        with pytest.raises(
            ValueError, match=r"expected a language model \(gpt2, llama\), got Encoder"
        ):
            generation.generate(
                models.load("tiny")[0], PROMPTS, Decoding(NEW), eos_ids=END
            )

    def test_no_prompts(self):
        with pytest.raises(ValueError, match=r"that the model has, got none$"):
            generation.generate(model(), [], Decoding(NEW), eos_ids=END)
