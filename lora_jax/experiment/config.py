"""The settings of a training, each a flag of every study that trains."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import tyro

Alias = tyro.conf.arg


@dataclass(frozen=True)
class Setup:
    """What all cells of a study have in common."""

    model: str = "minilm-l6"
    """Pretrained model: minilm-l6, smollm2-135m, a directory with config.json and model.safetensors, a GGUF file, or a hub id."""
    data: str = "rotten-tomatoes"
    """rotten-tomatoes, cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli; for language models e2e, webnlg, dart, wikisql, samsum;
    or your FILE or folder (text, text_pair?, label, or source, target)."""
    glue_dir: str | None = None
    """A local directory with the GLUE task's files, instead of the hub."""
    data_dir: str | None = None
    """Folder or zip of a task's official files (e2e, webnlg, dart, wikisql, samsum)."""
    rows: int = 2000
    """Training rows: the first after a shuffle with seed 0. 0 is all."""
    validation_rows: int = 500
    """Validation rows the best epoch is chosen on, drawn likewise. 0 is all."""
    max_length: int = 64
    """Longest text, in tokens; what is longer is cut, or with a target that is to be written an error."""
    method: str = "lora"
    """Adaptation method: lora, full (everything learns), top (the last layers), bitfit (biases), adapter_h, adapter_l, prefix, none
    (the pretrained model as it is), or one of your own in METHODS."""
    alpha: float = 16.0
    """LoRA's alpha: the update is scaled by alpha / r."""
    dropout: float = 0.0
    """Dropout on LoRA's input."""
    init: str = "gaussian"
    """LoRA's A: gaussian (the paper) or kaiming_uniform (the official code)."""
    rank_stabilized: bool = False
    """Scale by alpha / sqrt(r)."""
    bias: str = "none"
    """Biases that learn too: none, all, lora_only."""
    bottleneck: int = 8
    """Width of adapter_h's and adapter_l's bottleneck."""
    prefix_length: int = 10
    """Activations that prefix learns at each layer."""
    top_layers: int = 2
    """Layers that top trains."""
    learning_rate: Annotated[float, Alias(aliases=["--lr"])] = 1e-3
    """The highest; it rises during the warm-up, then falls to 0, both linearly."""
    epochs: int = 3
    """Times the training rows are gone through; the best on validation counts."""
    batch: int = 32
    """Rows a step."""
    accumulate: int = 1
    """Micro-batches a step, to save memory; divides batch."""
    weight_decay: float = 0.01
    """AdamW's, of matrices; biases and norms are not decayed."""
    warmup: float = 0.06
    """Share of the steps in which the learning rate rises."""
    clip: float = 1.0
    """Global norm the trainable gradient is clipped to; 0 is none."""
    label_smoothing: float = 0.0
    """Share of the wanted probability spread over all classes."""
    hidden_dropout: float = 0.0
    """Dropout of the pretrained model's own."""
    loss_on: Literal["target", "all"] = "target"
    """Tokens that a language model's loss is about: the target's, or the source's too."""
    test_sources: int = 0
    """Sources of the test split that a target is generated for, drawn as the rows are. 0 is all."""
    new_tokens: int = 64
    """Tokens generated at most."""
    beam: int = 1
    """Beams of the search; 1 takes the likeliest token."""
    length_penalty: float = 1.0
    """A text's score is its log-probability over its tokens to this power."""
    no_repeat: int = 0
    """No n-gram of this size twice in prompt and text; 0 is any."""
    quantize: Literal[
        "none",
        "float",
        "nf4",
        "nf4_double",
        "fp4",
        "fp4_double",
        "int4",
        "int4_affine",
        "int8",
    ] = "none"
    """Data type the frozen matrices are stored in (QLoRA); float makes arrays of what a checkpoint has in few bits."""
    offload: bool = False
    """Keep Adam's moments in host memory between updates, on a GPU or TPU (what QLoRA's paged optimiser is for)."""
    compute: Literal["auto", "float32", "bfloat16"] = "auto"
    """What matrix products are taken in; auto is bfloat16 where the machine has such products, else float32."""


SETUP = Setup()
SMOKE = Setup(
    model="tiny",
    data="tiny",
    rows=0,
    validation_rows=0,
    max_length=16,
    epochs=1,
    batch=16,
)
NLG = Setup(  # LoRA's Table 11 where it says; rows, lengths and the rate are those of a laptop
    model="smollm2-135m",
    data="e2e",
    rows=2048,
    validation_rows=256,
    max_length=160,
    alpha=32.0,
    epochs=1,
    batch=16,
    test_sources=96,
    beam=10,
    length_penalty=0.9,
    no_repeat=4,
    learning_rate=2e-3,
    label_smoothing=0.1,
)
NLG_SMOKE = replace(
    NLG,
    model="tiny-llama",
    data="tiny-nlg",
    rows=32,
    validation_rows=16,
    test_sources=4,
    max_length=960,
    new_tokens=8,
    beam=2,
)
NLG_FULL = replace(
    NLG,
    rows=0,
    validation_rows=0,
    test_sources=0,
    epochs=5,
    batch=8,
    learning_rate=2e-4,
    dropout=0.1,
)
NLG_PAPER = replace(
    NLG_FULL, model="gpt2-medium", warmup=0.019
)  # 500 steps are 1.9 % of E2E's 26,290
