#!/usr/bin/env bash
# What is to be measured on a GPU, in eight minutes at most, as one page:
#
#     bash benchmarks/gpu.sh [--small] [PAGE]        # PAGE is docs/gpu.md unless given
#
# Training on pairs of PIPAL's size with the images in each place and in both number formats, scoring, and the
# shipped metrics.  iqa_jax and PyTorch, eager and compiled, take turns on the same device.  With --small it
# runs once and tiny, on a CPU too, to show that it works; its figures mean nothing.
set -euo pipefail
clone=$(cd "$(dirname "$0")/.." && pwd)
small=()
if [ "${1:-}" = --small ]; then
    small=(--small)
    shift
fi
page=${1:-$clone/docs/gpu.md}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export XLA_PYTHON_CLIENT_PREALLOCATE=false # JAX and PyTorch share the memory
export PYTHONPATH=$clone

device=$(python -c 'import jax; d = jax.devices()[0]; print(d.platform, d.device_kind, sep="\t")')
platform=${device%%$'\t'*} device=${device#*$'\t'}
gpu=()
if [ "$platform" != cpu ]; then
    gpu=(--gpu)
elif [ ${#small[@]} -eq 0 ]; then
    echo "JAX sees no GPU here; with --small this runs on a CPU" >&2
    exit 1
fi

# part SECONDS TITLE FILE [OPTION …]: one benchmark, ended when its time is over.
part() {
    local limit=$1 title=$2 name=$3
    shift 3
    [ ${#small[@]} -eq 0 ] || limit=0 # none: a busy machine may take long
    echo "\$ python benchmarks/$name $*"
    printf '\n## %s\n\n' "$title" >> "$scratch/page.md"
    if timeout "$limit" python "$clone/benchmarks/$name" "$@" ${small[@]+"${small[@]}"} --output "$scratch/part.md"; then
        cat "$scratch/part.md" >> "$scratch/page.md"
    elif [ ${#small[@]} -gt 0 ]; then
        exit 1
    else
        echo "\`benchmarks/$name\` failed, or did not end in $limit seconds." >> "$scratch/page.md"
    fi
    rm -f "$scratch/part.md"
}

printf '# On %s\n\n%s\n' "$device" \
    "\`bash benchmarks/gpu.sh\` measured this page in one run; within a table the contestants took turns." \
    > "$scratch/page.md"
within=(--within 240)
[ ${#small[@]} -eq 0 ] || within=()
part 270 "Training" training.py --steps 20 ${within[@]+"${within[@]}"}
part 120 "Scoring" scoring.py --rounds 3 ${gpu[@]+"${gpu[@]}"}
part 80 "The shipped metrics" shipped.py --rounds 5
cp "$scratch/page.md" "$page"
echo "written: $page"
