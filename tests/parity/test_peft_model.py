"""The peer of a step: a random model of torch, adapted by peft."""

import pytest

from lora_jax import tree
from lora_jax.accounting import fitted_step, measured_peer, peft_model
from tests.accounting.test_fitted_step import STEP

NF4 = STEP._replace(quantize="nf4")


def parameters(model, *, trainable):
    """How many of a torch model's numbers are trained, or are not."""
    leaves = model.parameters()
    return sum(leaf.numel() for leaf in leaves if leaf.requires_grad == trainable)


@pytest.mark.parametrize("model", ["tiny", "tiny-llama"])
def test_it_has_our_step_s_parameters(model):
    pytest.importorskip("peft")
    step = STEP._replace(model=model)
    peer = peft_model.adapted_peer(step, "cpu")
    trainable, frozen = fitted_step.step_shapes(step)
    # Our adapters have a scale for each direction, which is not trained.
    assert parameters(peer, trainable=True) == tree.count(trainable)
    ours = sum(
        leaf.size
        for path, leaf in tree.leaves(frozen).items()
        if "scale" not in path or "norm" in path
    )
    theirs = parameters(peer, trainable=False)
    # peft keeps the head as it was beside the one that is trained.
    head = 0 if model == "tiny-llama" else 2 * 16 + 2
    assert theirs == ours + head


@pytest.mark.parametrize("step", [STEP, STEP._replace(model="tiny", recompute="block")])
def test_a_row_is_like_that_of_our_own_step(step):
    pytest.importorskip("peft")
    row = measured_peer.measure({**step._asdict(), "times": 2})
    assert len(row["seconds"]) == 2
    assert row["device"] == "cpu"
    assert row["metrics"]["step/tokens_per_second"] > 0
    assert "bytes/peak" not in row["metrics"]


def test_a_step_that_does_not_fit_computes_its_blocks_anew(monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    tried = []

    def seconds(step, times):
        tried.append(step.recompute)
        if step.recompute == "none":
            raise torch.OutOfMemoryError("61 GiB")
        return [1.0] * times

    monkeypatch.setattr(measured_peer, "_seconds", seconds)
    row = measured_peer.measure({**STEP._asdict(), "times": 2})
    assert tried == ["none", "block"]
    assert row["recomputed"] == "block"
    assert row["metrics"]["step/seconds"] == 1.0


def test_a_base_in_nf4_is_bitsandbytes():
    pytest.importorskip("peft")
    bitsandbytes = pytest.importorskip("bitsandbytes")
    peer = peft_model.adapted_peer(NF4, "cpu")
    narrow = [
        module
        for module in peer.modules()
        if isinstance(module, bitsandbytes.nn.Linear4bit)
    ]
    # Two layers of seven matrices, some of them inside of peft's.
    assert len({id(module.weight) for module in narrow}) == 14
    row = measured_peer.measure({**NF4._asdict(), "times": 1})
    assert row["metrics"]["step/seconds"] > 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"method": "full"}, "expected lora of query,value, got full"),
        ({"targets": "query"}, "got lora of query"),
        ({"quantize": "int8"}, "a format of none, nf4, nf4_double, got int8"),
        ({"model": "gpt3-175b"}, "a BERT or a Llama, got gpt3-175b"),
    ],
)
def test_a_step_without_a_peer_is_refused(changes, text):
    pytest.importorskip("peft")
    with pytest.raises(ValueError) as caught:
        peft_model.adapted_peer(STEP._replace(**changes), "cpu")
    assert text in str(caught.value)


def test_packages_that_are_missing_are_named(monkeypatch):
    monkeypatch.setattr(peft_model, "find_spec", {"torch": object()}.get)
    assert peft_model.missing_packages(["torch"]) == ""
    text = peft_model.missing_packages(["torch", "peft", "bitsandbytes"])
    assert text == (
        "expected peft, bitsandbytes, which is not installed: pip install -e '.[peers]'"
    )
