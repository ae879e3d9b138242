"""Start vLLM or llama.cpp with a target and its drafter, and check that drafted tokens are accepted.

    drafter-trainer serve --target TARGET --drafter DRAFTER --engine_python VLLM_ENVIRONMENT/bin/python
    drafter-trainer serve --engine llamacpp --target TARGET.gguf --drafter RUN_FOLDER/export

First, the server completes a prompt of the drafter's own task. If hardly any drafted token is accepted, the drafter is
misconfigured, and the server is stopped. Options of the engine itself follow after --, as in
-- --port 8001 --max-num-seqs 16. docs/serving.md describes the requirements of each engine.
"""

import signal
import sys

from drafter_trainer.cli.configuration import option_of, parse_arguments
from drafter_trainer.cli.options import arguments_of, split_engine_options
from drafter_trainer.errors import InputError
from drafter_trainer.serving.engines import serve


def main(argv: list[str]) -> None:
    """Run the step."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the engine ends with this process
    own, engine_options = split_engine_options(argv)
    (options,), _ = parse_arguments("serve", own, __doc__)
    given = arguments_of(serve, options) | {"target": options.target_model, "python": options.engine_python}
    if (port := option_of(engine_options, "--port") or "").isdigit():  # the engine rejects another value itself
        given["port"] = int(port)
    with serve(**given, part=options.part, options=engine_options) as running:
        print(f"serving {options.target_model} at {running.url}, until it is interrupted", flush=True)
        if status := running.process.wait():
            raise InputError(f"{options.engine} ended with status {status}: see its messages above")
