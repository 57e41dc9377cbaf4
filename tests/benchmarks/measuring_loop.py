"""How near an iteration of the measuring loop comes to the program it stands for, by the TPU compiler's estimate.

    python tests/benchmarks/measuring_loop.py

Compiles networks for described chips alone and inside the loop of `cost.measured.timing`, without a TPU, and compares
the latency of the program with that of the loop's body. Results go to `tests/benchmarks/results/measuring_loop.json`.
"""

import argparse
import json
import os
import re
import tempfile
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "measuring_loop.json"
CHIPS = ("tpu_v3", "tpu_v5e")
NETWORKS = (("small_resnet", 128), ("vgg16", 1), ("vgg16", 128))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=str(RESULTS))
    arguments = parser.parse_args()
    os.environ |= {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}  # read when these are imported
    with tempfile.TemporaryDirectory() as scratch:
        from autoprune.cost.compiler.pool import worker_environment

        os.environ |= worker_environment("v5litepod-4", scratch)
        rows = [compare(chip, *network) for chip in CHIPS for network in NETWORKS]
    Path(arguments.out).write_text(json.dumps(rows, indent=1) + "\n")


def compare(chip_name: str, network: str, batch_size: int) -> dict:
    """Microseconds of the program, and of one iteration of the loop around it."""
    import jax
    import keras

    from autoprune.cost.chips import CHIPS as KNOWN
    from autoprune.cost.compiler import hlo, topology
    from autoprune.cost.compiler.programs import inference_program
    from autoprune.cost.measured.timing import make_loop
    from autoprune.models import zoo
    from autoprune.models.config import layer_modules, without_training

    chip = KNOWN[chip_name]
    model = zoo.build(network, None, None)
    config = without_training(keras.saving.serialize_keras_object(model))
    request = {"config": config, "modules": layer_modules(model), "batch_size": batch_size, "dtype": "bfloat16"}
    program = inference_program(request)
    devices = topology.describe_devices(chip.topology, chip.options)[:1]
    state, batch = topology.place_arguments(program.state, program.batch, devices)
    outputs = jax.tree.leaves(jax.eval_shape(program.function, state, batch))
    count, outputs = topology.place_arguments(jax.ShapeDtypeStruct((), "int32"), outputs, devices)

    def microseconds(compiled: jax.stages.Compiled, of: str | None = None) -> float:
        module = hlo.parse_module(compiled.as_text())
        if of is not None:
            loops = [i for steps in module.computations.values() for i in steps if i.opcode == of]
            body = re.search(r"body=%([\w.\-]+)", loops[-1].attributes)[1]
            module = hlo.Module(module.computations, body, module.parameters)
        walked = hlo.walk_schedule(module, chip.clock, chip.bandwidth / chip.devices)
        return 1e6 * sum(seconds for _, seconds in walked)

    alone = microseconds(jax.jit(program.function).lower(state, batch).compile())
    loop = jax.jit(make_loop(program.function), donate_argnums=(2, 3)).lower(count, state, batch, outputs).compile()
    iteration = microseconds(loop, "while")
    row = {"chip": chip_name, "network": network, "batch": batch_size, "alone": alone, "iteration": iteration}
    print(row, f"{iteration / alone - 1:+.1%}", flush=True)
    return row


if __name__ == "__main__":
    main()
