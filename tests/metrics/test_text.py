"""Scores of generated texts: the official ones of E2E outputs, and those by hand."""

import json
import math
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax.metrics import rouge, text

FIXTURES = Path(__file__).parents[1] / "fixtures"
# 80 outputs, their references, and what the official script scores them.
E2E = json.loads((FIXTURES / "e2e_outputs.json").read_text(encoding="utf-8"))
# Without those that take seconds.
FAST = [name for name in text.METRICS if name not in ("meteor", "ter")]


def one(name: str, output: str, *references: str) -> float:
    return text.score([name], [output], [list(references)])[name]


@pytest.mark.parametrize(
    "name", ["bleu", "nist", "rouge_l", "cider", "rouge_1", "rouge_2"]
)
def test_the_official_scores_of_80_outputs(name):
    scores = text.score([name], E2E["outputs"], E2E["references"])
    assert scores == {name: pytest.approx(E2E["scores"][name], abs=1e-4)}


@pytest.mark.real
@pytest.mark.skipif(not shutil.which("java"), reason="METEOR is a Java program")
def test_the_official_meteor_of_80_outputs():
    scores = text.score(["meteor"], E2E["outputs"], E2E["references"])
    assert scores == {"meteor": pytest.approx(E2E["scores"]["meteor"], abs=1e-4)}


def test_bleu_by_hand():
    # 5 of 6 words, 4 of 5 pairs, 3 of 4 triples, 2 of 3 fours, and the nearest
    # reference is as long.
    expected = (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** (1 / 4)
    score = one("bleu", "the cat sat on a bed", "The cat sat on a mat", "dogs")
    assert score == pytest.approx(expected)


def test_bleu_without_a_common_run_of_four_words_is_0():
    assert one("bleu", "the cat sat on a mat", "the cat sat in a mat") == 0


def test_bleu_of_a_short_output_is_penalized_against_the_nearest_reference():
    score = one("bleu", "a b c d", "a b c d e f", "a b c d e f g h i")
    assert score == pytest.approx(math.exp(1 - 6 / 4))


def test_nist_by_hand():
    # 4 reference words: a twice (1 bit), b and c once (2 bits); "a b" and "a c" are
    # half of what follows an a (1 bit).
    assert one("nist", "a b", "a b", "a c") == pytest.approx((1 + 2) / 2 + 1)


def test_nist_of_two_thirds_of_the_words_is_halved():
    # 3 words of log2(3) bits; each bigram is certain once its first word is known.
    assert one("nist", "a b", "a b c") == pytest.approx(math.log2(3) / 2)


def test_rouge_n_by_hand():
    # 2 of 3 words against 2 of 4; bigrams: 1 of 2 against 1 of 3.
    texts = ("the cat sat", "The cat, it ran.", "x")
    assert one("rouge_1", *texts) == pytest.approx(2 * 2 / (3 + 4))
    assert one("rouge_2", *texts) == pytest.approx(2 * 1 / (2 + 3))


def test_rouge_l_takes_precision_and_recall_of_different_references():
    # "a c" is 2 of the output's 3 words; "b" is the whole of the second reference.
    precision, recall = 2 / 3, 1
    expected = 2.44 * precision * recall / (recall + 1.44 * precision)
    assert one("rouge_l", "a b c", "a x c x x", "b") == pytest.approx(expected)


@settings(deadline=None)
@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_the_common_subsequence_is_as_long_as_the_table_says(a, b):
    # table[i][j]: of the first i letters of a and the first j of b.
    table = [[0] * (len(b) + 1)]
    for x in a:
        row = [0]
        for j, y in enumerate(b):
            length = max(table[-1][j + 1], row[j])
            if x == y:
                length = max(length, table[-1][j] + 1)
            row.append(length)
        table.append(row)
    assert rouge._common_length(list(a), list(b)) == table[-1][-1]


def test_cider_by_hand():
    # A word of one row of two weighs log 2, one of both nothing. Row 1: "a" of "a b", a
    # word too few; no longer n-gram.
    expected = 10 * 1 / math.sqrt(2) * math.exp(-1 / 72) / 4 / 2
    scores = text.score(["cider"], ["a", "x"], [["a b"], ["p q"]])
    assert scores["cider"] == pytest.approx(expected)
    scores = text.score(["cider"], ["a z", "x z"], [["a b z"], ["p q z"]])
    assert scores["cider"] == pytest.approx(expected)
    assert one("cider", "a b", "a b") == 0


def test_cider_does_not_reward_a_repeated_word():
    scores = text.score(["cider"], ["a a", "x"], [["a b"], ["p q"]])
    expected = 10 * (1 * 1 / (2 * math.sqrt(2))) / 4 / 2
    assert scores["cider"] == pytest.approx(expected)


def test_ter_counts_a_shift_as_one_edit():
    assert one("ter", "b a c d", "a b c d") == pytest.approx(1 / 4)
    assert one("ter", "a b x x x x", "a b", "a") == pytest.approx(4 / 1.5)


def test_chrf_by_hand():
    # Characters: 3 of 4 and 3 of 4; pairs 2 of 3; triples 1 of 2; fours 0 of 1; there
    # are no longer ones.
    expected = (3 / 4 + 2 / 3 + 1 / 2 + 0) / 4
    assert one("chrf", "abcx", "abcd") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("SELECT  Name FROM t WHERE No. = '3';", "select name\nfrom T where no.='3'"),
        (
            'SELECT a FROM t WHERE b = "New York"',
            "SELECT a FROM t WHERE b = 'New York' ;",
        ),
        ("SELECT COUNT(a) FROM t WHERE b>=3", "select count ( a ) from t where b >= 3"),
        (
            "SELECT a FROM t WHERE b = 'Women's 100m'",
            'select a from t where b = "Women\'s 100m"',
        ),
        ("SELECT a FROM t WHERE b = ''", 'select a from t where b = ""'),
    ],
)
def test_sql_that_says_the_same_is_an_exact_match(a, b):
    assert one("exact_match", a, b) == 1


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (
            "SELECT a FROM t WHERE b = 'new york'",
            "SELECT a FROM t WHERE b = 'New York'",
        ),
        ("SELECT a FROM t WHERE b = 'x  y'", "SELECT a FROM t WHERE b = 'x y'"),
        ("SELECT a FROM t WHERE b > 3", "SELECT a FROM t WHERE b >= 3"),
        ("SELECT a b FROM t", "SELECT ab FROM t"),
        ("SELECT a FROM t WHERE b = '3'", "SELECT a FROM t WHERE b = 3"),
        ("", "SELECT a FROM t"),
    ],
)
def test_sql_that_says_something_else_is_not(a, b):
    assert one("exact_match", a, b) == 0


def test_exact_match_is_the_share_of_outputs_with_any_reference():
    scores = text.score(["exact_match"], ["a", "b"], [["x", "A"], ["c"]])
    assert scores == {"exact_match": 0.5}


WORDS = ["the", "Blue", "Pot", "is", "cheap,", "near", "5", "rivers."]
TEXT = st.lists(st.sampled_from(WORDS), min_size=5, max_size=9).map(" ".join)
ROWS = st.lists(
    st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3)), min_size=1, max_size=4
)


@settings(max_examples=50, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_an_output_that_is_one_of_its_references_is_perfect(rows, random):
    references = [texts for _, texts in rows]
    outputs = [random.choice(texts) for texts in references]
    names = ["bleu", "rouge_1", "rouge_2", "rouge_l", "chrf", "exact_match", "ter"]
    scores = text.score(names, outputs, references)
    assert scores == {**dict.fromkeys(names, pytest.approx(1)), "ter": 0}


@settings(max_examples=50, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_no_score_depends_on_the_order_of_rows_or_references(rows, random):
    shuffled = []
    for output, texts in random.sample(rows, len(rows)):
        shuffled.append((output, random.sample(texts, len(texts))))

    def score(rows):
        outputs, references = map(list, zip(*rows, strict=True))
        return text.score([*FAST, "ter"], outputs, references)

    assert score(rows) == pytest.approx(score(shuffled), rel=1e-9)


def test_empty_outputs_score_nothing():
    scores = text.score([*FAST, "ter"], ["", " "], [["a b c d e"], ["."]])
    assert scores == {**dict.fromkeys(FAST, 0), "ter": 1}


def test_an_empty_output_among_others_lowers_every_score():
    outputs, references = E2E["outputs"][:20], E2E["references"][:20]
    full = text.score(FAST, outputs, references)
    less = text.score(FAST, [*outputs[:19], ""], references)
    # The output was no exact match before either, if it is none of its references.
    names = list(FAST)
    if outputs[19] not in references[19]:
        names.remove("exact_match")
    assert [name for name in FAST if less[name] < full[name]] == names


@pytest.mark.parametrize(
    ("names", "outputs", "references", "message"),
    [
        (
            ["blue"],
            ["a"],
            [["a"]],
            "expected metrics out of bleu, nist, .*, got blue; is bleu meant",
        ),
        (["bleu"], [], [], r"expected outputs \[N\] and references \[N\], got 0 and 0"),
        (["bleu"], ["a", "b"], [["a"]], "got 2 and 1"),
        (
            ["bleu"],
            ["a", "b", "c"],
            [["a"], [], []],
            r"2 of 3 rows have none, such as row 1 with \[\]",
        ),
        (
            ["bleu"],
            ["a"],
            [["", " "]],
            r"not blank; 1 of 1 rows have none, such as row 0 with \['', ' '\]",
        ),
        (
            ["bleu"],
            ["a"],
            ["a"],
            "expected for each output a list of references .* row 0 with 'a'",
        ),
    ],
)
def test_score_refuses(names, outputs, references, message):
    with pytest.raises(ValueError, match=message):
        text.score(names, outputs, references)


def test_notes_are_of_metrics_and_say_where_a_score_differs():
    assert {name for name in text.METRICS if text.note(name)} == {
        "rouge_1",
        "rouge_2",
        "ter",
    }
    assert "mean over texts" in (text.note("ter") or "")
