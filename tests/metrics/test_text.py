import json
import math
import shutil
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax import download
from lora_jax.metrics import meteor, rouge, text, words

E2E = json.loads(
    Path(__file__)
    .parents[1]
    .joinpath("fixtures")
    .joinpath("e2e_outputs.json")
    .read_text(encoding="utf-8")
)
FAST = [name for name in text.METRICS if name not in ("meteor", "ter")]


def one(name: str, output: str, *references: str) -> float:
    return text.score([name], [output], [list(references)])[name]


@pytest.mark.parametrize(
    "name", ["bleu", "nist", "rouge_l", "cider", "rouge_1", "rouge_2"]
)
def test_the_official_scores_of_80_outputs(name):
    got = text.score([name], E2E["outputs"], E2E["references"])
    assert got == {name: pytest.approx(E2E["scores"][name], abs=1e-4)}


@pytest.mark.real
@pytest.mark.skipif(not shutil.which("java"), reason="METEOR is a Java program")
def test_the_official_meteor_of_80_outputs():
    got = text.score(["meteor"], E2E["outputs"], E2E["references"])
    assert got == {"meteor": pytest.approx(E2E["scores"]["meteor"], abs=1e-4)}


def test_mteval_splits_signs_but_not_numbers():
    assert words.mteval_words("It's £20.50, &amp; low-cost.") == [
        "it's",
        "£20.50",
        ",",
        "&",
        "low-cost",
        ".",
    ]


def test_ptb_splits_clitics_and_drops_punctuation():
    text = "It isn't The Punter's; they’re family-friendly (low), 3.5 £20!"
    rest = [
        "the",
        "punter",
        "'s",
        "they",
        "'re",
        "family-friendly",
        "(",
        "low",
        ")",
        "3.5",
        "#",
        "20",
    ]
    assert words.ptb_words(text) == ["it", "is", "n't", *rest]


def test_bleu_by_hand():
    # 5 of 6 words, 4 of 5 pairs, 3 of 4 triples, 2 of 3 fours, and the nearest reference is as long.
    expected = (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** (1 / 4)
    assert one(
        "bleu", "the cat sat on a bed", "The cat sat on a mat", "dogs"
    ) == pytest.approx(expected)


def test_bleu_without_a_common_run_of_four_words_is_0():
    assert one("bleu", "the cat sat on a mat", "the cat sat in a mat") == 0


def test_bleu_of_a_short_output_is_penalised_against_the_nearest_reference():
    assert one("bleu", "a b c d", "a b c d e f", "a b c d e f g h i") == pytest.approx(
        math.exp(1 - 6 / 4)
    )


def test_nist_by_hand():
    # 4 reference words: a twice (1 bit), b and c once (2 bits); "a b" and "a c" are half of what follows an a (1 bit).
    assert one("nist", "a b", "a b", "a c") == pytest.approx((1 + 2) / 2 + 1)


def test_nist_of_two_thirds_of_the_words_is_halved():
    # 3 words of log2(3) bits; each bigram is certain once its first word is known.
    assert one("nist", "a b", "a b c") == pytest.approx(math.log2(3) / 2)


def test_rouge_n_by_hand():
    # 2 of 3 words against 2 of 4; bigrams: 1 of 2 against 1 of 3.
    assert one("rouge_1", "the cat sat", "The cat, it ran.", "x") == pytest.approx(
        2 * 2 / (3 + 4)
    )
    assert one("rouge_2", "the cat sat", "The cat, it ran.", "x") == pytest.approx(
        2 * 1 / (2 + 3)
    )


def test_rouge_l_takes_precision_and_recall_of_different_references():
    # "a c" is 2 of the output's 3 words; "b" is the whole of the second reference.
    precision, recall = 2 / 3, 1
    expected = 2.44 * precision * recall / (recall + 1.44 * precision)
    assert one("rouge_l", "a b c", "a x c x x", "b") == pytest.approx(expected)


@settings(deadline=None)
@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_the_common_subsequence_is_as_long_as_the_table_says(a, b):
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = [
            above + 1 if x == y else 0 for above, y in zip(row, b, strict=False)
        ]
        for j, (above, match) in enumerate(zip(row[1:], diagonal, strict=True)):
            row[j + 1] = max(above, match, row[j])
    assert rouge._common_length(list(a), list(b)) == row[-1]


def test_cider_by_hand():
    # A word of one row of two weighs log 2, one of both nothing. Row 1: "a" of "a b", a word too few; no longer n-gram.
    score = 10 * 1 / math.sqrt(2) * math.exp(-1 / 72) / 4
    assert text.score(["cider"], ["a", "x"], [["a b"], ["p q"]])[
        "cider"
    ] == pytest.approx(score / 2)
    assert text.score(["cider"], ["a z", "x z"], [["a b z"], ["p q z"]])[
        "cider"
    ] == pytest.approx(score / 2)
    assert one("cider", "a b", "a b") == 0


def test_cider_does_not_reward_a_repeated_word():
    got = text.score(["cider"], ["a a", "x"], [["a b"], ["p q"]])["cider"]
    assert got == pytest.approx(10 * (1 * 1 / (2 * math.sqrt(2))) / 4 / 2)


def test_ter_counts_a_shift_as_one_edit():
    assert one("ter", "b a c d", "a b c d") == pytest.approx(1 / 4)
    assert one("ter", "a b x x x x", "a b", "a") == pytest.approx(4 / 1.5)


def test_chrf_by_hand():
    # Characters: 3 of 4 and 3 of 4; pairs 2 of 3; triples 1 of 2; fours 0 of 1; there are no longer ones.
    assert one("chrf", "abcx", "abcd") == pytest.approx((3 / 4 + 2 / 3 + 1 / 2 + 0) / 4)


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
    assert text.score(["exact_match"], ["a", "b"], [["x", "A"], ["c"]]) == {
        "exact_match": 0.5
    }


WORDS = ["the", "Blue", "Pot", "is", "cheap,", "near", "5", "rivers."]
TEXT = st.lists(st.sampled_from(WORDS), min_size=5, max_size=9).map(" ".join)
ROWS = st.lists(
    st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3)), min_size=1, max_size=4
)


@settings(max_examples=50, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_an_output_that_is_one_of_its_references_is_perfect(rows, random):
    references = [texts for _, texts in rows]
    names = ["bleu", "rouge_1", "rouge_2", "rouge_l", "chrf", "exact_match", "ter"]
    got = text.score(names, [random.choice(texts) for texts in references], references)
    assert got == {**dict.fromkeys(names, pytest.approx(1)), "ter": 0}


@settings(max_examples=50, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_no_score_depends_on_the_order_of_rows_or_references(rows, random):
    other = [
        (output, random.sample(texts, len(texts)))
        for output, texts in random.sample(rows, len(rows))
    ]
    a, b = (
        text.score([*FAST, "ter"], *map(list, zip(*some, strict=True)))
        for some in (rows, other)
    )
    assert a == pytest.approx(b, rel=1e-9)


def test_empty_outputs_score_nothing():
    got = text.score([*FAST, "ter"], ["", " "], [["a b c d e"], ["."]])
    assert got == {**dict.fromkeys(FAST, 0), "ter": 1}


def test_an_empty_output_among_others_lowers_every_score():
    outputs, references = E2E["outputs"][:20], E2E["references"][:20]
    full = text.score(FAST, outputs, references)
    less = text.score(FAST, [*outputs[:19], ""], references)
    worse = [name for name in FAST if less[name] < full[name]]
    assert worse == [
        name for name in FAST if name != "exact_match" or outputs[19] in references[19]
    ]


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


def test_without_java_meteor_is_left_out_and_the_reason_said(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert text.score(["meteor", "exact_match"], ["a"], [["a"]]) == {"exact_match": 1.0}
    assert "apt-get install default-jre-headless" in text.missing(["meteor"])["meteor"]
    assert text.missing(["bleu"]) == {}
    with pytest.raises(
        OSError, match=r"METEOR 1\.5 is a Java program and there is no java"
    ):
        meteor.meteor(["a"], [["a"]])


@pytest.fixture
def java(tmp_path, monkeypatch):
    """`java(script)`: a shell script in the program's place, which has the two files in its folder."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(download, "wheel_path", lambda *pin: tmp_path)
    monkeypatch.setattr(download, "read_member", lambda *pin_and_member: b"")

    def install(script: str) -> Path:
        program = tmp_path / "java"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IEXEC)
        return tmp_path

    return install


def test_meteor_gives_the_program_as_many_references_for_each_output(java):
    folder = java(
        'cp outputs references "${0%/*}"; echo "$@" > "${0%/*}/said"; echo "Final score:   0.25"'
    )
    assert text.score(["meteor"], ["A b.", ""], [["z.", "a b"], ["It's £5"]]) == {
        "meteor": 0.25
    }
    assert (folder / "outputs").read_text() == "a b\n\n"
    assert (folder / "references").read_text() == "a b\nz\nit 's # 5\nit 's # 5\n"
    assert (
        (folder / "said").read_text().endswith("outputs references -l en -norm -r 2\n")
    )


def test_meteor_says_what_the_program_said_when_it_fails(java):
    java("echo 'Could not reserve enough space for object heap' >&2; exit 1")
    with pytest.raises(
        OSError,
        match=r"-r 1 ended with status 1 and no score: Could not reserve enough space",
    ):
        meteor.meteor(["a"], [["a"]])


def test_meteor_without_its_wheel_is_left_out(java, monkeypatch):
    def offline(*pin):
        raise OSError("pycocoevalcap==1.2 could not be fetched")

    java("exit 0")
    monkeypatch.setattr(download, "wheel_path", offline)
    assert text.score(["meteor"], ["a"], [["a"]]) == {}
    assert text.missing(["meteor"]) == {
        "meteor": "pycocoevalcap==1.2 could not be fetched"
    }
