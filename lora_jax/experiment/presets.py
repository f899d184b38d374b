"""Named starting points of a run.

Encoders label texts; language models write them, and have presets of their own. QUICK
is a laptop's size and what the committed rows are; PAPER is the papers' models and
hyperparameters.
"""

from lora_jax.experiment.config import RunConfig

QUICK = RunConfig()
SMOKE = QUICK.changed(
    model="tiny",
    data="tiny",
    rows=0,
    validation_rows=0,
    max_length=16,
    epochs=1,
    batch=16,
)
# 0 is all of them: the whole task, on a small model.
FULL = QUICK.changed(rows=0, validation_rows=0)
# RoBERTa-base on GLUE: LoRA's Table 9. Its epochs differ by task, see `paper.lora`.
PAPER = QUICK.changed(
    model="roberta-base",
    rows=0,
    validation_rows=0,
    max_length=512,
    alpha=8.0,
    learning_rate=5e-4,
    epochs=0,
    batch=16,
    weight_decay=0.1,
    hidden_dropout=0.1,
    clip=1.0,
    warmup=0.06,
)

# Text generation: LoRA's Table 11 where it says; rows, lengths and the learning rate
# are a laptop's.
NLG = QUICK.changed(
    model="smollm2-135m",
    data="e2e",
    rows=2048,
    validation_rows=256,
    test_sources=96,
    max_length="auto",
    rank=4,
    alpha=32.0,
    epochs=1,
    batch=16,
    learning_rate=2e-3,
    label_smoothing=0.1,
    beam=10,
    length_penalty=0.9,
    no_repeat=4,
    no_repeat_within="text",
)
NLG_SMOKE = NLG.changed(
    model="tiny-llama",
    data="tiny-nlg",
    rows=32,
    validation_rows=16,
    test_sources=4,
    max_length=960,
    new_tokens=8,
    beam=2,
)
NLG_FULL = NLG.changed(
    rows=0,
    validation_rows=0,
    test_sources=0,
    epochs=5,
    batch=8,
    learning_rate=2e-4,
    dropout=0.1,
)
# The paper warms up for 500 steps, 1.9 % of E2E's 26,290.
NLG_PAPER = NLG_FULL.changed(model="gpt2-medium", warmup=0.019)
