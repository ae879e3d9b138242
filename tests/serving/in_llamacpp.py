"""What the tests in llama.cpp run inside the environment of `xllamacpp`, llama.cpp's own server as one wheel.

PYTHON_OF_LLAMACPP tests/serving/in_llamacpp.py TARGET.gguf DRAFTER.gguf LENGTH PROMPTS.json OUT.json
"""

import json
import sys
import threading
import urllib.request
from pathlib import Path

import xllamacpp

TOKENS = 24


def load(target: str) -> xllamacpp.CommonParams:
    """Settings of a small server."""
    params = xllamacpp.CommonParams()
    params.model.path = target
    params.n_ctx = 1024
    params.warmup = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    return params


def complete(target: str, prompts: list[list[int]], drafter: str | None = None, length: int = 0) -> dict:
    """Complete prompts greedily, and count drafts."""
    params = load(target)
    if drafter is not None:
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        params.speculative.draft.mparams.path = drafter
        params.speculative.draft.n_max = length
    server = xllamacpp.Server(params)
    found = {"texts": [], "drafted": 0, "accepted": 0}
    for prompt in prompts:
        asked = {
            "prompt": prompt,
            "n_predict": TOKENS,
            "temperature": 0.0,
            "return_tokens": True,
            "cache_prompt": False,
        }
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{server.listening_address}/completion", json.dumps(asked).encode(), headers)
        with urllib.request.urlopen(request) as answer:  # called without HTTP it gives no ids
            reply = json.load(answer)
        found["texts"].append(reply["tokens"])
        found["drafted"] += reply["timings"].get("draft_n", 0)
        found["accepted"] += reply["timings"].get("draft_n_accepted", 0)
    return found


def serve(target: str, port: str) -> None:
    """Serve over HTTP."""
    params = load(target)
    params.port = int(port)
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    threading.Event().wait()


def main(target: str, drafter: str, length: str, prompts_file: str, out: str) -> None:
    prompts = json.loads(Path(prompts_file).read_text(encoding="utf-8"))
    found = {"plain": complete(target, prompts), "network": complete(target, prompts, drafter, int(length))}
    Path(out).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    (serve if len(sys.argv) == 3 else main)(*sys.argv[1:])
