"""Made-up scores and sizes of adapters that are stored in few bits."""

# Bytes of the file, and bits of a number, by format.
SIZES = {
    "none": (300e3, 32),
    "int8": (80e3, 8.1),
    "nf4": (50e3, 4.5),
    "nf4_double": (45e3, 4.1),
}
# Of two seeds.
SCORES = {
    "none": (0.80, 0.84),
    "nf4": (0.78, 0.83),
    "int8": (0.81, 0.84),
    "nf4_double": (0.70, 0.80),
}


def stored_metrics(stored: str, score: float, difference: float) -> dict[str, float]:
    """The metrics of a row; `difference` is that of the score to float32's."""
    size, bits = SIZES[stored]
    return {
        "test/accuracy": score,
        "change/accuracy": difference,
        "size/file": size,
        "size/bits": bits,
        "delta/error": 0.1,
        "logits/distance": 0.05,
    }
