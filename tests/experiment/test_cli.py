"""Flags come from fields and from a method's constructor, and values from a preset."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from lora_jax.experiment import RunConfig, cli, presets

BASE = presets.SMOKE.changed(rank=4, learning_rate=0.5)


@dataclass(frozen=True)
class Options:
    ranks: tuple[int, ...] = (1, 2)
    """Ranks of the sweep."""
    peer: str = "none"
    """Library that is timed beside ours."""
    internal: int = 7  # no text, no flag


@dataclass(frozen=True)
class MethodOptions:
    methods: tuple[str, ...] = ("lora", "adapter_h")
    """Methods that are compared."""


@dataclass(frozen=True)
class NoOptions:
    pass


PRESETS = {
    "smoke": (Options(ranks=(1,)), BASE.changed(rows=8)),
    "quick": (Options(), BASE),
}
NOTHING_TRAINED = {"quick": (NoOptions(), None)}


def parse(*words, presets=PRESETS, keep=False, hidden=()):
    return cli.parse(
        "toy", "A toy.", presets, keep=keep, hidden=hidden, arguments=words
    )


def run_of(*words, **options) -> RunConfig:
    """The run of a command line."""
    run = parse(*words, **options).run
    assert run is not None
    return run


def in_one_line(text: str) -> str:
    """A text without its line ends and frames."""
    return " ".join(text.replace("│", " ").split())


def message_of(capsys, *words, **options) -> str:
    """What is printed before the exit."""
    with pytest.raises(SystemExit) as error:
        parse(*words, **options)
    assert error.value.code != 0
    return in_one_line(capsys.readouterr().err)


def help_of(capsys, *words, **options) -> str:
    with pytest.raises(SystemExit, match="0"):
        parse(*words, "--help", **options)
    return in_one_line(capsys.readouterr().out)


def flag_positions(text: str, flags) -> list[int]:
    return [text.index(f"--{flag}") for flag in flags]


class TestPreset:
    def test_without_a_flag_it_is_the_quick_one_as_it_is(self):
        command = parse()
        assert command == cli.Command(
            options=Options(),
            run=BASE,
            preset="quick",
            out=Path("results"),
            dry_run=False,
            keep=False,
            huge_pages=True,
        )

    def test_its_values_stay_where_no_flag_changes_them(self):
        assert run_of("--rows", "7") == BASE.changed(rows=7)
        command = parse("--peer", "peft")
        assert command.options == Options(peer="peft")
        assert command.run == BASE

    def test_another_one(self):
        command = parse("--preset", "smoke")
        assert command.options.ranks == (1,)
        assert command.run == BASE.changed(rows=8)

    def test_rows_of_a_random_model_have_a_folder_of_their_own(self):
        assert parse("--preset", "smoke").out == Path("results/smoke")
        words = ("--preset", "smoke", "--out", "here")
        assert parse(*words).out == Path("here")

    def test_one_that_does_not_exist_is_an_error_with_those_that_do(self):
        message = "--preset: expected one of smoke, quick, got 'quik'"
        with pytest.raises(ValueError, match=message):
            parse("--preset", "quik")


class TestFlags:
    @pytest.mark.parametrize(
        ("words", "changes"),
        [
            (["--model", "tiny-llama"], {"model": "tiny-llama"}),
            (["--max-length", "9"], {"max_length": 9}),
            (["--max-length", "auto"], {"max_length": "auto"}),
            (["--text-column", "review"], {"text_column": "review"}),
            (["--label-kind", "scores"], {"label_kind": "scores"}),
            # Whatever an experiment calls its data.
            (["--tasks", "rte"], {"data": "rte"}),
            (["--task", "rte"], {"data": "rte"}),
            (["--weight-decay", "0.25"], {"weight_decay": 0.25}),
            (["--offload"], {"offload": True}),
            (["--compute", "float32"], {"compute": "float32"}),
            (["--no-repeat", "3"], {"no_repeat": 3}),
            (["--data-dir", "here"], {"data_dir": "here"}),
            (["--learning-rate", "0.25"], {"learning_rate": 0.25}),
            # A shorter name of the same.
            (["--lr", "0.25"], {"learning_rate": 0.25}),
            # From the constructor of LoRA.
            (["--alpha", "2.5"], {"alpha": 2.5}),
            (["--bias", "all"], {"bias": "all"}),
            (["--layers", "0", "1"], {"layers": [0, 1]}),
        ],
    )
    def test_a_flag_changes_one_setting(self, words, changes):
        assert run_of(*words) == BASE.changed(**changes)

    def test_the_experiments_own_options(self):
        command = parse("--ranks", "4", "8", "--peer", "peft")
        assert command.options == Options(ranks=(4, 8), peer="peft")

    def test_those_of_the_process(self):
        command = parse("--dry-run", "--keep", "--no-huge-pages")
        assert (command.dry_run, command.keep) == (True, True)
        assert not command.huge_pages
        # What is on has a flag that turns it off.
        assert not parse("--no-keep", keep=True).keep

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            # The sweep's own option replaces the run's.
            (["--rank", "2"], "--rank"),
            (["--internal", "2"], "--internal"),
            (["--quantizer", "nf4"], "--quantize"),
            (["--model-source", "here"], "--model-source"),
            (["--rows", "many"], "--rows"),
            (["--compute", "int8"], "float32"),
        ],
    )
    def test_a_wrong_one_ends_with_a_message(self, words, text, capsys):
        assert text in message_of(capsys, *words)

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            (["--peer", ""], "--peer: expected a value, got ''"),
            (["--data="], "--data: expected a value, got ''"),
            (["--out", " "], "--out: expected a value, got ''"),
            (["--ranks"], "--ranks: expected at least one value, got none"),
        ],
    )
    def test_one_without_a_value_is_named(self, words, text):
        with pytest.raises(ValueError) as error:
            parse("--rows", "7", *words)
        assert str(error.value) == text

    def test_all_without_a_value_are_named_at_once(self):
        with pytest.raises(ValueError, match=r"--ranks: .*; --model: expected a value"):
            parse("--ranks", "--model", "")

    def test_what_the_experiment_chooses_itself_has_none(self, capsys):
        assert run_of("--seed", "3").seed == 3
        text = message_of(capsys, "--seed", "3", hidden=("seed",))
        assert "--seed" in text


class TestMethods:
    def test_the_method_brings_its_own_options(self):
        run = run_of("--method", "prefix", "--prefix-length", "3")
        assert run == BASE.changed(method="prefix", prefix_length=3)
        assert run.flat()["prefix_length"] == 3

    def test_an_option_of_another_method_is_refused(self, capsys):
        text = message_of(capsys, "--prefix-length", "3")
        assert "--prefix-length" in text
        text = message_of(capsys, "--method", "full", "--alpha", "2")
        assert "--alpha" in text

    def test_an_unknown_one_is_an_error_with_the_nearest(self):
        message = r"method: expected one of lora, .*none.*, got lroa"
        with pytest.raises(ValueError, match=message):
            parse("--method", "lroa")

    def test_several_bring_the_options_of_each(self):
        several = {"quick": (MethodOptions(), BASE)}
        words = ("--alpha", "2", "--bottleneck", "3")
        command = parse(*words, presets=several)
        assert command.run == BASE.changed(alpha=2.0, bottleneck=3)
        words = ("--methods", "prefix", "full", "--prefix-length", "3")
        command = parse(*words, presets=several)
        assert command.options.methods == ("prefix", "full")
        assert command.run == BASE.changed(prefix_length=3)

    def test_an_unknown_one_of_several(self):
        several = {"quick": (MethodOptions(), BASE)}
        with pytest.raises(ValueError, match=r"one of .*, got lroa, fool"):
            parse("--methods", "lroa", "full", "fool", presets=several)


class TestNothingTrained:
    def test_there_is_no_run(self):
        command = parse("--out", "here", presets=NOTHING_TRAINED)
        assert command.run is None
        assert command.options == NoOptions()

    def test_there_are_no_flags_of_one(self, capsys):
        text = message_of(capsys, "--model", "tiny", presets=NOTHING_TRAINED)
        assert "--model" in text


class TestHelp:
    def test_the_first_flags_are_those_that_people_need_first(self, capsys):
        text = help_of(capsys)
        first = ("ranks", "peer", "model", "data", "rows", "epochs")
        positions = flag_positions(text, (*first, "preset", "out", "dry-run"))
        assert positions == sorted(positions)
        assert positions[-1] < text.index("texts options")

    def test_the_others_are_in_groups(self, capsys):
        text = help_of(capsys)
        groups = ("texts", "training", "adaptation", "decoding", "process")
        positions = [text.index(f"{group} options") for group in groups]
        assert positions == sorted(positions)
        flags = ("max-length", "batch", "quantize", "beam", "keep")
        ends = [*positions[1:], len(text)]
        # A flag of each group stands under its heading.
        for flag, start, end in zip(flags, positions, ends, strict=True):
            assert f"--{flag} " in text[start:end]

    def test_texts_are_those_of_the_fields_and_of_the_constructor(self, capsys):
        text = help_of(capsys)
        assert text.startswith("usage: python experiments/toy.py ")
        for part in (
            "Ranks of the sweep.",
            "Rows in a step. (default: 16)",
            "Numerator of the scale alpha/r",
            "--lr FLOAT, --learning-rate FLOAT",
            "changed by every other flag: smoke, quick. (default: quick)",
        ):
            assert part in text
        # A field without a text is none.
        assert "--internal" not in text

    def test_the_methods_own_options_are_there(self, capsys):
        text = help_of(capsys, "--method", "adapter_h")
        assert "--bottleneck" in text
        assert "--alpha" not in text

    def test_defaults_are_the_presets(self, capsys):
        text = help_of(capsys, "--preset", "smoke")
        assert "(default: results/smoke)" in text
        assert "(default: 0.5)" in text
