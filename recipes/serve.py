"""Start vLLM or llama.cpp with a target and its drafter, and check that drafted tokens are accepted.

    python recipes/serve.py --target TARGET --drafter DRAFTER --engine_python VLLM_ENVIRONMENT/bin/python

The same as `drafter-trainer serve`; --help lists the options.
"""

from drafter_trainer.cli.launch import run_step
from drafter_trainer.cli.serve import main

if __name__ == "__main__":
    run_step(main)
