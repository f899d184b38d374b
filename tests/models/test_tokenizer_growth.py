"""A tokenizer.json that would make texts far longer, or random, is refused."""

import json

import pytest
from tokenizers import Tokenizer, models, normalizers

from lora_jax.models import tokenizer_trial
from lora_jax.models.tokenizer_growth import MAX_GROWTH

IDS = {"[UNK]": 0, "a": 1}
A, B = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
UNK = {"SpecialToken": {"id": "[UNK]", "type_id": 0}}


def replace(pattern: str, content: str, kind: str = "String") -> dict:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def sequence(name: str, *steps: dict) -> dict:
    return {"type": "Sequence", name: list(steps)}


def template(single: list, pair: list, ids: int = 1) -> dict:
    token = {"id": "[UNK]", "ids": [0] * ids, "tokens": ["[UNK]"] * ids}
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": pair,
        "special_tokens": {"[UNK]": token},
    }


def text_with(name: str, value: object) -> str:
    fields = json.loads(Tokenizer(models.BPE(IDS, [], unk_token="[UNK]")).to_str())
    part = fields["model"] if name == "dropout" else fields
    part[name] = value
    return json.dumps(fields)


TENFOLD = replace("e", "e" * 10)
LONG = {"type": "Prepend", "prepend": "x" * 40}
UNTYPED = {"pattern": {"String": "e"}, "content": "e" * 65}
REFUSED = [
    ("normalizer", replace("e", "e" * 65), "normalizer: .* 64 times .* got 65 times"),
    ("normalizer", UNTYPED, "got 65 times"),
    ("normalizer", replace("ab", "e" * 130), "got 65 times"),
    ("normalizer", replace(".", "e" * 65, "Regex"), "got 65 times"),
    ("normalizer", replace("", "e" * 64), "got 65 times"),
    ("normalizer", replace("x*", "e" * 64, "Regex"), "got 65 times"),
    (
        "normalizer",
        sequence("normalizers", TENFOLD, sequence("normalizers", TENFOLD)),
        r"normalizer.normalizers\[1\].normalizers\[0\]: .* got 100 times",
    ),
    (
        "normalizer",
        sequence("normalizers", LONG, LONG),
        r"normalizer.normalizers\[1\]: expected up to 64 characters .* got 80",
    ),
    (
        "decoder",
        sequence("decoders", TENFOLD, TENFOLD),
        r"decoder.decoders\[1\]: .* 100",
    ),
    ("post_processor", template([A, A], [A, B]), "single: .* A once, got A, A$"),
    ("post_processor", template([A] * 9, [A, B]), r"got A, .* \(9 in all\)"),
    ("post_processor", template([UNK], [A, B]), "single: .* got none"),
    ("post_processor", template([A], [A, B, B]), "pair: .* A and B once, got A, B, B"),
    ("post_processor", template([A], [A]), "pair: .* A and B once, got A$"),
    (
        "post_processor",
        template([{"Sequence": ["A", 0]}] * 2, [A, B]),
        "single: .* got A, A",
    ),
    ("post_processor", template([A, *[UNK] * 101], [A, B]), "100 special .* got 101"),
    ("post_processor", template([A, UNK, UNK], [A, B], 51), "100 special .* got 102"),
    (
        "post_processor",
        sequence("processors", template([A, A], [A, B])),
        r"post_processor.processors\[0\].single: ",
    ),
    ("dropout", 0.5, "model.dropout: expected null or 0, got 0.5"),
    ("dropout", 1e-3, "model.dropout: expected null or 0, got 0.001"),
]


@pytest.mark.parametrize("name, value, message", REFUSED)
def test_is_refused_before_the_library_has_it(name, value, message):
    text = text_with(name, value)
    with pytest.raises(ValueError, match=f"^tokenizer.json: .*{message}"):
        tokenizer_trial.parse(text)
    # JSON may spell the same letters as numbers.
    hidden = text.replace('"p', '"\\u0070').replace('"s', '"\\u0073')
    hidden = hidden.replace('"d', '"\\u0064')
    with pytest.raises(ValueError, match=f"^tokenizer.json: .*{message}"):
        tokenizer_trial.parse(hidden)


SPACES = [replace(r"\s+", " ", "Regex"), replace(" {2,}", "▁", "Regex")]
ACCEPTED = [
    # Llama's, Gemma's, ALBERT's and CLIP's; the last one grows as far as it may.
    ("normalizer", sequence("normalizers", {"prepend": "▁"}, replace(" ", "▁"))),
    ("normalizer", sequence("normalizers", replace("``", '"'), *SPACES * 20)),
    ("normalizer", replace("e", "e" * MAX_GROWTH)),
    ("decoder", sequence("decoders", replace("▁", " "), {"type": "Fuse"})),
    ("post_processor", template([UNK, A, UNK], [UNK, A, UNK, UNK, B, UNK])),
    ("dropout", None),
    ("dropout", 0.0),
]


@pytest.mark.parametrize("name, value", ACCEPTED)
def test_usual_steps_are_read(name, value):
    assert tokenizer_trial.parse(text_with(name, value)).encode("a").ids


def test_the_library_puts_content_where_nothing_matches():
    # So an expression that may match nothing counts one more than its content.
    step = normalizers.Replace("", "bb")
    assert step.normalize_str("aaaa") == "bbabbabbabbabb"
