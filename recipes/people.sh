#!/bin/sh
# Trains one network of MPII's 16 joints for athletes and everyday people: sh recipes/people.sh DATA [OUTPUT]
#
# DATA contains lsp_dataset/, lspet_dataset/ and mpii/; OUTPUT gets everything (default: output/people). Rerun the same
# command to resume. It starts from the weights of lsp.sh (START: another checkpoint) and trains in stages, each of which is
# a complete network: FIRST, HALF, DEEP, CLEAN, AGAIN, LARGE and SMALL are their epochs. PYTHON sets the Python, THREADS the
# number of single-threaded processes: threads of one process wait for each other where the cores are shared.
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
        -m pyranet_fast.train --features 128 --depth 3 --pool-windows sample --workers 0 --device cpu \
        --batch-size 16 --ema 0.998 --save-every 100 --scale-noise 0.2 --rotation-noise 30 --rotation-probability 0.3 \
        --empty-share 0.1 --absence-weight 1 "$@"
}

# All people, and many crops that lack something.
broad() {
    train --root "$data" --dataset "mpii*3+lsp*3+lspet" --resize-share 0.12 --turn-share 0.1 --cut-share 0.15 \
        --cover-share 0.15 --lr 1.5e-3 --warmup 100 "$@"
}

# Without LSP-extended, whose labels are less accurate, and with fewer of these crops.
final() {
    train --root "$data" --resize-share 0.06 --turn-share 0.05 --cut-share 0.1 --cover-share 0.1 --warmup 50 \
        --schedule cosine "$@"
}

measure() {
    run "$python" -m bench.weights --checkpoint "$1/last.pt" --root "$data" --output "$1"
}

# New joints, everyday people and crops without a person on small pictures first, then at full size; then twice as many
# stacks. The network of the clean stage corrects LSP-extended's labels, from which the last two stages train. From the half
# network the small one, which searches where the large one refines.
broad --output "$output/first" --weights "$start" --stacks 2 --input-size 128 --schedule step --epochs "${FIRST:-4}"
broad --output "$output/half" --weights "$output/first/last.pt" --stacks 2 --input-size 160 --schedule cosine \
    --epochs "${HALF:-2}"
broad --output "$output/deep" --weights "$output/half/last.pt" --stacks 4 --input-size 160 --schedule step \
    --epochs "${DEEP:-2}"
final --output "$output/clean" --dataset "mpii*2+lsp*3" --weights "$output/deep/last.pt" --stacks 4 --input-size 160 \
    --lr 1e-3 --epochs "${CLEAN:-7}"
run "$python" -m bench.labels --checkpoint "$output/clean/last.pt" --root "$data" --output "$output/corrected" \
    --precision auto
train --root "$output/corrected" --output "$output/again" --dataset "mpii*2+lsp*3+lspet" \
    --weights "$output/clean/last.pt" --stacks 4 --input-size 160 --resize-share 0.1 --turn-share 0.08 --cut-share 0.12 \
    --cover-share 0.12 --lr 1.3e-3 --warmup 100 --schedule step --epochs "${AGAIN:-2}"
final --output "$output/large" --dataset "mpii*2+lsp*3" --weights "$output/again/last.pt" --stacks 4 --input-size 160 \
    --lr 1e-3 --epochs "${LARGE:-7}"
final --output "$output/small" --dataset "mpii*2+lsp*2" --weights "$output/half/last.pt" --stacks 2 --input-size 128 \
    --lr 7e-4 --epochs "${SMALL:-3}"

for network in large:160:4 small:128:2; do
    name=${network%%:*} stacks=${network##*:} size=${network#*:} size=${size%:*}
    measure "$output/$name"
    run "$python" -m pyranet_fast.export_weights "$output/$name/last.pt" "$output/people-${size}px.safetensors" \
        --calibration "$output/$name/calibration.json" \
        --description "PRM-B*, $stacks stacks, 128 features, $size px, trained on MPII, LSP and LSP-extended"
done
run "$python" -m bench.photos --checkpoint "$output/people-160px.safetensors" --root "$data" --output "$output/photos"
