"""WikiSQL (Zhong et al. 2017, arXiv:1709.00103): a question about a table into SQL. LoRA's Tables 4 to 6 and 15.

A source has the table's name and columns and the question, a line each. The target is written as the official
`Query.__repr__` does, with the names of table and columns for its `table` and `col3`, and with single quotes:
"SELECT COUNT Position FROM 1-10015132-11 WHERE No. = '3'". Two layouts of files are read: the official one, and one
with sources and targets already written, a field "text" that ends in a line "A: SELECT ...".
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_jax.data import text_pairs
from lora_jax.data.examples import require
from lora_jax.data.read_table import Table, provenance, read, refuse
from lora_jax.data.task import Task, refuse_split_seed

FILES = {"train": "train.jsonl", "validation": "dev.jsonl", "test": "test.jsonl"}
TABLES = {
    split: file.replace(".jsonl", ".tables.jsonl") for split, file in FILES.items()
}
TEXT_FILES = FILES | {"validation": "valid.jsonl"}
EXPECTED = (
    ", ".join((*FILES.values(), *TABLES.values()))
    + " (github.com/salesforce/WikiSQL, data.tar.bz2)"
)
AGGREGATIONS = dict(enumerate(("", "MAX", "MIN", "COUNT", "SUM", "AVG")))
OPERATORS = dict(enumerate(("=", ">", "<", "OP")))
ANSWER = "\nA: "


def load(*, data_dir: str | Path | None = None, split_seed: int = 0) -> Task:
    """56,355 / 8,421 / 15,878 questions from the official files in `data_dir`; as many as there are in the other layout.

    Raises ValueError without `data_dir` or naming the lines that do not fit, FileNotFoundError when files are missing.
    """
    refuse_split_seed("wikisql", split_seed)
    place = text_pairs.home("wikisql", data_dir, EXPECTED, folders=("data",))
    written = (place / TEXT_FILES["validation"]).exists()
    paths = text_pairs.find("wikisql", place, TEXT_FILES if written else FILES)
    headers = {} if written else text_pairs.find("wikisql", place, TABLES)
    tables = {
        split: _split(read(path))
        if written
        else _join(read(path), read(headers[split]))
        for split, path in paths.items()
    }
    origin = ", ".join(map(provenance, (*paths.values(), *headers.values())))
    return text_pairs.task("wikisql", ("exact_match",), tables, origin)


def sql(query: Mapping[str, Any], table: str, header: Sequence[str]) -> str:
    """The query {"sel": column, "agg": index, "conds": [[column, operator, value], ...]} in words.

    Raises KeyError on an index that there is not, and TypeError or ValueError on another shape.
    """
    names = dict(enumerate(header))
    wanted = f"{AGGREGATIONS[query['agg']]} {names[query['sel']]}".strip()
    conditions = [
        f"{names[column]} {OPERATORS[operator]} "
        + (f"'{value}'" if isinstance(value, str) else str(value))
        for column, operator, value in query["conds"]
    ]
    return f"SELECT {wanted} FROM {table}" + (
        f" WHERE {' AND '.join(conditions)}" if conditions else ""
    )


def _split(table: Table) -> Table:
    require([table], ("text",))
    refuse(
        table.misfits(
            "text",
            lambda text: isinstance(text, str) and ANSWER in text,
            "a line 'A: SELECT ...'",
        )
    )
    parts = [text.rpartition(ANSWER) for text in table.columns["text"]]
    return text_pairs.pairs(
        table, [source for source, _, _ in parts], [[target] for _, _, target in parts]
    )


def _join(table: Table, headers: Table) -> Table:
    require([table], ("question", "table_id", "sql"))
    require([headers], ("id", "header"))
    header = dict(zip(headers.columns["id"], headers.columns["header"], strict=True))
    problems = headers.misfits("header", _are_names, "a list of column names")
    problems += table.misfits(
        "question", lambda question: isinstance(question, str), "text"
    )
    problems += table.misfits(
        "table_id", lambda name: name in header, f"the id of a table in {headers.file}"
    )
    refuse(problems)
    names, queries = table.columns["table_id"], table.columns["sql"]
    targets = [
        _target(query, name, header[name])
        for query, name in zip(queries, names, strict=True)
    ]
    expected = "sql: expected sel, agg and conds that fit its table"
    lines = zip(table.rows, targets, strict=True)
    refuse(
        [
            f"{table.file}, {table.unit} {row}: {expected}"
            for row, target in lines
            if target is None
        ]
    )
    sources = [
        f"table: {name}\ncolumns: {', '.join(header[name])}\nQ: {question}"
        for name, question in zip(names, table.columns["question"], strict=True)
    ]
    return text_pairs.pairs(table, sources, [[str(target)] for target in targets])


def _target(query: Any, name: str, header: Sequence[str]) -> str | None:
    try:
        return sql(query, name, header)
    except (KeyError, TypeError, ValueError):
        return None


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
