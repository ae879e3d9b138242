"""Write the files that vLLM, SGLang and llama.cpp need for a published drafter.

    drafter-trainer export --config recipes/configs/gemma-3-270m/de-en.yaml --engine vllm llamacpp:TARGET.gguf

Writes vllm.json, sglang.txt, llamacpp.txt with drafter.gguf, and a README with the passed checks, to --output_dir
(default: RUN_FOLDER/export). drafter.gguf is written for the families Llama, Qwen 3 and Gemma 3. For other families,
run llama.cpp's own converter on the drafter's folder.
"""

import logging
from pathlib import Path

from drafter_trainer import export_drafter
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import require_one_process


def main(argv: list[str]) -> None:
    """Run the step."""
    (named, where, options), _ = parse_arguments("export", argv, __doc__)
    require_one_process("an export is made")
    logging.getLogger("gguf").setLevel(logging.WARNING)  # it logs every file that it writes
    folder = Path(options.output_dir or named.run.folder / "export")
    checked = export_drafter(
        options.drafter or named.run.published,
        where.resolve(),
        output_dir=folder,
        engines=options.engines,
        draft_length=options.draft_length,
        target_gguf=options.target_gguf,
    )
    print("\n".join([*checked, f"exported: {folder}"]))
