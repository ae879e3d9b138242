"""Let a language model grade the completions of each method, after appendix F.4 of arXiv 2406.16758.

    python recipes/judge.py --outputs runs/gemma-3-270m-drafter-de-en --servers https://HOST --judge_model NAME

The same as `drafter-trainer judge`; --help lists the options.
"""

from drafter_trainer.cli.judge import main
from drafter_trainer.cli.launch import run_step

if __name__ == "__main__":
    run_step(main)
