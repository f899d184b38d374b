"""Does a training step fit a machine, and how fast is it at best?

The step that training runs is compiled for the machine's devices, there or not, of
shapes alone: nothing of the model's size is allocated.
"""

import itertools
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lora_jax import data, devices, methods, quant, train, tree
from lora_jax.accounting import program_text
from lora_jax.accounting.compiled_step import (
    abstract_batch,
    analyzed_bytes,
    loss_of,
)
from lora_jax.accounting.described_devices import machine_devices
from lora_jax.accounting.machines import (
    Machine,
    compiler_version,
    device_memory,
    find_machine,
    floors,
)
from lora_jax.accounting.model_shapes import shaped_model
from lora_jax.accounting.operations import product_operations
from lora_jax.accounting.program_cost import program_cost
from lora_jax.nn import precision
from lora_jax.nn.blocks import REMATS
from lora_jax.plural import counted
from lora_jax.train import sharding
from lora_jax.train.cross_entropy import CHUNK

NOT_QUANTIZED = "none"
# jax's name of a backend, where it is another than that of its compiler.
BACKENDS = {"cuda": "gpu"}
# How a compiler says how much a program would need that does not fit.
_NEEDED = re.compile(r"\bUsed ([\d.]+)G of|temporaries \(([\d.]+)G\)")
_REFUSED = "RESOURCE_EXHAUSTED"


class FittedStep(NamedTuple):
    """A training step. Methods without LoRA's options have no targets, and rank 0."""

    model: str  # see `shaped_model`
    method: str
    targets: str  # LoRA's matrices
    rank: int
    quantize: str  # the format of the base, of `quant.FORMATS`, or "none"
    dtype: str  # what the base is stored in where it is not quantized
    compute: str  # of `nn.precision.COMPUTE_DTYPES`
    batch: int  # rows, over all devices
    length: int  # tokens of each row
    # A row's setting `remat` is of a run, which is the same however it fits.
    recompute: str  # what the backward pass computes anew, of `nn.blocks.REMATS`
    machine: str  # see `machines.MACHINES`
    mesh: str = ""  # `data=4,model=2`, see `train.sharding`; empty for one device
    shard_base: bool = False  # over `data` as well as `model`
    adapter_dtype: str = "float32"  # of `methods.ADAPTER_DTYPES`


class _Arguments(NamedTuple):
    """What a step takes, every leaf a shape."""

    trainable: Any
    state: Any
    frozen: Any
    batch: data.Batch
    rate: Any
    key: Any


def check(steps: Iterable[FittedStep]) -> None:
    """Raise one ValueError with everything that is wrong with the steps."""
    problems: dict[str, None] = {}  # in order, each once
    for step, verify in itertools.product(steps, CHECKS):
        try:
            verify(step)
        except ValueError as error:
            problems[str(error)] = None
    if problems:
        raise ValueError("; ".join(problems))


def _check_machine(step: FittedStep) -> None:
    count = find_machine(step.machine).devices
    shape = sharding.parse_mesh(step.mesh) if step.mesh else sharding.MeshShape()
    if shape.devices != count:
        raise ValueError(
            f"mesh: expected {counted(count, 'device')} in all, of {step.machine}, got "
            f"{step.mesh or 'none'}"
        )
    if shape.cells > 1:
        raise ValueError(
            "mesh: cells are the trainings of a population, and this is one step: "
            f"expected data and model, got {step.mesh}"
        )
    if step.batch % shape.data:
        raise ValueError(
            f"batch: expected a multiple of data, {shape.data}, got {step.batch}"
        )


def _check_shape(step: FittedStep) -> None:
    config = shaped_model(step.model).config
    # RoBERTa's first positions are never a token's.
    longest = config.max_positions - config.offset
    if step.batch < 1 or not 1 <= step.length <= longest:
        raise ValueError(
            f"expected at least 1 row of 1 to {longest} tokens, {step.model}'s "
            f"positions; got {step.batch} of {step.length}"
        )


def step_shapes(step: FittedStep) -> tuple[Any, Any]:
    """Return the trainable and the frozen leaves of a step, as shapes.

    What is loaded has the step's dtype; what a method adds has that of adapters.

    Raises:
        ValueError: the model, the method, its options or the format are wrong.
    """
    method = step_method(step)
    adapted = jax.eval_shape(method.adapt, jax.random.key(0), stored_model(step))
    mask = methods.mask(adapted, method)
    trainable, frozen = tree.split(adapted, mask)
    # Cast once, as training does.
    cast = jax.eval_shape(
        lambda leaves: precision.cast_kernels(leaves, step.compute), frozen
    )
    return trainable, cast


def step_method(step: FittedStep) -> methods.Method:
    """Return the method of a step.

    Raises:
        ValueError: there is no such method, or its options are wrong.
    """
    method = methods.make(step.method, targets=step.targets, rank=step.rank)
    return methods.with_adapter_dtype(method, step.adapter_dtype)


def stored_model(step: FittedStep) -> Any:
    """Return a step's model as it is stored, every leaf a shape.

    Raises:
        ValueError: the model or the format is wrong.
    """
    model = _cast(shaped_model(step.model), step.dtype)
    if step.quantize == NOT_QUANTIZED:
        return model
    spec = quant.find_spec(step.quantize)
    return jax.eval_shape(lambda model: quant.quantize_model(model, spec), model)


def _check_training(step: FittedStep) -> None:
    if step.recompute not in REMATS:
        raise ValueError(
            f"remat: expected one of {', '.join(REMATS)}, got {step.recompute!r}"
        )
    train.check(_train_config(step))


CHECKS = (_check_machine, _check_shape, _check_training, step_shapes)
"""What has to hold of a step before it is compiled."""


def _cast(model: Any, dtype: str) -> Any:
    def cast(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype))

    return jax.tree.map(cast, model)


def _step_config(step: FittedStep) -> train.StepConfig:
    config = train.step_config(_train_config(step))
    # Attention, for one, is another on a GPU.
    compiler = find_machine(step.machine).compiler
    return config._replace(backend=BACKENDS.get(compiler, compiler))


def _train_config(step: FittedStep) -> train.TrainConfig:
    settings: Any = {"compute_dtype": step.compute, "remat": step.recompute}
    return train.TrainConfig(batch=step.batch, **settings)


def step_cost(step: FittedStep) -> dict[str, Any]:
    """Return what a step costs on one device of its machine.

    `metrics` has the number of devices, and of one of them bytes (`bytes/base`, `bytes/adapters`, `bytes/optimizer`,
    `bytes/arguments`, `bytes/temporary`, `bytes/total`, `bytes/device`, which is what
    the device has), whether it fits, operations of products, bytes accessed, and the floors of
    the step's time in seconds. `collectives` are counts and bytes by kind, `largest`
    the largest results, `compiler` who compiled, and
    `source` where the peaks are published. Where the compiler refuses the
    step, for it does not fit, what it did not say is missing.

    Raises:
        ValueError: as `check`, or the machine's compiler fails otherwise.
    """
    machine = find_machine(step.machine)
    arguments = _placed(_arguments(step), step)
    loss = loss_of(shaped_model(step.model))
    config = _step_config(step)
    with jax.set_mesh(arguments.rate.sharding.mesh):
        traced = train.train_step.trace(*arguments, loss=loss, config=config)
    loops = _loss_chunks(step)
    operations = product_operations(traced.jaxpr, loops=loops) / machine.devices
    metrics = {
        "step/devices": machine.devices,
        "bytes/base": devices.nbytes(arguments.frozen),
        "bytes/adapters": devices.nbytes(arguments.trainable),
        "bytes/optimizer": devices.nbytes(arguments.state),
        "bytes/device": device_memory(machine),
        "step/operations": operations,
    }
    row = {"metrics": metrics, "compiler": compiler_version(machine)}
    row |= {"source": machine.chip.source, "collectives": {}, "largest": []}
    try:
        compiled = traced.lower().compile(_compiler_options(machine))
    except jax.errors.JaxRuntimeError as error:
        return row | _refused(metrics, error)
    sizes = analyzed_bytes(compiled.memory_analysis())
    metrics |= {f"bytes/{name}": size for name, size in sizes.items()}
    metrics["step/fits"] = int(metrics["bytes/total"] <= metrics["bytes/device"])
    cost = program_cost(program_text.parse(compiled.as_text() or ""), loops=loops)
    metrics["step/accessed"] = cost.accessed
    metrics |= floors(machine, operations, cost.accessed)
    return row | {"collectives": cost.collectives, "largest": cost.largest}


def _arguments(step: FittedStep) -> _Arguments:
    trainable, frozen = step_shapes(step)
    config = _step_config(step)
    return _Arguments(
        trainable,
        jax.eval_shape(train.optimizer(config).init, trainable),
        frozen,
        abstract_batch(step.batch, step.length),
        jax.ShapeDtypeStruct((), "float32"),
        # Its kind depends on jax's settings.
        jax.eval_shape(lambda: jax.random.key(0)),
    )


def _placed(arguments: _Arguments, step: FittedStep) -> _Arguments:
    """Return the arguments with the devices they are on."""
    members = machine_devices(find_machine(step.machine))
    shape = sharding.parse_mesh(step.mesh) if step.mesh else sharding.MeshShape()
    mesh = sharding.make_mesh(members, shape)
    described = sharding.Placement(mesh, step.shard_base).described(arguments)
    rows = sharding.describe(arguments.batch, sharding.row_sharding(mesh))
    return described._replace(batch=rows)


def _loss_chunks(step: FittedStep) -> int:
    """Return how many chunks of tokens the loss over a vocabulary has."""
    width = max(1, min(step.length, CHUNK // step.batch))
    return -(-step.length // width)


def _compiler_options(machine: Machine) -> dict[str, Any]:
    # XLA lays buffers out before it makes machine code, which need not be good here.
    if machine.compiler == "cpu":
        return {"xla_backend_optimization_level": "0"}
    return {}


def _refused(metrics: dict[str, Any], error: Exception) -> dict[str, Any]:
    """Return what is known of a step that the compiler refuses."""
    text = str(error)
    if _REFUSED not in text:
        raise ValueError(f"the compiler failed: {text}") from None
    metrics["step/fits"] = 0
    if needed := _NEEDED.search(text):
        gib = float(needed[1] or needed[2])
        metrics["bytes/total"] = int(gib * 2**30)
    return {"metrics": metrics, "refused": text.splitlines()[0]}
