#!/usr/bin/env bash
# Compiles the CUDA engine's kernels to the PTX that is kept beside them, from which a driver makes code for
# its GPU. Only who changes kernels.cu needs this. The compiler comes from the Python package index, 104 MB,
# without a GPU, a driver or root.
#
#   scripts/cuda_kernels.sh           writes crates/eas-train/src/cuda/kernels.ptx
#   scripts/cuda_kernels.sh --check   fails where that isn't what kernels.cu gives
#
# Both have it assembled for compute capabilities 8.0 and 9.0. PYTHON is the Python to install by.
set -euo pipefail
cd "$(dirname "$0")/.."

# A driver takes PTX of its own CUDA version and of older ones: 13.0 is that of drivers from 580 on.
packages=(nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88
  nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85)
toolkit=$PWD/target/cuda-toolkit
if [ ! -x "$toolkit/nvidia/cu13/bin/nvcc" ]; then
  "${PYTHON:-python3}" -m pip install --quiet --no-deps --target "$toolkit" "${packages[@]}"
fi
export PATH="$toolkit/nvidia/cu13/bin:$PATH"

kernels=crates/eas-train/src/cuda/kernels
written=$(mktemp -d)
trap 'rm -r "$written"' EXIT
nvcc -O3 -std=c++17 -arch=compute_80 --ptx "$kernels.cu" -o "$written/kernels.ptx"
for capability in 80 90; do
  ptxas --gpu-name "sm_$capability" --warn-on-spills --warning-as-error \
    "$written/kernels.ptx" --output-file "$written/kernels.cubin"
done
case "${1:-}" in
  "") cp "$written/kernels.ptx" "$kernels.ptx" ;;
  --check)
    cmp "$written/kernels.ptx" "$kernels.ptx" || {
      echo "$kernels.ptx isn't what kernels.cu gives: run scripts/cuda_kernels.sh" >&2
      exit 1
    }
    ;;
  *) sed -n '2,9s/^# \?//p' "$0" >&2 && exit 2 ;;
esac
