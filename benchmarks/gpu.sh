#!/usr/bin/env bash
# What one GPU is for, in this order: the tests that need one, step times of ResNet-50, the claims about the fast recipe on
# CIFAR-10 with ten seeds, those about ResNet-18 on Imagenette, and those of the first paper. A call ends within nine
# minutes; the next one goes on.
#
#   benchmarks/gpu.sh CIFAR10 IMAGENETTE OUT    places as of backroads reproduce run --data; a folder for what comes of it
#   SMALL=1 benchmarks/gpu.sh - - OUT           a trial of the script on a CPU
#   JOBS=12 benchmarks/gpu.sh ...               trainings at a time: small networks leave most of a GPU idle
#
# What is done is not done again: step times once, trainings by arm and seed, from their last checkpoint.
set -euo pipefail
cd "$(dirname "$0")/.."
cifar10=$1 imagenette=$2 out=$3
python=${PYTHON:-.venv/bin/python}
backroads=("$python" -m backroads)
end=$((SECONDS + 540))
mkdir -p "$out"
if [ -n "${SMALL:-}" ]; then
  step=(--networks resnet8 --steps 2 --device cpu) claims=(--scale smoke --device cpu --threads 1) seeds=(0)
else
  step=(--networks resnet50 --device cuda --precision bf16 --channels-last)
  claims=(--scale desk --device cuda --threads 1 --jobs "${JOBS:-1}" --data "cifar10=$cifar10" "imagenette=$imagenette")
  seeds=(0 1 2 3 4 5 6 7 8 9)
fi

# Stops what is left of the nine minutes before a call; trainings write a checkpoint then.
limited() {
  local left=$((end - SECONDS))
  [ $left -gt 20 ] || { echo "the nine minutes are over; call again"; exit 0; }
  timeout --signal=TERM --kill-after=15 "$left" "$@" || { local status=$?; [ $status -ge 124 ] && exit 0; exit $status; }
}

[ -e "$out/tests.log" ] || { limited "$python" -m pytest -q -m gpu tests | tee "$out/tests.tmp" && mv "$out/tests.tmp" "$out/tests.log"; }
[ -e "$out/step_time.json" ] || limited "$python" benchmarks/step_time.py "${step[@]}" --out "$out/step_time.json"
limited "${backroads[@]}" reproduce run M1 "${claims[@]}" --seeds "${seeds[@]}" --out "$out/cifar10" --resume
limited "${backroads[@]}" reproduce run M2 "${claims[@]}" --out "$out/claims" --resume
limited "${backroads[@]}" reproduce run K1 K2 K3 K4 K5 K6 K7 K8 "${claims[@]}" --out "$out/claims" --resume
[ -e "$out/step_time_compiled.json" ] || limited "$python" benchmarks/step_time.py "${step[@]}" --compile \
  --rules backprop "symmetric alignment" "mirrored Kolen-Pollack" "activation alignment" --out "$out/step_time_compiled.json"
