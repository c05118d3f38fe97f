#!/usr/bin/env bash
# Trains a teacher and a student on the built-in set and evaluates both.  Takes under 25 minutes on two cores.
#     bash examples/student.sh [RUNS [--config.FIELD=VALUE …]]    fields for both trainings
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-runs}
shift || true
python train.py --config configs/conformer.py:demo --workdir "$runs/teacher" "$@"
python train.py --config configs/student.py:demo --config.teacher="$runs/teacher" --workdir "$runs/student" "$@"
for run in teacher student; do
    python -m iqa_jax evaluate --weights "$runs/$run" --dataset iqa_demo --output "$runs/evaluation-$run"
done
