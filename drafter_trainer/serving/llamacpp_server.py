"""llama.cpp's own server out of one wheel, `xllamacpp`, started with the words of `llama-server`.

    PYTHON -m drafter_trainer.serving.llamacpp_server --model TARGET.gguf --port 8080 --spec-type draft-simple ...

The wheel has the server and no command line. Of the words of `llama-server` those are known here that this package
writes; it imports nothing else of this package, whose dependencies its environment need not have.
"""

import argparse
import threading

import xllamacpp

_TYPE = "COMMON_SPECULATIVE_TYPE_"


def read_words(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="llamacpp_server", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", required=True, help="The target's GGUF file.")
    parser.add_argument("--host", default="127.0.0.1", help="Address to listen on.")
    parser.add_argument("--port", type=int, default=8080, help="Port to listen on.")
    parser.add_argument("--ctx-size", type=int, default=0, help="Tokens of all requests; 0 for the model's own limit.")
    parser.add_argument("--parallel", type=int, default=1, help="Requests at once.")
    parser.add_argument("--threads", type=int, help="Threads of a pass (default: all cores).")
    parser.add_argument("--metrics", action="store_true", help="Serve /metrics.")
    parser.add_argument("--spec-type", default="none", help="Kinds of drafting, comma-separated.")
    parser.add_argument("--spec-draft-model", help="The drafter's GGUF file.")
    parser.add_argument("--spec-draft-n-max", type=int, help="Tokens that the drafter drafts in one round.")
    parser.add_argument("--spec-ngram-simple-size-n", type=int, help="Tokens of the n-gram that is looked up.")
    parser.add_argument("--spec-ngram-simple-size-m", type=int, help="Tokens that ngram-simple drafts in one round.")
    parser.add_argument("--lookup-cache-static", help="File of ngram-cache.")
    return parser.parse_args(argv)


def settings(words: argparse.Namespace) -> xllamacpp.CommonParams:
    """Turn the words into the server's settings."""
    params = xllamacpp.CommonParams()
    params.model.path = words.model
    params.hostnames = [words.host]
    params.port = words.port
    params.n_ctx = words.ctx_size
    params.n_parallel = words.parallel
    params.endpoint_metrics = words.metrics
    if words.threads:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = words.threads
    speculative = params.speculative
    kinds = words.spec_type.replace("-", "_").upper().split(",")
    speculative.types = [getattr(xllamacpp.common_speculative_type, _TYPE + kind) for kind in kinds]
    if words.spec_draft_model:
        speculative.draft.mparams.path = words.spec_draft_model
        if words.threads:
            speculative.draft.cpuparams.n_threads = speculative.draft.cpuparams_batch.n_threads = words.threads
    if words.spec_draft_n_max:
        speculative.draft.n_max = words.spec_draft_n_max
    if words.spec_ngram_simple_size_n:
        speculative.ngram_simple.size_n = words.spec_ngram_simple_size_n
    if words.spec_ngram_simple_size_m:
        speculative.ngram_simple.size_m = words.spec_ngram_simple_size_m
    if words.lookup_cache_static:
        speculative.ngram_cache.lookup_cache_static = words.lookup_cache_static
    return params


if __name__ == "__main__":
    server = xllamacpp.Server(settings(read_words()))
    threading.Event().wait()
