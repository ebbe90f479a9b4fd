#!/usr/bin/env bash
# A worker whose trials are data-parallel: all processes train one trial, and the first one alone talks to the storage.
#
#     STORAGE=postgresql://me@db/searches STUDY=large PROCESSES=8 bash examples/search/torchrun.sh
set -euo pipefail
: "${STORAGE:?the storage}" "${STUDY:?the name of the study}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec torchrun --standalone --nproc-per-node "${PROCESSES:-2}" -m backroads worker "$STORAGE" "$STUDY"
