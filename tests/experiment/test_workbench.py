"""Model, data and lengths that do not go together, and which tokens have a loss."""

import numpy as np
import pytest

from lora_jax import models
from lora_jax.experiment import Workbenches, presets

RUN = presets.NLG_SMOKE


@pytest.fixture(scope="module")
def benches():
    return Workbenches()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"model": "tiny"},
            "data: tiny-nlg is text to be generated, for a language model; tiny is an "
            "encoder",
        ),
        (
            {"data": "tiny"},
            "data: tiny has labels, for an encoder; tiny-llama is a language model, "
            "which learns from e2e, ",
        ),
        (
            {"max_length": 1025},
            "max_length: tiny-llama has positions for 1024 tokens, got 1025",
        ),
        ({"max_length": 40}, "rows are longer than max_length 40"),
        ({"new_tokens": 1018}, "longer than 6 tokens"),
    ],
)
def test_what_does_not_go_together_is_an_error(benches, changes, text):
    with pytest.raises(ValueError) as error:
        benches.bench(RUN.changed(**changes))
    assert text in str(error.value)


@pytest.mark.parametrize(("ids", "text"), [((), "none"), ((256, 999), "256, 999")])
def test_a_model_needs_an_end_token_of_its_own(ids, text, monkeypatch):
    model, tokenizer = models.load("tiny-llama")
    config = model.config._replace(eos_ids=ids)
    arguments = (model.embed, model.blocks, model.norm, model.lm_head)
    without = type(model)(*arguments, config=config)
    monkeypatch.setattr(Workbenches, "model", lambda *_: (without, tokenizer))
    message = (
        rf"expected a token in 0 … 256 that ends a text .*, tiny-llama has {text}$"
    )
    with pytest.raises(ValueError, match=message):
        Workbenches().bench(RUN)


@pytest.mark.parametrize("length", [0, "auto"])
def test_rows_are_as_long_as_the_longest(benches, length):
    bench = benches.bench(RUN.changed(max_length=length))
    lengths = [int(split.lengths.max()) for split in bench.encoded.values()]
    assert bench.widths[-1] == max(lengths)
    # Nothing else is another.
    bounded = benches.bench(RUN).encoded["train"]
    np.testing.assert_equal(bench.encoded["train"].tokens, bounded.tokens)


def test_columns_of_a_file_and_what_is_told_of_it(tmp_path, capsys):
    lines = ["Review;stars"]
    for number in range(60):
        lines.append(f"film {number};{number % 2}.0")
    path = tmp_path / "a.csv"
    path.write_text("\n".join(lines))
    changes = {"data": str(path), "text_column": "review", "label_column": "stars"}
    task = Workbenches().task(presets.SMOKE.changed(**changes))
    assert task.labels == ("0", "1")
    assert capsys.readouterr().err.splitlines() == [
        "a.csv: the fields are separated by a semicolon",
        "a.csv: labels with a decimal point are whole numbers, and are taken for 2 "
        "classes; --label-kind scores makes them scores",
    ]


def test_the_loss_can_be_on_the_source_too(benches):
    target = benches.bench(RUN.changed(loss_on="target")).encoded["train"]
    both = benches.bench(RUN.changed(loss_on="all")).encoded["train"]
    assert 0 < target.segments.mean() < 1 == both.segments.mean()
    assert (target.tokens == both.tokens).all()
