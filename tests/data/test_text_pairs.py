import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from lora_jax import data
from lora_jax.data.tasks import e2e, tiny, wikisql

SHARED = Path(__file__).parents[2].parent / "shared/data"


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        content if isinstance(content, str) else json.dumps(content),
        encoding="utf-8",
        newline="",
    )
    return path


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def message(call, *args, error: type[Exception] = ValueError, **keywords) -> str:
    with pytest.raises(error) as caught:
        call(*args, **keywords)
    return str(caught.value)


def rows(examples):
    return list(zip(examples.text, examples.pair, strict=True))


def shared(name):
    if not (SHARED / name).exists():
        pytest.skip(f"the real data is not there: ../shared/data/{name}")
    return SHARED / name


# Sources and their targets

FOUR = data.Examples(["b", "a", "b", "c"], ["1", "2", "3", "4"], np.zeros(4, np.int32))


def test_references_group_targets_by_source_in_order():
    assert list(data.references(FOUR).items()) == [
        ("b", ["1", "3"]),
        ("a", ["2"]),
        ("c", ["4"]),
    ]
    assert "texts alone" in message(data.references, FOUR._replace(pair=None))


def test_some_keeps_every_target_of_the_sources_it_keeps():
    examples = data.Examples(
        [f"s{i // 3}" for i in range(30)],
        [str(i) for i in range(30)],
        np.zeros(30, np.int32),
    )
    part, more = (
        data.subset_of_sources(examples, 4),
        data.subset_of_sources(examples, 6),
    )
    assert (
        len(part.text) == len(part.label) == 12
        and set(part.text) < set(more.text)
        and len(data.references(more)) == 6
    )
    assert data.references(part).items() <= data.references(examples).items()
    assert (
        part.pair
        and part.pair == sorted(part.pair, key=int)
        and part.text != data.subset_of_sources(examples, 4, seed=1).text
    )
    assert data.subset_of_sources(examples, 0) is examples and rows(
        data.subset_of_sources(examples, 99)
    ) == rows(examples)
    assert "0 (all) or more sources, got -1" in message(
        data.subset_of_sources, examples, -1
    )


# Encoding

END, START = 0, 1


@pytest.fixture(scope="module")
def tokenizer():
    """Every byte a token; 0 is <end>, 1 is <start>, which the tokenizer's own template puts around a text."""
    letters = ["<end>", "<start>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(
        models.BPE({letter: i for i, letter in enumerate(letters)}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>", "<start>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        "<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 0)]
    )
    return tokenizer


TEXT = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5),
    separator=st.sampled_from(["\n", " => "]),
)
@pytest.mark.parametrize("start", [None, START])
def test_rows_decode_to_their_texts_and_segments_mark_the_target(
    tokenizer, pairs, separator, start
):
    sources, targets = map(list, zip(*pairs, strict=True))
    examples = data.Examples(sources, targets, np.zeros(len(pairs), np.int32))
    encoded = data.encode_pairs(
        tokenizer, examples, max_length=10**6, end=END, start=start, separator=separator
    )
    prompts = data.encode_prompts(
        tokenizer, sources, max_length=10**6, start=start, separator=separator
    )
    begin = [] if start is None else [start]
    assert (
        encoded.tokens.dtype == encoded.segments.dtype == np.int32
        and encoded.offsets.dtype == np.int64
    )
    for i, (source, target) in enumerate(pairs):
        row, segments = (
            x[slice(*encoded.offsets[i : i + 2])]
            for x in (encoded.tokens, encoded.segments)
        )
        assert (
            row[segments == 0].tolist() == prompts[i]
            and sorted(segments) == segments.tolist()
        )
        assert (
            tokenizer.decode(prompts[i][len(begin) :], skip_special_tokens=False)
            == source + separator
        )
        assert (
            prompts[i][: len(begin)] == begin and row[-1] == END and segments[-1] == 1
        )
        assert (
            tokenizer.decode(
                row[segments == 1][:-1].tolist(), skip_special_tokens=False
            )
            == target
        )


def test_a_text_that_spells_the_end_token_does_not_end_the_row(tokenizer):
    spelt = FOUR._replace(pair=["<end>x"] * 4)
    encoded = data.encode_pairs(tokenizer, spelt, max_length=9, end=END)
    assert (encoded.tokens == END).sum() == 4 and encoded.lengths.tolist() == [9] * 4


def test_the_tokenizers_own_truncation_and_padding_are_ignored(tokenizer):
    own = Tokenizer.from_str(tokenizer.to_str())
    own.enable_truncation(1)
    own.enable_padding(length=30)
    assert data.encode_prompts(own, ["abc"], max_length=4) == data.encode_prompts(
        tokenizer, ["abc"], max_length=4
    )
    assert (own.truncation or {})["max_length"] == 1 and (own.padding or {})[
        "length"
    ] == 30


def test_long_and_blank_rows_are_refused(tokenizer):
    long = FOUR._replace(pair=["1", "12345", "1234", "1"])
    text = message(data.encode_pairs, tokenizer, long, max_length=6, end=END)
    assert text.startswith(
        "2 of 4 rows are longer than max_length 6: the longest, 'a', has 8 tokens; raise max_length"
    )
    assert "1 of 2 rows are longer than max_length 3" in message(
        data.encode_prompts, tokenizer, ["ab", "abc"], max_length=3
    )
    blank = FOUR._replace(pair=["1", " ", "", "1"])
    text = message(data.encode_pairs, tokenizer, blank, max_length=9, end=END)
    assert (
        "row 1: expected a target, got ' '" in text
        and "row 2: expected a target, got ''" in text
    )
    assert "row 1: expected a source, got ''" in message(
        data.encode_prompts, tokenizer, ["a", ""], max_length=9
    )
    assert "texts alone" in message(
        data.encode_pairs, tokenizer, FOUR._replace(pair=None), max_length=9, end=END
    )
    silent = Tokenizer(models.BPE({"a": 2}, []))
    assert "row 0: the target 'b' has no tokens" in message(
        data.encode_pairs,
        silent,
        data.Examples(["a"], ["b"], np.zeros(1, np.int32)),
        max_length=9,
        end=END,
        separator="",
    )


def test_encoded_rows_make_batches(tokenizer):
    encoded = data.encode_pairs(tokenizer, FOUR, max_length=8, end=END)
    batch = next(data.batches(encoded, size=4, widths=(8,), seed=None, pad=END))
    assert (
        batch.segments.tolist() == [[0, 0, 1, 1, 0, 0, 0, 0]] * 4
        and batch.label.tolist() == [0] * 4
    )


def test_tokens_apart_are_those_of_the_whole_text():
    gpt2 = Tokenizer.from_file(str(shared("gpt2_tokenizer/tokenizer.json")))
    test = data.load("e2e", data_dir=shared("e2e")).splits["test"]
    encoded = data.encode_pairs(gpt2, test, max_length=256, end=50256)
    whole = gpt2.encode_batch_fast(
        [f"{source}\n{target}" for source, target in rows(test)],
        add_special_tokens=False,
    )
    assert encoded.tokens.tolist() == [
        token for row in whole for token in (*row.ids, 50256)
    ]


# E2E

MR = "name[Blue Spice], eatType[coffee shop], priceRange[more than £30], customer rating[5 out of 5], familyFriendly[no]"
SOURCE = "name : Blue Spice | Type : coffee shop | price : more than £30 | customer rating : 5 out of 5 | family friendly : no"


def test_meaning_representations_are_written_as_the_authors_do():
    assert e2e.linear(MR) == SOURCE


def e2e_files(folder, ref="Go  there. "):
    for name in e2e.FILES.values():
        write(folder / name, f'mr,ref\n"{MR}",{ref}\n"name[B]",Go.\n')
    return folder


def test_e2e_from_a_folder_or_the_archive(tmp_path):
    folder = e2e_files(tmp_path / "e2e-dataset")
    with zipfile.ZipFile(tmp_path / "e2e-dataset.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"e2e-dataset/{file.name}")
    write(tmp_path / "archive/unrelated.txt", "")
    (tmp_path / "archive/e2e-dataset.zip").write_bytes(
        (tmp_path / "e2e-dataset.zip").read_bytes()
    )
    places = (folder, tmp_path / "e2e-dataset.zip", tmp_path / "archive", str(folder))
    first, *others = [data.load("e2e", data_dir=place) for place in places]
    assert (
        rows(first.splits["test"]) == [(SOURCE, "Go  there."), ("name : B", "Go.")]
        and first.generates
    )
    assert (
        list(first.splits) == ["train", "validation", "test"]
        and first.labels == ()
        and "rouge_l" in first.metrics
    )
    assert (
        first.splits["train"].label.dtype == np.int32
        and not first.splits["train"].label.any()
    )
    assert "trainset.csv sha256:" in first.source and str(tmp_path) not in first.source
    for other in others:
        np.testing.assert_equal(other, first)


def test_e2e_says_what_is_wrong_and_where(tmp_path):
    folder = e2e_files(tmp_path)
    write(folder / "devset.csv", 'mr,ref\n"name[B], food",Go.\nname[B],\n')
    text = message(data.load, "e2e", data_dir=folder)
    assert (
        "devset.csv, line 2: mr: expected attributes such as name[Blue Spice], food[Thai], got 'name[B], food'"
        in text
    )
    assert "devset.csv, line 3: ref: expected some text, got ''" in text
    write(folder / "devset.csv", "MR\nname[B]\n")
    assert "devset.csv: expected a column 'mr', got MR" in message(
        data.load, "e2e", data_dir=folder
    )
    (folder / "devset.csv").unlink()
    text = message(data.load, "e2e", data_dir=folder, error=FileNotFoundError)
    assert "expected devset.csv, got testset_w_refs.csv, trainset.csv" in text
    assert "does not exist; expected one with" in message(
        data.load, "e2e", data_dir=tmp_path / "no", error=FileNotFoundError
    )
    text = message(data.load, "e2e", data_dir=folder / "trainset.csv")
    assert (
        "expected a folder or a zip archive with trainset.csv" in text
        and "got the file trainset.csv" in text
    )


def test_e2e_from_the_hub(monkeypatch):
    import datasets

    asked = {}

    def load(path, revision, data_files):
        asked.update(path=path, revision=revision, files=data_files)
        rows = {
            "meaning_representation": [MR, "name[B]"],
            "human_reference": ["Go  there.", "Go."],
        }
        return {split: datasets.Dataset.from_dict(rows) for split in data_files}

    monkeypatch.setattr(datasets, "load_dataset", load)
    task = data.load("e2e")
    assert rows(task.splits["test"]) == [(SOURCE, "Go  there."), ("name : B", "Go.")]
    assert (
        task.source == f"tuetschek/e2e_nlg@{e2e.REVISION}"
        and len(asked["revision"]) == 40
    )
    assert all(file.endswith(".parquet") for file in asked["files"].values())


def test_no_hub_says_to_pass_a_folder(monkeypatch):
    import datasets

    def offline(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    text = message(data.load, "e2e", error=ConnectionError)
    assert (
        "OSError: no route" in text
        and "pass data_dir, a folder with trainset.csv" in text
        and "e2e-dataset.zip" in text
    )


def test_real_e2e_has_its_rows_and_sources():
    task = data.load("e2e", data_dir=shared("e2e"))
    sizes = {
        name: (len(part.text), len(data.references(part)))
        for name, part in task.splits.items()
    }
    assert sizes == {
        "train": (42061, 4862),
        "validation": (4672, 547),
        "test": (4693, 630),
    }


# WebNLG


def entry(
    category, *texts, triples="Aarhus_Airport | runwayLength | 2702.0", eid="Id1"
):
    inside = "".join(f"<mtriple>{triple}</mtriple>" for triple in triples.split("; "))
    lexes = "".join(
        f'<lex comment="{comment}" lid="Id1">{text}</lex>' for comment, text in texts
    )
    return (
        f'<entry category="{category}" eid="{eid}" size="1"><originaltripleset><otriple>a | b | c</otriple>'
        f"</originaltripleset><modifiedtripleset>{inside}</modifiedtripleset>{lexes}</entry>"
    )


def webnlg_files(folder, *train):
    def wrap(*entries):
        return f"<benchmark><entries>{''.join(entries)}</entries></benchmark>"

    write(folder / "train/1triples/Airport.xml", wrap(*train))
    write(
        folder / "train/2triples/Food.xml",
        wrap(entry("Food", ("good", "Rice."), triples="A | b | c; C | d | e | f")),
    )
    write(folder / "dev/1triples/Food.xml", wrap(entry("Food", ("good", "Rice."))))
    test = (
        entry("City", ("good", "One."), ("good", "Two.")),
        entry("Artist", ("good", "Three."), triples="M | born | 1"),
    )
    write(folder / "test/testdata_with_lex.xml", wrap(*test))
    write(folder / "test/testdata_unseen_with_lex.xml", "never read")
    return folder


def test_webnlg_from_the_official_files(tmp_path):
    folder = webnlg_files(
        tmp_path / "webnlg_challenge_2017",
        entry("Airport", ("good", " 2 &lt; 3. "), ("toFix", "no")),
    )
    task = data.load("webnlg", data_dir=tmp_path)
    assert (
        list(task.splits) == ["train", "validation", "test", "test_seen", "test_unseen"]
        and task.generates
    )
    airport = "Aarhus_Airport : runwayLength : 2702.0"
    assert rows(task.splits["train"]) == [
        (airport, "2 < 3."),
        ("A : b : c | C : d : e | f", "Rice."),
    ]
    assert rows(task.splits["test"]) == [
        (airport, "One."),
        (airport, "Two."),
        ("M : born : 1", "Three."),
    ]
    assert task.splits["test_seen"].pair == ["One.", "Two."] and task.splits[
        "test_unseen"
    ].pair == ["Three."]
    assert "train: 2 files sha256:" in task.source
    np.testing.assert_equal(data.load("webnlg", data_dir=folder), task)


def test_webnlg_says_what_is_wrong_and_where(tmp_path):
    webnlg_files(
        tmp_path, entry("Airport", ("good", "x"), triples="A - b - c", eid="Id7")
    )
    text = message(data.load, "webnlg", data_dir=tmp_path)
    assert (
        "Airport.xml, entry Id7: expected triples such as 'Aarhus | leader | Bo', got [['A - b - c']]"
        in text
    )
    write(tmp_path / "dev/1triples/Food.xml", "<benchmark>")
    webnlg_files(tmp_path, entry("Airport", ("good", "x")))
    write(tmp_path / "train/1triples/Airport.xml", "<benchmark>")
    assert "Airport.xml: expected XML, got what is none: no element found" in message(
        data.load, "webnlg", data_dir=tmp_path
    )
    write(tmp_path / "train/1triples/Airport.xml", "<benchmark/>")
    assert "Airport.xml: expected XML with <entry> elements" in message(
        data.load, "webnlg", data_dir=tmp_path
    )
    (tmp_path / "test/testdata_with_lex.xml").unlink()
    text = message(data.load, "webnlg", data_dir=tmp_path, error=FileNotFoundError)
    assert "expected test/testdata_with_lex.xml, got dev, test, train" in text


# DART and SAMSum


def dart_files(folder, *entries):
    for name in ("train", "dev", "test"):
        write(folder / f"dart-v1.1.1-full-{name}.json", list(entries))
    return folder


def test_dart_from_the_official_files(tmp_path):
    notes = [
        {"source": "s", "text": "It joined. "},
        {"source": "s", "text": "In 1973."},
    ]
    school = {
        "tripleset": [["Mars Hill", "JOINED", "1973"], ["Mars Hill", "TOWN", "NC"]],
        "annotations": notes,
    }
    blank = {
        "tripleset": [["A", "B", "C"]],
        "annotations": [{"text": " "}],
        "subtree_was_extended": True,
    }
    task = data.load("dart", data_dir=dart_files(tmp_path, school, blank))
    source = "Mars Hill : joined : 1973 | Mars Hill : town : NC"
    assert rows(task.splits["validation"]) == [
        (source, "It joined."),
        (source, "In 1973."),
    ]
    assert (
        list(task.splits) == ["train", "validation", "test"]
        and "bleu" in task.metrics
        and task.generates
    )
    assert task.source.count(".json sha256:") == 3


def test_dart_says_what_is_wrong_and_where(tmp_path):
    bad = {"tripleset": [["A", "B"]], "annotations": [{"lex": "x"}]}
    text = message(data.load, "dart", data_dir=dart_files(tmp_path, bad))
    assert (
        "full-train.json, entry 1: tripleset: expected a list of [subject, relation, object], got [['A', 'B']]"
        in text
    )
    assert (
        "full-train.json, entry 1: annotations: expected a list of {'text': ...}"
        in text
    )
    text = message(data.load, "dart", data_dir=dart_files(tmp_path, {"triples": 1}))
    assert "expected a column 'tripleset', got triples (is 'triples' meant?)" in text
    write(tmp_path / "dart-v1.1.1-full-train.json", {"a": 1})
    assert "expected a JSON list of objects, with tripleset, annotations" in message(
        data.load, "dart", data_dir=tmp_path
    )
    write(tmp_path / "dart-v1.1.1-full-train.json", "[")
    assert "full-train.json: expected JSON, got what is none" in message(
        data.load, "dart", data_dir=tmp_path
    )
    assert (
        "dart is read from its official files: pass data_dir, a folder with dart-v1.1.1"
        in message(data.load, "dart")
    )


def test_samsum_from_the_official_files(tmp_path):
    chat = {
        "id": "1",
        "summary": "Amanda bakes.",
        "dialogue": "Amanda: Hi!\r\nJerry: Sure!\r\n",
    }
    for name in ("train", "val", "test"):
        write(
            tmp_path / f"{name}.json",
            [chat, {"id": "2", "summary": "Nothing.", "dialogue": ""}],
        )
    task = data.load("samsum", data_dir=tmp_path)
    assert rows(task.splits["validation"]) == [
        ("Amanda: Hi!\nJerry: Sure!", "Amanda bakes.")
    ]
    assert task.metrics == ("rouge_1", "rouge_2", "rouge_l") and task.generates
    write(tmp_path / "val.json", [{"id": "1", "summary": None, "dialogue": "x"}])
    assert "val.json, entry 1: summary: expected text, got None" in message(
        data.load, "samsum", data_dir=tmp_path
    )
    (tmp_path / "val.json").unlink()
    text = message(data.load, "samsum", data_dir=tmp_path, error=FileNotFoundError)
    assert "expected val.json, got test.json, train.json" in text


# WikiSQL

HEADER = ["Player", "No.", "School/Club Team"]
TABLE = "table: 1-10\ncolumns: Player, No., School/Club Team"


def wikisql_files(folder, sql, **changes):
    question = {
        "phase": 1,
        "question": "How many? ",
        "table_id": "1-10",
        "sql": sql,
    } | changes
    for name in ("train", "dev", "test"):
        write(folder / f"{name}.jsonl", lines(question))
        write(
            folder / f"{name}.tables.jsonl",
            lines({"id": "1-10", "header": HEADER, "rows": [["a", 1, "b"]]}),
        )
    return folder


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"sel": 2, "agg": 0, "conds": []}, "SELECT School/Club Team FROM 1-10"),
        (
            {"sel": 0, "agg": 3, "conds": [[1, 0, "3"]]},
            "SELECT COUNT Player FROM 1-10 WHERE No. = '3'",
        ),
        (
            {"sel": 1, "agg": 1, "conds": [[1, 1, 3.5], [0, 2, 4]]},
            "SELECT MAX No. FROM 1-10 WHERE No. > 3.5 AND Player < 4",
        ),
    ],
)
def test_sql_in_words(query, expected):
    assert wikisql.sql(query, "1-10", HEADER) == expected


def test_wikisql_in_both_layouts(tmp_path):
    official = wikisql_files(
        tmp_path / "official/data", {"sel": 0, "agg": 3, "conds": [[1, 0, "3"]]}
    )
    text = f"{TABLE}\nQ: How many? \nA: SELECT COUNT Player FROM 1-10 WHERE No. = '3'"
    for name in ("train", "valid", "test"):
        write(tmp_path / f"text/{name}.jsonl", lines({"text": text}))
    one, two = (
        data.load("wikisql", data_dir=official.parent),
        data.load("wikisql", data_dir=tmp_path / "text"),
    )
    assert rows(one.splits["test"]) == [
        (f"{TABLE}\nQ: How many?", "SELECT COUNT Player FROM 1-10 WHERE No. = '3'")
    ]
    assert {name: rows(part) for name, part in one.splits.items()} == {
        name: rows(part) for name, part in two.splits.items()
    }
    assert (
        one.metrics == ("exact_match",)
        and "train.tables.jsonl sha256:" in one.source
        and "valid.jsonl" in two.source
    )


def test_wikisql_says_what_is_wrong_and_where(tmp_path):
    good = {"sel": 0, "agg": 3, "conds": []}
    text = message(
        data.load, "wikisql", data_dir=wikisql_files(tmp_path, good, table_id="9")
    )
    assert (
        "train.jsonl, line 1: table_id: expected the id of a table in train.tables.jsonl, got '9'"
        in text
    )
    for bad in (
        good | {"sel": 3},
        good | {"sel": -1},
        {"sel": 0},
        good | {"agg": 6},
        good | {"conds": [[1]]},
        None,
    ):
        text = message(data.load, "wikisql", data_dir=wikisql_files(tmp_path, bad))
        assert (
            "train.jsonl, line 1: sql: expected sel, agg and conds that fit its table"
            in text
        )
    text = message(
        data.load, "wikisql", data_dir=wikisql_files(tmp_path, good, question=3)
    )
    assert "train.jsonl, line 1: question: expected text, got 3" in text
    wikisql_files(tmp_path, good)
    write(tmp_path / "test.tables.jsonl", lines({"id": "1-10", "header": "Player"}))
    text = message(data.load, "wikisql", data_dir=tmp_path)
    assert (
        "test.tables.jsonl, line 1: header: expected a list of column names, got 'Player'"
        in text
    )
    (tmp_path / "test.tables.jsonl").unlink()
    text = message(data.load, "wikisql", data_dir=tmp_path, error=FileNotFoundError)
    assert "expected test.tables.jsonl, got dev.jsonl" in text
    write(tmp_path / "valid.jsonl", lines({"text": "no answer"}))
    write(tmp_path / "train.jsonl", lines({"text": "no answer"}))
    write(tmp_path / "test.jsonl", lines({"text": "no answer"}))
    assert "line 1: text: expected a line 'A: SELECT ...', got 'no answer'" in message(
        data.load, "wikisql", data_dir=tmp_path
    )


def test_real_wikisql_text():
    task = data.load("wikisql", data_dir=shared("wikisql_text"))
    assert {name: len(part.text) for name, part in task.splits.items()} == {
        "train": 1000,
        "validation": 100,
        "test": 100,
    }
    assert all(
        target.startswith("SELECT ")
        for part in task.splits.values()
        for _, target in rows(part)
    )


# A user's own files, and names


def test_a_users_table_of_sources_and_targets(tmp_path):
    path = write(
        tmp_path / "mine.csv",
        "source,target,label,split\na,1,x,train\nb,2,x,validation\na,3,x,train\n",
    )
    task = data.load(path)
    assert (task.name, task.labels, task.metrics, task.generates) == (
        "mine",
        (),
        ("bleu", "rouge_l"),
        True,
    )
    assert rows(task.splits["train"]) == [
        ("a", "1"),
        ("a", "3"),
    ] and task.source.startswith("mine.csv sha256:")
    both = "text,label,source,split\na,x,web,train\nb,y,web,train\na,x,web,validation\n"
    assert not data.load(write(tmp_path / "b.csv", both)).generates


def test_a_users_sources_stay_together(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        lines(*({"source": f"s{i % 40}", "target": f"t{i}"} for i in range(200))),
    )
    seen = [set(part.text) for part in data.load(path).splits.values()]
    assert len(seen) == 3 and sum(map(len, seen)) == 40


def test_a_users_folder(tmp_path):
    for name in ("train", "validation"):
        write(tmp_path / f"{name}.tsv", 'source\ttarget\nhe said "a"\tb\n')
    task = data.load(tmp_path)
    assert task.generates and rows(task.splits["validation"]) == [('he said "a"', "b")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "source,targets\na,b\n",
            "a.csv: expected a column 'target', got source, targets (is 'targets' meant?)",
        ),
        (
            "text,label,source,target\na,b,c,d\n",
            "a.csv: expected either the columns text and label, or source and target",
        ),
        (
            "question,sql\na,b\n",
            "or source and target for a task that generates, got question, sql",
        ),
        ("text,target\na,b\n", "a.csv: expected a column 'label', got text, target"),
        (
            "source,target,split\na,,train\na,b,validation\n",
            "a.csv, line 2: target: expected some text, got ''",
        ),
        (
            "source,target,split\na,b,train\n",
            "a.csv: no row is in the validation split",
        ),
    ],
)
def test_bad_tables_are_told(tmp_path, text, expected):
    assert expected in message(data.load, write(tmp_path / "a.csv", text))


def test_the_tiny_task():
    task = data.load("tiny-nlg")
    assert {name: len(part.text) for name, part in task.splits.items()} == {
        "train": 64,
        "validation": 16,
        "test": 16,
    }
    groups = [data.references(part) for part in task.splits.values()]
    assert all(len(set(targets)) == 2 for group in groups for targets in group.values())
    assert sum(map(len, groups)) == len(
        {source for group in groups for source in group}
    )
    words = {
        word
        for part in task.splits.values()
        for pair in rows(part)
        for text in pair
        for word in text.split()
    }
    assert all(
        word.isalnum() and word.isascii() for word in words - {":", "|"}
    ) and task.metrics == ("bleu",)
    assert (
        rows(task.splits["test"])[0][0].startswith("name : ") and len(tiny.NAMES) == 6
    )
    np.testing.assert_equal(data.load("tiny-nlg"), task)


def test_names_and_data_dir(tmp_path):
    text = message(data.load, "wikisq")
    assert (
        "e2e, webnlg, dart, wikisql, samsum, tiny, tiny-nlg" in text
        and "is wikisql meant?" in text
    )
    for name in ("tiny", write(tmp_path / "a.csv", "source,target\na,b\n")):
        text = message(data.load, name, data_dir=tmp_path)
        assert text.startswith("data_dir goes with cola, ")
        assert f"{str(name)!r} has no official files" in text
