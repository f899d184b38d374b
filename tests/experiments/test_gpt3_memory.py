"""Section 4.2's numbers of GPT-3, and what is refused."""

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
    verdicts = gpt3_memory.show(rows).sections[1].blocks[0]
    result = {}
    for line in verdicts.to_dict("records"):
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


def test_an_unknown_architecture_is_refused():
    options = gpt3_memory.Options(architectures=("gpt5",))
    with pytest.raises(ValueError, match="gpt5"):
        gpt3_memory.measurements(options, None, None)
