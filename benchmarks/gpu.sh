#!/usr/bin/env bash
# Runs everything that wants a GPU, on this machine's, and leaves JSON in $OUT (build/gpu).
#
#   benchmarks/gpu.sh                       all parts, each at most LIMIT seconds
#   benchmarks/gpu.sh bandwidth selective   some of them
#   benchmarks/gpu.sh --dry                 in little, on a CPU: whether it runs at all
#
# Parts: device kernels bandwidth selective depth examples. Needs nothing but a Python with torch (CUDA), onnx,
# onnxruntime, numpy and pytest, and nvcc for the CUDA kernels: this checkout is used as it lies here, not installed.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-build/gpu}
WORK=${WORK:-build/gpu-work}
LIMIT=${LIMIT:-270} # seconds of a part

dry=()
parts=()
for argument in "$@"; do
  if [ "$argument" = --dry ]; then dry=(--dry); else parts+=("$argument"); fi
done
[ ${#parts[@]} -gt 0 ] || parts=(device kernels bandwidth selective depth examples)
mkdir -p "$OUT" "$WORK" build/types/foveate
for folder in export runtime pipeline calibration; do ln -sfn "../../../$folder" "build/types/foveate/$folder"; done
for file in __init__.py py.typed; do ln -sfn "../../../foveate/$file" "build/types/foveate/$file"; done
export PYTHONPATH="$PWD/build/types${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

# The kernels for this GPU alone: seconds, where those for all that an installation is built for take minutes.
if [ ${#dry[@]} -eq 0 ] && [ -z "${FOVEATE_CUDA:-}" ]; then
  library=$PWD/$WORK/libfoveate_cuda.so.1
  nvcc -std=c++17 -O3 -shared -arch=native -Xcompiler=-fPIC,-fvisibility=hidden \
    runtime/cuda/*.cu runtime/cuda/*.cpp -o "$library" || { echo "error: the CUDA kernels do not build"; exit 3; }
  export FOVEATE_CUDA=$library
fi

run() {
  case $1 in
    device | bandwidth | selective | depth | examples)
      timeout "$LIMIT" "$PYTHON" "benchmarks/gpu_$1.py" --out "$OUT" --work "$WORK" ${dry[@]+"${dry[@]}"} ;;
    kernels)
      timeout "$LIMIT" "$PYTHON" -m pytest -q -p no:cacheprovider -m gpu \
        tests/runtime/cuda tests/runtime/device tests/runtime/onnx_torch --junitxml "$OUT/kernels.xml" ;;
    *)
      echo "error: no part $1; there are device kernels bandwidth selective depth examples"
      return 2 ;;
  esac
}

failed=()
for part in "${parts[@]}"; do
  echo "== $part"
  start=$SECONDS
  run "$part" 2>&1 | tee "$WORK/$part.log" || failed+=("$part")
  echo "== $part: $((SECONDS - start)) s"
done
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
