#!/usr/bin/env bash
# What one GPU is for, in this order: the tests that need one, step times of ResNet-50, the fast recipe on CIFAR-10 with
# ten seeds, and ResNet-18 on Imagenette. A call ends within nine minutes; the next one goes on.
#
#   benchmarks/gpu.sh CIFAR10 IMAGENETTE OUT          data sets as of backroads train --data; a folder for what comes of it
#   SMALL=1 benchmarks/gpu.sh digits digits OUT       a trial of the script on a CPU
#
# What is done is not done again: step times once, trainings by arm and seed, from their last checkpoint.
set -euo pipefail
cd "$(dirname "$0")/.."
cifar10=$1 imagenette=$2 out=$3
python=${PYTHON:-.venv/bin/python}
end=$((SECONDS + 540))
mkdir -p "$out"
if [ -n "${SMALL:-}" ]; then
  where=(--device cpu) step=(--networks resnet8 --steps 2 --device cpu) fast=smoke slow=smoke seeds=(0) more=(--only rule=backprop)
else
  where=(--device cuda) step=(--networks resnet50 --device cuda --precision bf16 --channels-last --compile)
  fast=cifar10-fast slow=imagenette-resnet18 seeds=(0 1 2 3 4 5 6 7 8 9) more=()
fi

# Stops what is left of the nine minutes before a call; trainings write a checkpoint then.
limited() {
  local left=$((end - SECONDS))
  [ $left -gt 20 ] || { echo "the nine minutes are over; call again"; exit 0; }
  timeout --signal=TERM --kill-after=15 "$left" "$@" || { local status=$?; [ $status -ge 124 ] && exit 0; exit $status; }
}

[ -e "$out/tests.log" ] || { limited "$python" -m pytest -q -m gpu tests | tee "$out/tests.tmp" && mv "$out/tests.tmp" "$out/tests.log"; }
[ -e "$out/step_time.json" ] || limited "$python" benchmarks/step_time.py "${step[@]}" --out "$out/step_time.json"
limited "$python" benchmarks/cifar10.py --data "$cifar10" --recipe $fast "${where[@]}" --runs "$out/runs" --out "$out/$fast.json" --seeds "${seeds[@]}" "${more[@]}"
limited "$python" benchmarks/cifar10.py --data "$imagenette" --recipe $slow "${where[@]}" --runs "$out/runs" --out "$out/imagenette.json" --seeds 0 1 "${more[@]}"
