"""LoRA's "# trainable parameters", as printed in seven tables.

Table 15 and Table 5 print hyperparameters beside each count. Those of the other tables
stand elsewhere in the paper, in its scripts or nowhere:
`paper_tables/trainable_params_settings.csv` has them with where they are from, and for
counts that no closed form gives, what is known of the reason.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lora_jax.paper.spelling import spell_method
from lora_jax.paper.tables import table

# Table 15 first: it names the hyperparameters of counts that Table 4 repeats.
TABLES = {
    15: "lora_table15_gpt3_hparam_vs_params",
    4: "lora_table4_gpt3",
    5: "lora_table5_weight_types",
    2: "lora_table2_glue",
    3: "lora_table3_e2e",
    13: "lora_table13_dart",
    14: "lora_table14_webnlg",
}
"""The tables with counts, by number, in the order the counts are returned."""


class ParameterCount(NamedTuple):
    """A published count of trainable parameters.

    `published` is as printed (`0.35M`). `hyperparameters` are spelled as in Table 15
    (`r_q=r_v=8,l_p=8,l_i=4`, or `-` where there are none), and `known` says where they
    are from: `printed` in the table itself, `Table 9`, `official scripts`, `fitted`
    (chosen to make the count equal) or `nearest` (no value makes it equal). `reason`
    is what is known about a count that does not follow from them, else empty.
    """

    table: int
    model: str
    method: str
    hyperparameters: str
    published: str
    known: str
    reason: str


def parameter_counts(numbers: Sequence[int] = tuple(TABLES)) -> list[ParameterCount]:
    """Return each distinct count of the tables with these numbers.

    Table 15's come first, then those of the others in the paper's order.

    Raises:
        ValueError: no number, or one of a table without counts.
    """
    # All numbers first, so that an error comes before any file is read.
    unknown = [str(number) for number in numbers if number not in TABLES]
    if unknown or not numbers:
        raise ValueError(
            f"tables: expected some of {', '.join(map(str, TABLES))}, "
            f"got {', '.join(unknown) or 'none'}"
        )
    settings = _settings()
    # A count stands at several tasks: a dict keeps each once, in order.
    counts: dict[ParameterCount, None] = {}
    for number, name in TABLES.items():
        if number in numbers:
            for line in table(name).to_dict("records"):
                count = _count(number, {str(key): line[key] for key in line}, settings)
                counts[count] = None
    return list(counts)


def _settings() -> dict[tuple[str, str, str], Any]:
    # By model, method and count as printed: a method has several of one model.
    settings = {}
    for line in table("trainable_params_settings").to_dict("records"):
        settings[line["model"], line["method"], line["published"]] = line
    return settings


def _count(
    number: int, line: Mapping[str, Any], settings: Mapping[tuple[str, str, str], Any]
) -> ParameterCount:
    # Table 5 has LoRA alone and does not name it.
    method = spell_method(line.get("method", "LoRA"))
    # Table 5 prints `18M (=18874368 exactly)`.
    published = line["trainable_params"].partition(" ")[0]
    # A count without settings follows from its method and model alone.
    known_settings = settings.get((line["model"], method, published), {})
    hyperparameters = known_settings.get("hyperparameters", "-")
    known = known_settings.get("known", "printed")
    # What the table itself prints comes first.
    if "weight_type" in line:
        hyperparameters = _ranks(line["weight_type"], line["r"])
        known = "printed"
    elif "hyperparameters" in line:
        hyperparameters = line["hyperparameters"]
        known = "printed"
    return ParameterCount(
        table=number,
        model=line["model"],
        method=method,
        hyperparameters=hyperparameters,
        published=published,
        known=known,
        reason=known_settings.get("reason", ""),
    )


def _ranks(weight_type: str, rank: float) -> str:
    """`Wq,Wv` with rank 4 in Table 15's spelling: `r_q=r_v=4`."""
    names = weight_type.replace("W", "r_").replace(",", "=")
    return f"{names}={rank:g}"
