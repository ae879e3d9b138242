"""llama.cpp's own server out of one wheel, `xllamacpp`, started with the words of `llama-server`.

    PYTHON -m drafter_trainer.serving.llamacpp_server --model TARGET.gguf --port 8080 --spec-type draft-simple ...

The wheel has the server and no command line. Of the words of `llama-server` those are known here that this package
writes; it imports nothing else of this package, whose dependencies its environment need not have.
"""

import argparse
import functools
import threading

import xllamacpp

# The type of each word's value, and the settings that it goes to.
_WORDS = {
    "--model": (str, "model.path"),
    "--host": (lambda host: [host], "hostnames"),
    "--port": (int, "port"),
    "--ctx-size": (int, "n_ctx"),  # tokens of all requests
    "--parallel": (int, "n_parallel"),
    "--threads": (
        int,
        "cpuparams.n_threads",
        "cpuparams_batch.n_threads",
        "speculative.draft.cpuparams.n_threads",
        "speculative.draft.cpuparams_batch.n_threads",
    ),
    "--spec-draft-model": (str, "speculative.draft.mparams.path"),
    "--spec-draft-n-max": (int, "speculative.draft.n_max"),
    "--spec-ngram-simple-size-n": (int, "speculative.ngram_simple.size_n"),
    "--spec-ngram-simple-size-m": (int, "speculative.ngram_simple.size_m"),
    "--lookup-cache-static": (str, "speculative.ngram_cache.lookup_cache_static"),
}
_TYPE = "COMMON_SPECULATIVE_TYPE_"


def settings(argv: list[str] | None = None) -> xllamacpp.CommonParams:
    """Read the command line as the server's settings."""
    parser = argparse.ArgumentParser(prog="llamacpp_server", description=__doc__, allow_abbrev=False)
    for word, (kind, *_) in _WORDS.items():
        parser.add_argument(word, type=kind, required=word in ("--model", "--port"))
    parser.add_argument("--metrics", action="store_true")
    parser.add_argument("--spec-type", default="none")
    words, params = vars(parser.parse_args(argv)), xllamacpp.CommonParams()
    params.endpoint_metrics = words["metrics"]
    kinds = words["spec_type"].replace("-", "_").upper().split(",")
    params.speculative.types = [getattr(xllamacpp.common_speculative_type, _TYPE + kind) for kind in kinds]
    for word, (_, *places) in _WORDS.items():
        if (value := words[word[2:].replace("-", "_")]) is not None:
            for *owners, name in (place.split(".") for place in places):
                setattr(functools.reduce(getattr, owners, params), name, value)
    return params


if __name__ == "__main__":
    server = xllamacpp.Server(settings())
    threading.Event().wait()
