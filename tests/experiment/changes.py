"""Settings of a run that hypothesis draws."""

from hypothesis import strategies as st

from lora_jax.experiment import NO_METHOD

# A field of the run, of each of its parts, and options of two methods.
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["tiny", "tiny-llama"]),
        "method": st.sampled_from(["lora", "full", "prefix", NO_METHOD]),
        "seed": st.integers(0, 9),
        "adapter_dtype": st.sampled_from(["float32", "bfloat16"]),
        "data": st.sampled_from(["tiny", "cola"]),
        "rows": st.integers(0, 9),
        "learning_rate": st.floats(1e-6, 1.0),
        "compute": st.sampled_from(["float32", "bfloat16"]),
        "beam": st.integers(1, 9),
        "rank": st.integers(1, 9),
        "prefix_length": st.integers(1, 9),
    },
)
