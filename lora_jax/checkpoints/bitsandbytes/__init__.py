"""bitsandbytes' quantized weights, read as one value each.

bitsandbytes 0.50 stores a quantized weight as several tensors: packed codes, scales,
tables, and for NF4 and FP4 a JSON with the rest. `collect_quantized` puts one tensor in
the place of all that belong together; its `read()` gives a `quant.Quantized`.
"""

from lora_jax.checkpoints.bitsandbytes.collect import collect_quantized
from lora_jax.checkpoints.bitsandbytes.quant_state import DTYPES, STATE, TABLES

# The tables are public: parity tests hold them against bitsandbytes' own.
__all__ = ["DTYPES", "STATE", "TABLES", "collect_quantized"]
