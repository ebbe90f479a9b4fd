#!/usr/bin/env bash
#SBATCH --job-name=backroads-search
#SBATCH --array=0-15
#SBATCH --cpus-per-task=1
#SBATCH --time=04:00:00
#SBATCH --requeue
# Workers of one search, as a job array. Start the search first, from where it can be watched:
#
#     backroads search --config search.toml --storage "$STORAGE" --name "$STUDY" --workers 0
#     STORAGE=postgresql://me@db/searches STUDY=wide sbatch examples/search/slurm.sh
#
# Without Slurm, `WORKERS=2 bash examples/search/slurm.sh` starts the array as processes of this machine.
set -euo pipefail
: "${STORAGE:?the storage, such as postgresql://me@db/searches}" "${STUDY:?the name of the study}"
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"

if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
  exec backroads worker "$STORAGE" "$STUDY"
fi
for number in $(seq 0 $((${WORKERS:-2} - 1))); do
  SLURM_ARRAY_TASK_ID="$number" bash "$0" &
done
wait
