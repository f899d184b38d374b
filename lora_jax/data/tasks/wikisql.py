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
from lora_jax.data.read_bytes import describe_files
from lora_jax.data.read_table import read
from lora_jax.data.table import Table, raise_problems
from lora_jax.data.task import Task
from lora_jax.data.text_pairs import generation_task, rows_of_targets

# The official layout: questions, and the tables they are about.
FILES = {
    "train": "train.jsonl",
    "validation": "dev.jsonl",
    "test": "test.jsonl",
}
TABLES = {
    "train": "train.tables.jsonl",
    "validation": "dev.tables.jsonl",
    "test": "test.tables.jsonl",
}
# The layout with sources and targets already written.
TEXT_FILES = FILES | {"validation": "valid.jsonl"}
EXPECTED = (
    f"{', '.join(FILES.values())}, {', '.join(TABLES.values())} "
    "(github.com/salesforce/WikiSQL, data.tar.bz2)"
)
METRICS = ("exact_match",)

# By the index the official files give them.
AGGREGATIONS = {
    0: "",
    1: "MAX",
    2: "MIN",
    3: "COUNT",
    4: "SUM",
    5: "AVG",
}
OPERATORS = {
    0: "=",
    1: ">",
    2: "<",
    3: "OP",
}
# Before the target, in the layout of written texts.
ANSWER = "\nA: "


def load(*, data_dir: str | Path | None = None) -> Task:
    """Return 56,355 / 8,421 / 15,878 questions from the official files in `data_dir`.

    From files of the other layout, it returns as many as they have.

    Raises:
        ValueError: there is no `data_dir`, or lines do not fit; it names them.
        FileNotFoundError: files are missing.
    """
    folder = task_folder("wikisql", data_dir, EXPECTED, folders=("data",))
    # Only the layout of written texts has a file of this name.
    text_file = folder / TEXT_FILES["validation"]
    if text_file.exists():
        tables, origin = _read_texts(folder)
    else:
        tables, origin = _read_official(folder)
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
    aggregation = AGGREGATIONS[query["agg"]]
    selected_name = names[query["sel"]]
    # Most queries aggregate nothing.
    selected = f"{aggregation} {selected_name}".strip()
    conditions = []
    for index, operator_index, value in query["conds"]:
        name = names[index]
        operator = OPERATORS[operator_index]
        # Text is quoted, a number is not.
        literal = f"'{value}'" if isinstance(value, str) else str(value)
        conditions.append(f"{name} {operator} {literal}")
    text = f"SELECT {selected} FROM {table}"
    if not conditions:
        return text
    joined = " AND ".join(conditions)
    return f"{text} WHERE {joined}"


def _read_texts(folder: Path) -> tuple[dict[str, Table], str]:
    paths = find_files("wikisql", folder, TEXT_FILES)
    tables = {}
    for split, path in paths.items():
        table = read(path)
        tables[split] = _split_texts(table)
    return tables, describe_files(paths.values())


def _read_official(folder: Path) -> tuple[dict[str, Table], str]:
    paths = find_files("wikisql", folder, FILES)
    # Questions and tables of a split are two files.
    header_paths = find_files("wikisql", folder, TABLES)
    tables = {}
    for split, path in paths.items():
        table = read(path)
        headers = read(header_paths[split])
        tables[split] = _write_queries(table, headers)
    files = [*paths.values(), *header_paths.values()]
    return tables, describe_files(files)


def _split_texts(table: Table) -> Table:
    """Sources and targets of the layout in which both are written."""
    require_columns([table], ("text",))
    expected = "a line 'A: SELECT ...'"
    raise_problems(table.misfits("text", _has_answer, expected))
    # A row is one text: "table: ...\ncolumns: ...\nQ: ...\nA: SELECT ...".
    sources = []
    targets = []
    for text in table.columns["text"]:
        # The last such line: a question might hold one too.
        source, _, target = text.rpartition(ANSWER)
        sources.append(source)
        targets.append([target])
    return rows_of_targets(table, sources, targets)


def _write_queries(table: Table, headers: Table) -> Table:
    """Sources and targets of the official layout: questions and their tables."""
    header_by_id = _check_official(table, headers)
    # A wrong query is named by its row, together with all others.
    names = table.columns["table_id"]
    questions = table.columns["question"]
    queries = table.columns["sql"]
    entries = zip(table.rows, names, questions, queries, strict=True)
    sources = []
    targets = []
    problems = []
    for row, name, question, query in entries:
        # The table's rows are not needed: the query names columns alone.
        header = header_by_id[name]
        columns = ", ".join(header)
        # As the other layout has it.
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
    headers_in_order = headers.columns["header"]
    header_by_id = dict(zip(ids, headers_in_order, strict=True))

    def is_table_id(value: object) -> bool:
        return value in header_by_id

    # Both tables have their columns: then what they hold.
    problems = headers.misfits("header", _are_names, "a list of column names")
    problems += table.misfits("question", _is_text, "text")
    expected = f"the id of a table in {headers.file}"
    problems += table.misfits("table_id", is_table_id, expected)
    raise_problems(problems)
    return header_by_id


def _has_answer(value: object) -> bool:
    if not isinstance(value, str):
        return False
    return ANSWER in value


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_names(value: object) -> bool:
    if not isinstance(value, list):
        return False
    return all(isinstance(name, str) for name in value)
