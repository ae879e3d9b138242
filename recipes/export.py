# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["drafter_trainer[gguf]==0.1.0"]
#
# [[tool.uv.index]]
# name = "wheels"
# url = "/wheels"
# format = "flat"
# explicit = true
#
# [tool.uv.sources]
# drafter_trainer = { index = "wheels" }
#
# [tool.hf-jobs]
# secrets = ["HF_TOKEN"]
# volumes = ["dist:/wheels"]
# ///
"""Make a published drafter ready for other engines: vLLM, SGLang, llama.cpp.

    accelerate launch recipes/export.py --config recipes/configs/gemma-3-270m/de-en.yaml --target_gguf TARGET.gguf

Writes vllm.json, sglang.txt, llamacpp.txt with drafter.gguf, and a README with what was checked to --export_folder
(default: RUN_FOLDER/export). A drafter that is no Llama with byte-level BPE needs llama.cpp's --converter.
"""

import logging
from pathlib import Path

from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import require_one_process, run_recipe
from drafter_trainer.hub.export.engines import export_drafter


def main(argv: list[str]) -> None:
    (run, where, options), _ = parse_arguments("export", argv, __doc__)
    require_one_process("an export is made")
    logging.getLogger("gguf").setLevel(logging.WARNING)  # it tells of every file that it writes
    target = where.resolve()
    folder = Path(options.export_folder or run.folder / "export")
    for fact in export_drafter(options.drafter or str(run.folder / "drafter"), target, folder, options):
        print(fact)
    print(f"exported: {folder}")


if __name__ == "__main__":
    run_recipe(main)
