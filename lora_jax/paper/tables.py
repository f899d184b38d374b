"""The published values: the tables and digitised figures of LoRA (arXiv:2106.09685v2) and QLoRA (arXiv:2305.14314v1).

They are CSV files in the checkout's `paper_tables/`; its README says how they were read. Every row has its source.
"""

import csv
import difflib
import math
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).resolve().parents[2] / "paper_tables"

# File: columns. Marks: # a number, ? a number or empty, ~ a number where it is one. After |, the source of all rows.
_DECLARED = """
claims: id paper claim published_value~ unit recomputed note source
lora_paper_vs_repo_hparams: model dataset hparam paper_value~ repo_value~ repo_file \
    | arXiv:2106.09685v2 p.19; arXiv:2106.09685v2 p.20; github:microsoft/LoRA:examples
lora_protocol_facts: subject fact value~ source
lora_repo_script_hparams: script hparam value~ source
lora_table1_latency: table# model method batch_size# seq_len# theta_adapter latency_ms# std_ms# \
    slowdown_percent_published# slowdown_percent_recomputed# setting source
lora_table2_glue: table# model method marker trainable_params task metric value# std? recomputed_avg? source
lora_table3_e2e: table# model method marker trainable_params dataset metric value# std? source
lora_table4_gpt3: table# model method trainable_params task value# typical_std# setting note source
lora_table5_weight_types: table# model weight_type r# trainable_params dataset value# std# note source
lora_table6_rank: table# model weight_type r# trainable_params_formula# dataset value# std# note source
lora_table7_amplification: table# weight r? quantity subspace_from value# note source
lora_table8_fewshot_vs_ft: table# method task value# source
lora_table9_roberta_hparams: table# model method dataset hparam value~ source
lora_table10_deberta_hparams: table# model method dataset hparam value~ source
lora_table11_gpt2_hparams: table# model method dataset hparam value~ source
lora_table12_gpt3_hparams: table# model method dataset hparam value~ source
lora_table13_dart: table# model method trainable_params dataset metric value# std~ source
lora_table14_webnlg: table# model method trainable_params dataset metric split value# std~ source
lora_table15_gpt3_hparam_vs_params: table# model method hyperparameters trainable_params task value# source
lora_table16_lowdata: table# model method dataset n_train~ value# std_text~ source
lora_table17_lowdata_hparams: table# model method dataset hparam value~ source
lora_table18_gpt2_rank: table# model weight_type r# trainable_params_formula# dataset metric value# source
qlora_fig2_rougel_lora_layers: figure# setting points mean# how_read source
qlora_fig3_zeroshot: figure# data_type model total_model_bits? mean_zeroshot_accuracy# how_read metric source
qlora_fig6_memory_breakdown: figure# model component value# unit how_read formula_check source
qlora_general_hparams: hparam value~ source
qlora_nf4_values: index# value# source
qlora_table1_elo: table# model size elo_gpt4# ci95# source
qlora_table2_datatype_ppl: table# data_type metric models value# source
qlora_table3_glue_sni: table# method model metric value? source
qlora_table4_mmlu_datatypes: table# data_type model dataset value_5shot_MMLU# note source
qlora_table5_mmlu_datasets: table# dataset model value_5shot_MMLU# source
qlora_table6_vicuna: table# model params bits memory chatgpt_vs_sys# sys_vs_chatgpt# mean_percent# ci95# source
qlora_table9_hparams: table# model dataset batch_size# lr# steps# source_len? target_len# source
trainable_params_settings: model method published hyperparameters known reason source
figures/lora_fig2_points: figure# dataset method log10_params_plotted# params_plotted_M# accuracy_plotted# \
    nearest_table15_hyperparameters table15_params table15_accuracy? source
figures/lora_fig3_phi_r8_r64_layer48: layer# matrix i_r8# j_r64# phi# phi_error# source
figures/lora_fig4_phi_two_seeds_r64_layer48: layer# matrix i# j# phi# phi_error# source
figures/lora_fig5_adapter_slowdown: adapter seq_len# batch_size# r# slowdown_percent# error# source
figures/lora_fig6_phi_r8_r64_layers1_32_64_96: layer# matrix i_r8# j_r64# phi# phi_error# source
figures/lora_fig7_phi_two_seeds_r64_layers1_32_64_96: layer# matrix i# j# phi# phi_error# source
figures/lora_fig8_phi_Wq_vs_dWq_layer48: layer# dWq_from i_Wq# j_dWq# phi# phi_error# source
"""
_LINES = {
    name: line
    for name, _, line in (
        line.partition(": ") for line in _DECLARED.strip().splitlines()
    )
}
_MARKED = {name: tuple(line.split(" | ")[0].split()) for name, line in _LINES.items()}
_SOURCES = {
    name: line.split(" | ")[1] for name, line in _LINES.items() if " | " in line
}

TABLES = {
    name: tuple(column.rstrip("#?~") for column in marked)
    for name, marked in _MARKED.items()
}
"""The columns each table must have, exactly and in this order."""

# A derived row says `formula`: it is computed from the published rows of its table. Text after a source is a remark.
_PLACE = r"(arXiv:(2106\.09685v2|2305\.14314v1)( p\.|#p)\d+|github:[\w.-]+/[\w.-]+:\S+)"
_SOURCE = re.compile(rf"{_PLACE}(; {_PLACE})*(( vector)|(, .+))?|formula")


def table(name: str, *, folder: Path | None = None) -> pd.DataFrame:
    """One published table, checked: its columns and always `source`; numbers as numbers, an empty number as NaN.

    A cell of a column that holds numbers and words (a hyperparameter's `value`) is a float where it parses, else the
    string as printed. A table whose one value column has a longer name (`published_value`) also has it as `value`.
    Raises ValueError for an unknown name or a damaged file (all problems at once), FileNotFoundError for no checkout.
    """
    if name not in TABLES:
        near = difflib.get_close_matches(name, TABLES, n=3)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise ValueError(
            f"no published table {name!r}; {hint}there are {', '.join(TABLES)}"
        )
    rows, problems = _read(_folder(folder), name)
    _refuse(problems)
    data = pd.DataFrame([row for _, row in rows], columns=pd.Index(TABLES[name]))
    for column, marked in zip(TABLES[name], _MARKED[name], strict=True):
        if marked[-1] in "#?":
            data[column] = pd.to_numeric(data[column].replace("", None))
        elif marked[-1] == "~":
            data[column] = pd.Series(
                [_number(cell) if cell else math.nan for cell in data[column]],
                dtype=object,
            )
    values = [column for column in data if "value" in str(column).split("_")]
    if len(values) == 1 and "value" not in data:
        data["value"] = data[values[0]]
    return data.assign(source=_SOURCES[name]) if name in _SOURCES else data


def claims() -> pd.DataFrame:
    """The claims in the papers' text, by id: L1.. of LoRA, Q1.. of QLoRA; `value` is a float where it is a number."""
    return table("claims").set_index("id")


def validate(folder: Path | None = None) -> None:
    """Check every shipped file: known, complete, columns as declared, numbers numbers, every row with its source.

    Raises one ValueError with all problems: file, line (the header is line 1), expected, got.
    """
    folder = _folder(folder)
    found = {
        path.relative_to(folder).with_suffix("").as_posix()
        for path in folder.rglob("*.csv")
    }
    problems = [
        f"{name}.csv: unknown file, expected one of TABLES"
        for name in sorted(found - TABLES.keys())
    ]
    for name in TABLES:
        problems += _read(folder, name)[1]
    _refuse(problems)


def _folder(folder: Path | None) -> Path:
    folder = folder or FOLDER
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder}: the published values lie in the checkout, not in the installed package; "
            "clone the repository and install it with `pip install -e .`"
        )
    return folder


def _read(folder: Path, name: str) -> tuple[list[tuple[int, list[str]]], list[str]]:
    """The (line, cells) of one file and all that is wrong with it."""
    columns, path = TABLES[name], folder / f"{name}.csv"
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            rows = [(reader.line_num, row) for row in reader]
    except FileNotFoundError:
        return [], [f"{name}.csv: missing"]
    except (UnicodeDecodeError, csv.Error) as error:
        return [], [f"{name}.csv: expected CSV in UTF-8, got {error}"]
    if tuple(header) != columns:
        return [], [
            f"{name}.csv line 1: expected columns {','.join(columns)}, got {','.join(header)}"
        ]
    problems = [] if rows else [f"{name}.csv: expected rows, got none"]
    for line, row in rows:
        problems += [
            f"{name}.csv line {line}: {problem}"
            for problem in _wrong(_MARKED[name], row)
        ]
    ids = [row[0] for _, row in rows if columns[0] == "id" and row]
    problems += [
        f"{name}.csv: expected each id once, got {i!r} again"
        for i in sorted({i for i in ids if ids.count(i) > 1})
    ]
    return rows, problems


def _wrong(marked: Sequence[str], row: Sequence[str]) -> list[str]:
    if len(row) != len(marked):
        return [f"expected {len(marked)} cells, got {len(row)}"]
    problems = []
    for column, cell in zip(marked, row, strict=True):
        if (column[-1] == "#" or (column[-1] == "?" and cell)) and isinstance(
            _number(cell), str
        ):
            problems.append(f"{column[:-1]}: expected a number, got {cell!r}")
        if column == "source" and not _SOURCE.fullmatch(cell):
            problems.append(
                f"source: expected arXiv:2106.09685v2 p.N, arXiv:2305.14314v1 p.N, github:OWNER/REPO:PATH or formula, "
                f"got {cell!r}"
            )
    return problems


def _number(cell: str) -> float | str:
    try:
        number = float(cell)
    except ValueError:
        return cell
    return number if math.isfinite(number) else cell


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise ValueError("published tables are damaged:\n" + "\n".join(problems))
