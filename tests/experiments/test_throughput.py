"""The steps that are timed, and the page that is drawn from them."""

import throughput

from lora_jax.results.pages import throughput as page


def test_each_framework_dtype_and_method_is_timed():
    options = throughput.Options(peer="peft")
    items = throughput.measurements(options, None, None)
    kinds = set()
    for item in items:
        kinds.add(tuple(item.settings[axis] for axis in page.AXES))
    assert len(items) == len(kinds) == 2 * 2 * 2
    # All in one call, so that they are timed in turn.
    assert {item.measure for item in items} == {throughput.measure}
