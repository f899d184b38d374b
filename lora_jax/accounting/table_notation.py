"""From a method as LoRA's tables print it to a method that can be counted.

Table 15 prints hyperparameters such as `r_q=r_v=8,l_p=8,l_i=4`: names joined by `=` to
their value, and groups of them by commas. `lora_jax.paper.parameter_counts` spells the
counts of all tables so.
"""

from collections.abc import Callable, Mapping

from lora_jax.accounting.parameters import (
    Adapter,
    BitFit,
    Both,
    FineTune,
    LoRA,
    Method,
    Prefix,
)

TARGETS = {"r_q": "query", "r_k": "key", "r_v": "value", "r_o": "output"}
"""The paper's ranks by matrix, and the matrix."""

Hyperparameters = Mapping[str, int]


def parse_method(name: str, hyperparameters: str) -> Method:
    """Return the method of a published count.

    `name` is as `lora_jax.paper` spells it; `hyperparameters` are as in Table 15, or
    `-` for none.

    Raises:
        ValueError: no such method, with those there are; a hyperparameter that it needs
            is missing.
    """
    if name not in _METHODS:
        raise ValueError(f"method: expected one of {', '.join(_METHODS)}, got {name!r}")
    values = parse_hyperparameters(hyperparameters)
    # A method looks up what it needs.
    try:
        return _METHODS[name](values)
    except KeyError as missing:
        raise ValueError(
            f"hyperparameters: expected {missing.args[0]} for {name}, "
            f"got {hyperparameters!r}"
        ) from None


def parse_hyperparameters(text: str) -> dict[str, int]:
    """Return the values by name; `-` has none."""
    values: dict[str, int] = {}
    # Fine-tuning and BitFit have none.
    if text == "-":
        return values
    # `r_q=r_v=8`: all names of a group have its value.
    for group in text.split(","):
        *names, value = group.split("=")
        for name in names:
            values[name] = int(value)
    return values


def _lora(values: Hyperparameters) -> LoRA:
    # LoRA+PE and LoRA+PL have the prefix's lengths too.
    ranks = {name: rank for name, rank in values.items() if name in TARGETS}
    if not ranks:
        raise KeyError(" or ".join(TARGETS))
    targets = ",".join(TARGETS[name] for name in ranks)
    # Every table gives all matrices one rank.
    distinct = set(ranks.values())
    if len(distinct) != 1:
        raise ValueError(
            f"hyperparameters: expected one rank for all matrices, got {ranks}"
        )
    return LoRA(targets, rank=distinct.pop())


def _prefix_embed(values: Hyperparameters) -> Prefix:
    return Prefix(values["l_p"], values["l_i"])


# In every layer, and not only at the input.
def _prefix_layer(values: Hyperparameters) -> Prefix:
    return Prefix(values["l_p"], values["l_i"], every_layer=True)


def _adapter_d(values: Hyperparameters) -> Adapter:
    # AdapterDrop leaves the adapters out of the first blocks.
    return Adapter(values["r"], per_block=1, blocks=values.get("blocks"))


# The paper's names, in the order of its tables.
_METHODS: dict[str, Callable[[Hyperparameters], Method]] = {
    "Fine-Tune": lambda values: FineTune(),
    "FTTop2": lambda values: FineTune(blocks=2),
    "BitFit": lambda values: BitFit(),
    "PrefixEmbed": _prefix_embed,
    "PrefixLayer": _prefix_layer,
    "AdapterH": lambda values: Adapter(values["r"]),
    "AdapterL": lambda values: Adapter(values["r"], per_block=1, norms=1),
    "AdapterP": lambda values: Adapter(values["r"], per_block=1),
    "AdapterD": _adapter_d,
    "LoRA": _lora,
    "LoRA+PE": lambda values: Both(_lora(values), _prefix_embed(values)),
    "LoRA+PL": lambda values: Both(_lora(values), _prefix_layer(values)),
}
