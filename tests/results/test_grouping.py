"""Rows by the values of their settings."""

from lora_jax import results


def test_rows_are_split_in_order_of_appearance():
    rows = []
    for model, data, seed in (("b", "x", 0), ("a", "x", 0), ("b", "x", 1)):
        rows.append({"config": {"model": model, "data": data, "seed": seed}})
    parts = results.split_by(rows, ["model", "data"])
    assert parts == {("b", "x"): [rows[0], rows[2]], ("a", "x"): [rows[1]]}
    assert list(parts) == [("b", "x"), ("a", "x")]
