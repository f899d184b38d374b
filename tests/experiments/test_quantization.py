"""The studies of data types and of merging: their settings, and what they measure, on numbers checked by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
import quantization
import quantized_merge

from lora_jax.accounting import step_time, storage


def row(part, name, seed=0, **metrics):
    at = {
        "part": part,
        "type": name,
        "seed": seed,
        "model": "m",
        "data": "d",
        "block": None,
        "quantize": "q",
        "compute": "c",
    }
    return {
        "key": f"{part}{name}{seed}",
        "config": at,
        "metrics": metrics,
        "examples": {"test": 100},
    }


class TestDataTypes:
    def test_bad_settings_are_told_at_once(self):
        with pytest.raises(ValueError) as caught:
            quantization.check(
                quantization.Config(types=("nf5",), blocks=(48,), length=0)
            )
        told = str(caught.value)
        assert (
            "types: expected some of fp32, bf16, int8" in told and "got 'nf5'" in told
        )
        assert (
            "blocks: expected powers of two from 32 to 4096, got 48" in told
            and "length: expected 1 or more, got 0" in told
        )

    def test_sizes_of_a_matrix_of_one_block(self):
        model = {
            "blocks": {
                "kernel": jnp.asarray(
                    np.linspace(-7, 7, 64, dtype=np.float32).reshape(1, 8, 8)
                )
            }
        }
        found = storage.sizes(
            model, "int4", None
        )  # one block of 64: 32 bytes of codes, 4 of scale
        assert found["size/bits"] == 8 * 36 / 64 and found["size/memory"] == 36
        assert found["size/disk"] > 36, "the header"
        plain = np.linspace(-7, 7, 64)
        away = np.abs(np.round(plain) - plain)  # the scale is 7 / 7
        assert found["error/mean_absolute"] == pytest.approx(away.mean(), rel=1e-4)
        assert found["error/relative"] == pytest.approx(
            ((away**2).sum() / (plain**2).sum()) ** 0.5, rel=1e-4
        )
        assert storage.sizes(model, "fp32", None)["error/relative"] == 0

    def test_the_paper_s_values_stand_beside_our_types(self):
        table = storage.published().set_index("type")
        assert table.loc["nf4-double"].tolist()[::2] == [27.41, 53.1]
        assert table.loc["fp4"].tolist() == [31.07, 88.6, 52.2]

    def test_verdicts_hold_a_difference_against_its_error(self):
        rows = [
            row(
                "sizes",
                t,
                **{f"size/{n}": 1.0 for n in ("bits", "disk", "memory")},
                **{"error/relative": 0.1},
            )
            for t in ("bf16", "fp4", "nf4-double")
        ]
        for seed, (fp4, nf4) in enumerate([(0.70, 0.80), (0.71, 0.81)]):
            rows += [
                row("alone", "fp4", seed, **{"test/accuracy": fp4}),
                row("alone", "nf4-double", seed, **{"test/accuracy": nf4}),
            ]
            rows += [
                row("lora", "bf16", seed, **{"test/accuracy": nf4}),
                row("lora", "nf4-double", seed, **{"test/accuracy": fp4}),
            ]
        found = {
            verdict.published: verdict.verdict
            for verdict in quantization.verdicts(rows)
        }
        assert found["without training NF4 + DQ is better than FP4"] == "seen"
        assert found["LoRA on NF4 + DQ is as good as on BF16"] == "not seen"

    def test_steps_run_in_turn_and_the_first_two_do_not_count(self):
        ran = []
        steps = [
            step_time.Step(lambda name=name: ran.append(name), {}) for name in "ab"
        ]
        assert [len(taken) for taken in step_time.interleaved(steps, 3)] == [3, 3]
        assert ran == list("ab") * 5


class TestMerging:
    def test_bad_settings_are_told_at_once(self):
        with pytest.raises(
            ValueError,
            match=r"kinds: expected some of nf4, .*got 'nf3'.*method: expected lora .*got 'full'",
        ):
            setup = quantized_merge.run.Setup(method="full")
            quantized_merge.cells(quantized_merge.Config(kinds=("nf3",), setup=setup))
