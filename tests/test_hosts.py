"""What processes agree on; several of them are in tests/experiment."""

import pytest

from lora_jax import hosts


def test_a_process_alone_agrees_with_itself():
    assert hosts.is_first()
    assert hosts.agreed(lambda: {"rows": 3}) == {"rows": 3}


def test_any_error_is_told_to_those_who_wait():
    def missing():
        raise KeyError("no rows")

    result, error = hosts._outcome(missing)
    assert result is None
    assert isinstance(error, KeyError)


def test_a_process_alone_has_the_settings_of_all():
    hosts.check_same({"rank": "1"})


@pytest.mark.parametrize("address", ["here", ":1", "here:", "here:port"])
def test_an_address_has_a_host_and_a_port(address):
    with pytest.raises(ValueError, match="coordinator: expected the first process's"):
        hosts.check(address, 2, 0)


@pytest.mark.parametrize(("processes", "index"), [(0, 0), (2, 2), (2, -1)])
def test_a_process_is_one_of_those_there_are(processes, index):
    with pytest.raises(ValueError, match="processes, process_index: expected"):
        hosts.check("localhost:1", processes, index)
