"""The papers' names of matrices and methods, and the one spelling used here."""

# The seven sets of Table 5; Tables 6 and 18 have some of them.
TARGETS = {
    "Wq": "query",
    "Wk": "key",
    "Wv": "value",
    "Wo": "output",
    "Wq,Wk": "query,key",
    "Wq,Wv": "query,value",
    "Wq,Wk,Wv,Wo": "query,key,value,output",
}
"""The paper's set of adapted matrices, then ours as `--targets` takes it."""

# Tables 2 and 4 shorten names, Tables 3, 13 and 14 differ in the prefix's.
METHODS = {
    "FT": "Fine-Tune",
    "PreEmbed": "PrefixEmbed",
    "PreLayer": "PrefixLayer",
    "PrefLayer": "PrefixLayer",
    "Prefix": "PrefixLayer",
    "AdptH": "AdapterH",
    "AdptP": "AdapterP",
    "AdptD": "AdapterD",
}
"""LoRA's tables spell some methods in several ways; each with the spelling kept."""


def spell_method(printed: str) -> str:
    """Return the one spelling of a method that LoRA's tables print."""
    # Most are spelled alike everywhere.
    return METHODS.get(printed, printed)
