#!/bin/sh
# Trains one network of MPII's 16 joints for athletes and everyday people: sh recipes/people.sh DATA [OUTPUT]
#
# DATA holds lsp_dataset/, lspet_dataset/ and mpii/; OUTPUT gets everything (default: output/people). Rerun the same
# command to resume. It starts from the weights of lsp.sh (START: another checkpoint) and trains in pieces, each of
# which ends at a learning rate of 0 and is a whole network: FIRST and LAST are their epochs. PYTHON chooses the Python,
# THREADS the processes of one thread each: several threads of one process wait for each other where cores are shared.
set -eu
data=${1:?usage: sh recipes/people.sh DATA [OUTPUT]}
output=${2:-output/people}
python=${PYTHON:-python}
processes=${THREADS:-2}
start=${START:-$(dirname "$0")/lsp-128px.safetensors}

run() {
    echo "+ $*"
    "$@"
}

train() {
    run env OMP_NUM_THREADS=1 "$python" -m torch.distributed.run --nproc-per-node="$processes" --standalone \
        -m pyranet_fast.train --root "$data" --dataset "mpii*3+lsp*3+lspet" --stacks 2 --features 128 --depth 3 \
        --pool-windows sample --workers 0 --device cpu --batch-size 16 --schedule cosine --ema 0.998 --save-every 100 \
        --scale-noise 0.2 --rotation-noise 30 --rotation-probability 0.3 \
        --resize-share 0.12 --turn-share 0.1 --cut-share 0.15 --cover-share 0.15 --empty-share 0.1 --absence-weight 1 "$@"
}

measure() {
    run "$python" -m bench.weights --checkpoint "$1/last.pt" --root "$data" --output "$1"
}

# New joints, everyday people and crops without a person on small pictures first, then at full size; from there the small
# network, which searches where the large one refines.
train --output "$output/first" --weights "$start" --input-size 128 --lr 1.5e-3 --warmup 100 --epochs "${FIRST:-8}"
train --output "$output/large" --weights "$output/first/last.pt" --input-size 160 --lr 1.5e-3 --warmup 100 \
    --epochs "${LAST:-24}"
train --output "$output/small" --weights "$output/large/last.pt" --input-size 128 --lr 7e-4 --warmup 100 \
    --epochs "${SMALL:-4}"

for size in large:160 small:128; do
    folder=$output/${size%:*}
    measure "$folder"
    run "$python" -m pyranet_fast.export_weights "$folder/last.pt" "$output/people-${size#*:}px.safetensors" \
        --calibration "$folder/calibration.json" \
        --description "PRM-B*, 2 stacks, 128 features, ${size#*:} px, trained on MPII, LSP and LSP-extended"
done
