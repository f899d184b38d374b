"""Section 4.2's numbers of GPT-3, and what the page says of them."""

import gpt3_memory
import pytest

from lora_jax import accounting
from lora_jax.accounting.optimizer_states import PRECISIONS, compare_with_lora
from lora_jax.results import claims

OPTIONS, _ = gpt3_memory.PRESETS["quick"]


@pytest.fixture(scope="module")
def rows():
    result = []
    for item in gpt3_memory.measurements(OPTIONS, None, None):
        metrics = compare_with_lora(**item.settings)
        result.append({"config": dict(item.settings), "metrics": metrics})
    return result


def test_gpt3_in_every_precision_and_all_others_in_one(rows):
    assert len(rows) == len(PRECISIONS) + len(accounting.ARCHITECTURES) - 1


def test_gpt3_against_the_paper(rows):
    by_precision = gpt3_memory.stored(rows, "precision", architecture="gpt3-175b")
    result = {}
    for line in gpt3_memory.section_4_2(by_precision):
        result[line["claim"]] = (line["ours"], line["precision"], line["verdict"])
    six = "FP16, no gradient kept"
    assert result == {
        "L3": ("1.048 TB", six, claims.UNEXPLAINED),
        "L2": ("2.999 x", six, claims.FITTED),
        "L15": ("0.6666", six, claims.FITTED),
        "L4": ("349.4 GB", "FP16", claims.NEAR),
        "L5": ("349.2 GB", "FP16", claims.NEAR),
        "L6": ("37.75 MB", "FP16", claims.NEAR),
        "L7": ("9251 x", "FP16", claims.NEAR),
        "L8": ("353 GB", "FP16", claims.NEAR),
    }


def test_what_the_page_says_of_gpt3():
    text = " ".join(gpt3_memory.EXPLANATION.split())
    parameters = accounting.total_parameters("gpt3-175b")
    assert f"{1.2e12 / parameters:.1f} bytes" in text
    assert f"are {6 * parameters / 1e12:.2f} TB" in text
    assert f"are {8 * parameters / 1e12:.2f} TB" in text
    assert f"{8 * parameters / 2**40:.2f} TiB" in text
    checkpoint = 2 * 18_874_368
    assert f"{checkpoint / 1e6:.1f} MB or {checkpoint / 2**20:.1f} MiB" in text


def test_an_unknown_architecture_is_refused():
    options = gpt3_memory.Options(architectures=("gpt5",))
    with pytest.raises(ValueError, match="gpt5"):
        gpt3_memory.measurements(options, None, None)
