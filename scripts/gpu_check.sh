#!/usr/bin/env bash
# Checks and measures the CUDA engine on a machine with a GPU.
#
#   scripts/gpu_check.sh build    builds all that is run, into target/gpu.tar.xz; needs Rust, but no GPU
#   scripts/gpu_check.sh [OUT]    runs it, and leaves OUT/report.md (by default in target/gpu-report); needs
#                                 a GPU, its driver and cuDNN, but no Rust and no network
#
# So one machine may build and another run, where only the working tree and target/gpu.tar.xz have to be.
# PyTorch, compute-sanitizer and MPS are used where they are there. GPU_PARTS is a pattern of titles, where not
# all parts are wanted; GPU_PEER and GPU_SIDE are options of benches/peers/gpu.py.
set -uo pipefail
cd "$(dirname "$0")/.."

build() {
  set -e
  cargo build --release --locked --features cuda
  rm -rf target/gpu && mkdir -p target/gpu
  cargo test --workspace --locked --features eas-cli/cuda --no-run --message-format=json \
    | python3 -c '
import json, sys
for line in sys.stdin:
    built = json.loads(line)
    target, program = built.get("target", {}), built.get("executable")
    if program and target["kind"] == ["test"] and target["name"] in ("eas-train", "eas"):
        print(target["name"], program)
    if program and target["kind"] == ["lib"] and target["name"] == "eas_train":
        print("eas-train-lib", program)' \
    | while read -r name program; do strip -o "target/gpu/tests-$name" "$program"; done
  strip -o target/gpu/eas target/release/eas
  tar -C target -cf - gpu | xz -T0 -3 > target/gpu.tar.xz
  ls -l target/gpu target/gpu.tar.xz
}

if [ "${1:-}" = build ]; then build; exit; fi

out=${1:-target/gpu-report}
mkdir -p "$out" target
out=$(cd "$out" && pwd)
[ target/gpu/eas -nt target/gpu.tar.xz ] || tar -C target -xmJf target/gpu.tar.xz
# cuDNN and cuBLAS of the Python that is here, where the system has none.
packages=$(python3 -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' 2>/dev/null)
own=$packages/nvidia/cudnn/lib:$packages/nvidia/cu13/lib
failures=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# A part of the report: its title, the seconds it may take, a command.
part() {
  local title=$1 seconds=$2 began=$SECONDS
  shift 2
  [[ $title =~ ${GPU_PARTS:-.} ]] || return 0
  printf '\n## %s\n\n```\n' "$title" | tee -a "$out/report.md"
  LD_LIBRARY_PATH=$own:${LD_LIBRARY_PATH:-} timeout --kill-after 5 "$seconds" "$@" 2>&1 \
    | tail -n 60 | tee -a "$out/report.md"
  local code=${PIPESTATUS[0]}
  [ "$code" = 0 ] || failures=$((failures + 1))
  printf '```\nexit %s, %s s\n' "$code" $((SECONDS - began)) | tee -a "$out/report.md"
}

printf '# The CUDA engine on this machine\n\n%s\n' "$(git rev-parse --short HEAD 2>/dev/null)" > "$out/report.md"
part "The machine" 60 target/gpu/eas doctor
part "Every engine against the oracle" 120 target/gpu/tests-eas-train engines
part "Memory as predicted" 120 target/gpu/tests-eas-train-lib cuda::
part "Edits keep the function" 180 target/gpu/tests-eas edits_keep_the_function
if command -v compute-sanitizer >/dev/null; then
  # A program that can't be stopped is one of its findings, so it ends by itself.
  part "Memory accesses, by compute-sanitizer" 120 compute-sanitizer --tool memcheck --error-exitcode 9 \
    target/gpu/tests-eas-train engines::steps_of_drawn
  part "Races, by compute-sanitizer" 120 compute-sanitizer --tool racecheck --error-exitcode 9 \
    target/gpu/tests-eas-train engines::steps_of_drawn
fi
run=$scratch/quickstart
part "A search" 240 target/gpu/eas search --run "$run" --devices cuda
part "Its models are what was published" 120 target/gpu/eas verify "$run"
part "Its result on the test images" 60 target/gpu/eas test "$run" --data fashion_mnist_subset --device cuda
peer=(python3 benches/peers/gpu.py --eas target/gpu/eas)
if python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
  part "Training, images a second, beside PyTorch" 400 env LD_LIBRARY_PATH="$own" "${peer[@]}" ${GPU_PEER:-}
fi
together=(--networks released,paper,found --batches 64 --seconds 4 --side-by-side "${GPU_SIDE:-1,2,4,8}")
part "Several processes on one GPU, in time" 200 "${peer[@]}" "${together[@]}"
if command -v nvidia-cuda-mps-control >/dev/null; then
  CUDA_MPS_PIPE_DIRECTORY=$scratch CUDA_MPS_LOG_DIRECTORY=$scratch
  export CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
  nvidia-cuda-mps-control -d
  part "Several processes on one GPU, in space (MPS)" 200 "${peer[@]}" "${together[@]}"
  echo quit | nvidia-cuda-mps-control
fi
printf '\n%s part(s) failed\n' "$failures" | tee -a "$out/report.md"
[ "$failures" = 0 ]
