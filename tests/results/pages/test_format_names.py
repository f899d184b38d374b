"""The names of formats in rows and in the code."""

from lora_jax.accounting.storage import FORMATS
from lora_jax.results.pages.format_names import format_name, row_name


def test_rows_have_a_hyphen():
    assert row_name("nf4_double") == "nf4-double"
    assert format_name("nf4-double") == "nf4_double"


def test_names_come_back():
    assert [format_name(row_name(name)) for name in FORMATS] == list(FORMATS)
