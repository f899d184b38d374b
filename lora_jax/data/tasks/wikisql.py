"""WikiSQL (Zhong et al. 2017, arXiv:1709.00103): a question about a table to SQL.

LoRA's Tables 4 to 6 and 15. A source has the table's name, its columns and the
question, a line each. The target is written as the official `Query.__repr__` does, with
the names of table and columns for its `table` and `col3`, and with single quotes:
"SELECT COUNT Position FROM 1-10015132-11 WHERE No. = '3'".

Two layouts of files are read: the official one, and one with sources and targets
already written, a field "text" that ends in a line "A: SELECT ...".
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_jax.data.examples import require_columns
from lora_jax.data.official_files import find_files, task_folder
from lora_jax.data.read_table import Table, describe_files, raise_problems, read
from lora_jax.data.task import Task
from lora_jax.data.text_pairs import generation_task, rows_of_targets

FILES = {"train": "train.jsonl", "validation": "dev.jsonl", "test": "test.jsonl"}
TABLES = {
    "train": "train.tables.jsonl",
    "validation": "dev.tables.jsonl",
    "test": "test.tables.jsonl",
}
TEXT_FILES = FILES | {"validation": "valid.jsonl"}
EXPECTED = (
    f"{', '.join(FILES.values())}, {', '.join(TABLES.values())} "
    "(github.com/salesforce/WikiSQL, data.tar.bz2)"
)
METRICS = ("exact_match",)

# By the index the official files give them.
AGGREGATIONS = {0: "", 1: "MAX", 2: "MIN", 3: "COUNT", 4: "SUM", 5: "AVG"}
OPERATORS = {0: "=", 1: ">", 2: "<", 3: "OP"}
ANSWER = "\nA: "


def load(*, data_dir: str | Path | None = None) -> Task:
    """Return 56,355 / 8,421 / 15,878 questions from the official files in `data_dir`.

    From files of the other layout, it returns as many as they have.

    Raises:
        ValueError: there is no `data_dir`, or lines do not fit; it names them.
        FileNotFoundError: files are missing.
    """
    folder = task_folder("wikisql", data_dir, EXPECTED, folders=("data",))
    tables = {}
    if (folder / TEXT_FILES["validation"]).exists():
        paths = find_files("wikisql", folder, TEXT_FILES)
        for split, path in paths.items():
            tables[split] = _split_texts(read(path))
        origin = describe_files(paths.values())
    else:
        paths = find_files("wikisql", folder, FILES)
        header_paths = find_files("wikisql", folder, TABLES)
        for split, path in paths.items():
            tables[split] = _write_queries(read(path), read(header_paths[split]))
        origin = describe_files([*paths.values(), *header_paths.values()])
    return generation_task("wikisql", METRICS, tables, origin)


def sql(query: Mapping[str, Any], table: str, header: Sequence[str]) -> str:
    """Return a query in words.

    The query is {"sel": column, "agg": index, "conds": [[column, operator, value],
    ...]}, its columns are indices into `header`.

    Raises:
        KeyError: an index is out of range.
        TypeError, ValueError: the query has another shape.
    """
    # A dict, unlike a list, refuses negative indices.
    names = dict(enumerate(header))
    selected = f"{AGGREGATIONS[query['agg']]} {names[query['sel']]}".strip()
    conditions = []
    for column, operator, value in query["conds"]:
        literal = f"'{value}'" if isinstance(value, str) else str(value)
        conditions.append(f"{names[column]} {OPERATORS[operator]} {literal}")
    text = f"SELECT {selected} FROM {table}"
    if conditions:
        text += f" WHERE {' AND '.join(conditions)}"
    return text


def _split_texts(table: Table) -> Table:
    """Sources and targets of the layout in which both are written."""
    require_columns([table], ("text",))
    raise_problems(table.misfits("text", _has_answer, "a line 'A: SELECT ...'"))
    sources = []
    targets = []
    for text in table.columns["text"]:
        source, _, target = text.rpartition(ANSWER)
        sources.append(source)
        targets.append([target])
    return rows_of_targets(table, sources, targets)


def _write_queries(table: Table, headers: Table) -> Table:
    """Sources and targets of the official layout: questions and their tables."""
    header_by_id = _check_official(table, headers)
    sources = []
    targets = []
    problems = []
    for row, name, question, query in zip(
        table.rows,
        table.columns["table_id"],
        table.columns["question"],
        table.columns["sql"],
        strict=True,
    ):
        header = header_by_id[name]
        columns = ", ".join(header)
        sources.append(f"table: {name}\ncolumns: {columns}\nQ: {question}")
        try:
            targets.append([sql(query, name, header)])
        except (KeyError, TypeError, ValueError):
            problems.append(
                f"{table.file}, {table.unit} {row}: "
                "sql: expected sel, agg and conds that fit its table"
            )
    raise_problems(problems)
    return rows_of_targets(table, sources, targets)


def _check_official(table: Table, headers: Table) -> dict[str, list[str]]:
    """Check questions and tables, and return the columns by the table's id."""
    require_columns([table], ("question", "table_id", "sql"))
    require_columns([headers], ("id", "header"))
    ids = headers.columns["id"]
    header_by_id = dict(zip(ids, headers.columns["header"], strict=True))

    def is_table_id(value: object) -> bool:
        return value in header_by_id

    problems = headers.misfits("header", _are_names, "a list of column names")
    problems += table.misfits("question", _is_text, "text")
    expected = f"the id of a table in {headers.file}"
    problems += table.misfits("table_id", is_table_id, expected)
    raise_problems(problems)
    return header_by_id


def _has_answer(value: object) -> bool:
    return isinstance(value, str) and ANSWER in value


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
