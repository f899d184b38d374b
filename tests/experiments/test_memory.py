"""The experiment on memory: its steps, what is refused, and the order of its page."""

import memory
import pytest

from lora_jax.accounting import compiled_step

EXPERIMENT = memory.EXPERIMENT
ALL = "query,key,value,output,up,down"
SMOKE = ["--preset", "smoke"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The smoke run with two lengths; XLA says 100,000 bytes of all steps."""
    folder = tmp_path_factory.mktemp("memory")
    sizes = dict.fromkeys(("temporary", "total"), 100_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled_step, "compiled_bytes", lambda *_, **__: sizes)
        EXPERIMENT.main([*SMOKE, "--out", str(folder), "--lengths", "16", "8"])
    return EXPERIMENT.rows(folder)


def test_each_set_has_the_first_rank_and_each_rank_the_first_set():
    options = memory.Options(models=("minilm-l6",), computes=("float32",))
    settings = []
    for item in memory.measurements(options, None, None):
        step = item.settings
        settings.append((step["method"], step["targets"], step["rank"]))
    assert settings == [
        ("full", "", 0),
        ("bitfit", "", 0),
        ("lora", "query,value", 8),
        ("lora", "query,key,value,output", 8),
        ("lora", ALL, 8),
        ("lora", "query,value", 64),
    ]


def test_lengths_stand_in_order_whatever_the_order_of_rows(rows):
    report = memory.show(rows)
    titles = [section.title for section in report.sections]
    assert titles[1:3] == ["4 rows of 8 tokens", "4 rows of 16 tokens"]
    assert memory.show(rows[::-1]).data.equals(report.data)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (
            ["--lengths", "65"],
            "expected at least 1 row of 1 to 64 tokens, tiny's positions; got 4 of 65",
        ),
        (
            ["--targets", "qeury"],
            "'qeury' matches no layer; there are: blocks/attention/query",
        ),
        (["--models"], "expected at least one value"),
        (["--targets"], "--targets: expected at least one value, got none"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_compiled(flags, text, tmp_path):
    with pytest.raises(ValueError) as error:
        EXPERIMENT.main([*SMOKE, "--out", str(tmp_path), *flags])
    assert text in str(error.value)
    assert not list(tmp_path.iterdir())


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    flags = ["--targets", "qeury", "--lengths", "16", "65"]
    with pytest.raises(ValueError, match=r"qeury.*; expected at least 1 row"):
        EXPERIMENT.main([*SMOKE, "--out", str(tmp_path), *flags])
