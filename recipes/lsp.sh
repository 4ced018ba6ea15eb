#!/bin/sh
# Makes recipes/lsp-128px.safetensors, where recipes/people.sh starts, from the data sets on: sh recipes/lsp.sh DATA [OUTPUT]
#
# DATA holds lsp_dataset/ and lspet_dataset/; OUTPUT gets everything (default: output/lsp). The same command goes on after
# an interruption. PYTHON chooses the Python.
set -eu
data=${1:?usage: sh recipes/lsp.sh DATA [OUTPUT]}
output=${2:-output/lsp}
python=${PYTHON:-python}
name=lsp-128px

run() {
    echo "+ $*"
    "$@"
}

network="--stacks 2 --features 128 --depth 3 --input-size 128 --schedule cosine
    --pool-windows sample --workers 0 --save-every 300"

# The people of both data sets in one file, of 57 MB.
[ -f "$output/people.pack" ] || run "$python" -m pyranet_fast.data.pack --dataset lsp+lspet --root "$data" \
    --output "$output/people.pack" --input-size 128

# Most of the steps on both data sets, the first epochs on small pictures; then LSP alone, whose left and right are
# annotated with more care.
run "$python" -m pyranet_fast.train --dataset "packed:$output/people.pack" --output "$output/both" $network \
    --scale-noise 0.15 --rotation-noise 20 --rotation-probability 0.2 \
    --batch-size 24 --early-size 64 --early-share 0.3 --epochs 33 --lr 3e-3 --warmup 500 --ema 0.998 --validate-every 11
run "$python" -m pyranet_fast.train --dataset lsp --root "$data" --output "$output/fine" $network \
    --scale-noise 0.2 --rotation-noise 30 --rotation-probability 0.3 \
    --weights "$output/both/last.pt" --batch-size 16 --epochs 26 --lr 1e-3 --warmup 60 --ema 0.99 --validate-every 13

run "$python" -m pyranet_fast.evaluate --dataset lsp --root "$data" --checkpoint "$output/fine/last.pt" \
    --output "$output/six-scales" --scales 6
run "$python" -m pyranet_fast.evaluate --dataset lsp --root "$data" --checkpoint "$output/fine/last.pt" \
    --output "$output/one-scale"
run "$python" -m pyranet_fast.export_weights "$output/fine/last.pt" "$output/$name.safetensors" \
    --calibration "$output/one-scale/calibration.json" \
    --description "PRM-B*, 2 stacks, 128 features, 128 px, trained on LSP-extended 1-10000 and LSP 1-1000"
run "$python" -m bench.photos --checkpoint "$output/$name.safetensors" --root "$data" --output "$output/photos"
