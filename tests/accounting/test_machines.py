"""The machines to compile for, and what is said where a compiler is missing."""

from pathlib import Path

import pytest

from lora_jax.accounting import machines
from lora_jax.accounting.machines import MACHINES

MEMORY = Path("/proc/meminfo")


def test_each_machine_is_found_by_its_name():
    for name, machine in MACHINES.items():
        assert machines.find_machine(name) is machine
        assert machine.name == name


def test_an_unknown_machine_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"expected one of cpu, h100, .*, got 'v6e'"):
        machines.find_machine("v6e")


def test_peaks_are_as_published():
    chip = MACHINES["h100"].chip
    # NVIDIA's data sheet: 1,979 TFLOP/s with sparsity, 3.35 TB/s.
    assert round(2 * chip.peak / 1e12) == 1979
    assert round(chip.bandwidth / 1e12, 2) == 3.35
    for machine in MACHINES.values():
        assert machine.chip.source or machine.compiler == "cpu"


@pytest.mark.skipif(not MEMORY.exists(), reason="only Linux has this file")
def test_this_machine_has_the_memory_that_linux_says():
    total = MEMORY.read_text(encoding="utf-8").split()
    assert total[0] == "MemTotal:"
    expected = 1024 * int(total[1])
    assert machines.device_memory(MACHINES["cpu"]) == expected
    assert machines.device_memory(MACHINES["a100"]) < 40 * 2**30


def test_missing_compilers_are_named_once_with_what_installs_them(monkeypatch):
    installed = {"jaxlib": object(), "libtpu": None}
    monkeypatch.setattr(machines, "find_spec", installed.get)
    names = ["h100", "cpu", "v5e-1", "h100x8", "h100"]
    cuda, tpu = machines.missing_compilers(names)
    assert cuda.startswith("h100, h100x8: expected XLA's compiler for GPUs")
    assert cuda.endswith("pip install -e '.[cuda]'")
    assert tpu.startswith("v5e-1: ") and tpu.endswith("pip install -e '.[tpu]'")
    assert machines.missing_compilers(["cpu"]) == []


def test_a_compiler_without_its_package_is_missing(monkeypatch):
    def find_spec(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(machines, "find_spec", find_spec)
    assert len(machines.missing_compilers(["h100"])) == 1


def test_a_compiler_has_a_version():
    wheel, version = machines.compiler_version(MACHINES["cpu"]).split()
    assert wheel == "jaxlib" and version[0].isdigit()


def test_a_floor_is_the_larger_of_products_and_bytes():
    h100 = MACHINES["h100"]
    floors = machines.floors(h100, h100.chip.peak, int(2 * h100.chip.bandwidth))
    assert floors == {
        "floor/products": 1.0,
        "floor/memory": 2.0,
        "floor/seconds": 2.0,
    }
    # Of a processor nobody publishes a peak.
    assert machines.floors(MACHINES["cpu"], 1.0, 1) == {}
