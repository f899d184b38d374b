"""Rows survive kills, full disks and company; cells are shared between processes."""

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax import results
from lora_jax.results import report


def row(
    rank: int, seed: int = 0, score: float | None = 0.5, **config: Any
) -> dict[str, Any]:
    return {
        "config": {"rank": rank, "seed": seed, **config},
        "metrics": {"test/accuracy": score},
        "examples": {"test": 100},
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results" / "rank_sweep.jsonl"


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-c",
        "import os, sys\nfrom lora_jax import results\n" + code,
        *map(str, arguments),
    ]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


# --- key

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
configs = st.dictionaries(st.text(max_size=5), json_values, max_size=4)


@given(configs)
@settings(deadline=None)
def test_key_outlives_json_and_the_order_of_fields(config: dict[str, Any]):
    key = results.key(config)
    assert len(key) == 16 and int(key, 16) >= 0
    assert results.key(json.loads(json.dumps(config))) == key
    assert results.key(dict(reversed(config.items()))) == key


def test_key_is_the_documented_hash():
    # printf '{"a":[1,2],"lr":0.1}' | sha256sum
    assert (
        results.key({"lr": 0.1, "a": (1, 2)})
        == results.key({"a": [1, 2], "lr": 0.1})
        == "b0fe0d895f70bca3"
    )


def test_any_change_of_a_setting_is_another_key():
    assert (
        len(
            {
                results.key(c)
                for c in (
                    {"a": 1},
                    {"a": 1.0},
                    {"a": True},
                    {"a": "1"},
                    {"a": None},
                    {"b": 1},
                    {},
                )
            }
        )
        == 7
    )


def test_key_lists_all_that_json_cannot_hold():
    config = {
        "lr": math.nan,
        "deep": {"path": [Path("x")]},
        "rank": np.int64(3),
        "t": {1: 2},
    }
    with pytest.raises(ValueError, match="expected values of JSON") as caught:
        results.key(config)
    text = str(caught.value)
    assert (
        "config.lr: float nan" in text
        and "config.deep.path[0]: PosixPath" in text
        and "config.rank: int64" in text
    )
    assert "config.t: the field name 1 is no text" in text


# --- read and record


def test_recorded_rows_are_read_back(path: Path):
    assert results.read(path) == []
    kept = results.record(path, row(1) | {"seconds": 2.5})
    results.record(path, row(2, score=None))
    assert results.read(path) == [kept, results.record(path, row(2))]
    assert kept == row(1) | {"seconds": 2.5, "key": results.key(row(1)["config"])}
    assert path.read_bytes().count(b"\n") == 2


def test_the_first_row_of_a_key_wins(path: Path):
    results.record(path, row(1, score=0.1))
    assert results.record(path, row(1, score=0.9))["metrics"] == {"test/accuracy": 0.1}
    path.write_bytes(path.read_bytes() + path.read_bytes().replace(b"0.1", b"0.9"))
    assert [r["metrics"]["test/accuracy"] for r in results.read(path)] == [0.1]


def test_numbers_of_numpy_are_recorded_as_floats(path: Path):
    results.record(
        path, {"config": {}, "metrics": {"test/loss": np.float32(0.5), "test/n": 3}}
    )
    assert results.read(path)[0]["metrics"] == {"test/loss": 0.5, "test/n": 3.0}


def test_a_kill_at_any_byte_loses_at_most_the_row_being_written(tmp_path: Path):
    whole = tmp_path / "whole.jsonl"
    rows = [results.record(whole, row(rank)) for rank in (1, 2)]
    data, cut = whole.read_bytes(), tmp_path / "cut.jsonl"
    for end in range(data.index(b"\n") + 1, len(data)):
        cut.write_bytes(data[:end])
        assert results.read(cut) == rows[: 1 if end < len(data) - 1 else 2]
        results.record(cut, row(2))
        results.record(cut, row(3))
        assert results.read(cut)[:2] == rows and len(results.read(cut)) == 3


def test_a_last_row_without_line_end_is_kept(path: Path):
    first = results.record(path, row(1))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert results.read(path) == [first]
    assert results.read(path) == [first] and results.record(
        path, row(2)
    ) in results.read(path)
    assert len(results.read(path)) == 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("<<<<<<< HEAD", "Expecting value"),
        ("3", "expected an object with key"),
        ('{"key": 1}', "expected an object with"),
    ],
)
def test_a_corrupt_line_in_the_middle_is_named(path: Path, line: str, reason: str):
    results.record(path, row(1))
    path.write_text(path.read_text() + line + "\n" + path.read_text())
    for read in (results.read, lambda p: results.record(p, row(2))):
        with pytest.raises(
            ValueError, match=rf"rank_sweep\.jsonl, line 2 is not a row: {reason}"
        ):
            read(path)


def test_a_key_follows_the_config_whatever_the_file_says(path: Path):
    results.record(path, row(1))
    path.write_text(path.read_text().replace('"rank":1', '"rank":2'))
    (changed,) = results.read(path)
    assert changed["key"] == results.key(changed["config"])
    assert results.pending(path, [row(1)["config"], row(2)["config"]]) == [
        row(1)["config"]
    ]


def test_an_identity_of_its_own(path: Path):
    by_rank = results.RowFile(
        path, key=lambda config: results.key({"r": config["rank"]})
    )
    by_rank.record(row(1, lr=0.1))
    by_rank.record(row(1, lr=0.2))
    assert len(by_rank.read()) == 1
    with by_rank.claim({"rank": 2, "lr": 0.3}) as is_ours:
        assert is_ours
    with by_rank.claim({"rank": 1, "lr": 0.3}) as is_ours:
        assert not is_ours


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"key":"k","config":[],"metrics":{}}', "expected config to be an object"),
        ('{"key":"k","config":{},"metrics":[]}', "expected metrics to be an object"),
        ('{"key":"k","config":{},"metrics":{"test/x":"1"}}', "metrics: expected"),
        ('{"config":{},"metrics":{}}', "expected an object with key, config"),
        ("[" * 100_000, "is not a row"),
    ],
)
def test_a_line_that_is_no_row_is_named(path: Path, line: str, message: str):
    path.parent.mkdir(parents=True)
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=message) as caught:
        results.read(path)
    assert "rank_sweep.jsonl, line 1" in str(caught.value)


def test_all_bad_metrics_are_told_at_once(path: Path):
    metrics = {
        "accuracy": 0.5,
        "test/loss": math.nan,
        "test/best": "0.5",
        "test/ok": None,
        "test/yes": True,
    }
    with pytest.raises(
        ValueError, match="expected `<split>/<metric>` with a finite number, or None"
    ) as caught:
        results.record(path, {"config": {}, "metrics": metrics})
    text = str(caught.value)
    assert all(
        part in text
        for part in (
            "name 'accuracy'",
            "test/loss = nan",
            "test/best = '0.5'",
            "test/yes = True",
        )
    )
    assert "test/ok" not in text and not path.exists()


def test_a_row_needs_config_and_metrics(path: Path):
    with pytest.raises(
        ValueError,
        match=r"needs `config` and `metrics`, both dicts; got fields \['config'\]",
    ):
        results.record(path, {"config": {}})
    with pytest.raises(ValueError, match=r"row\.when: object"):
        results.record(path, row(1) | {"when": object()})


@pytest.mark.parametrize("short", [True, False])
def test_a_full_disk_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch, short: bool
):
    results.record(path, row(1))
    before, write = path.read_bytes(), os.write

    def full(file: int, data: bytes) -> int:
        written = write(file, data[:9])
        if short:
            return written
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(
            OSError,
            match=r"the row was not recorded, the others are safe: .*rank_sweep\.jsonl",
        ) as caught:
            results.record(path, row(2))
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    results.record(path, row(2))
    assert len(results.read(path)) == 2


def test_two_processes_on_one_file_never_corrupt_it(path: Path):
    code = (
        "for i in range(30):\n"
        "    config = {'i': i, 'who': sys.argv[2] if i % 2 else 'both'}\n"
        "    results.record(sys.argv[1], {'config': config, 'metrics': {'a/b': i}, 'long': 'x' * 9000})"
    )
    writers = [python(code, path, who) for who in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    for writer in writers:
        writer.communicate()
    assert len(results.read(path)) == path.read_bytes().count(b"\n") == 15 + 15 + 15


# --- pending and claim


def test_pending_keeps_the_order(path: Path):
    cells = [row(rank)["config"] for rank in (8, 1, 4)]
    results.record(path, row(1))
    assert results.pending(path, cells) == [cells[0], cells[2]]


def test_a_cell_is_claimed_once_at_a_time_and_only_while_it_has_no_row(path: Path):
    cell, other = row(1)["config"], row(2)["config"]
    with results.claim(path, cell) as ours:
        with results.claim(path, cell) as again, results.claim(path, other) as free:
            assert (ours, again, free) == (True, False, True)
        results.record(path, row(1))
    with results.claim(path, cell) as late:
        assert not late


def test_a_claim_ends_with_an_exception(path: Path):
    with pytest.raises(RuntimeError), results.claim(path, {"a": 1}):
        raise RuntimeError
    with results.claim(path, {"a": 1}) as ours:
        assert ours


def test_another_process_has_the_cell_until_it_dies(path: Path):
    cell = row(1)["config"]
    holder = python(
        "import json\nwith results.claim(sys.argv[1], json.loads(sys.argv[2])) as ours:\n"
        "    print(ours, flush=True); sys.stdin.read()",
        path,
        json.dumps(cell),
    )
    assert holder.stdout is not None and holder.stdout.readline() == "True\n"
    with results.claim(path, cell) as ours:
        assert not ours
    with results.claim(path, row(2)["config"]) as ours:
        assert ours
    holder.kill()
    holder.communicate()
    with results.claim(path, cell, wait=True) as ours:
        assert ours


def test_waiting_ends_with_the_other_processs_row(path: Path):
    cell = row(1)["config"]
    with results.claim(path, cell) as ours:
        code = (
            "import json; print(flush=True)\n"
            "with results.claim(sys.argv[1], json.loads(sys.argv[2]), wait=True) as ours: print(ours)"
        )
        waiter = python(code, path, json.dumps(cell))
        assert ours and waiter.stdout is not None and waiter.stdout.readline() == "\n"
        with pytest.raises(subprocess.TimeoutExpired):
            waiter.wait(timeout=0.3)
        results.record(path, row(1))
    assert waiter.communicate()[0] == "False\n"


def test_all_of_a_rows_life_is_found_in_one_module():
    assert results.render is report.render
