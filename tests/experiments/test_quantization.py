"""The studies of data types and of merging: their settings, and what they measure, on numbers checked by hand."""

import pytest
import quantization
import quantized_merge


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


class TestMerging:
    def test_bad_settings_are_told_at_once(self):
        with pytest.raises(
            ValueError,
            match=r"kinds: expected some of nf4, .*got 'nf3'.*method: expected lora .*got 'full'",
        ):
            setup = quantized_merge.run.Setup(method="full")
            quantized_merge.cells(quantized_merge.Config(kinds=("nf3",), setup=setup))
