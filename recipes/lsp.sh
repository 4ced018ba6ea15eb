#!/bin/sh
# Makes the weights that come with the package, from the data sets to the file: sh recipes/lsp.sh DATA [OUTPUT]
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

small="--stacks 1 --features 96 --depth 3 --input-size 128 --batch-size 32 --schedule cosine --precision bf16
    --pool-windows sample --scale-noise 0.15 --rotation-noise 20 --rotation-probability 0.2 --workers 0"

# Most of the epochs on small pictures, then LSP alone, whose left and right are annotated with more care.
run "$python" -m pyranet_fast.train --dataset lsp+lspet --root "$data" --output "$output/both" $small \
    --early-size 64 --early-share 0.7 --epochs 24 --lr 2.5e-3 --warmup 200 --ema 0.998 --validate-every 8
run "$python" -m pyranet_fast.train --dataset lsp --root "$data" --output "$output/fine" $small \
    --weights "$output/both/last.pt" --epochs 24 --lr 1e-3 --warmup 50 --ema 0.99 --validate-every 12

run "$python" -m pyranet_fast.evaluate --dataset lsp --root "$data" --checkpoint "$output/fine/last.pt" \
    --output "$output/six-scales" --scales 6
run "$python" -m pyranet_fast.evaluate --dataset lsp --root "$data" --checkpoint "$output/fine/last.pt" \
    --output "$output/one-scale"
run "$python" -m pyranet_fast.export_weights "$output/fine/last.pt" "$output/$name.safetensors" \
    --calibration "$output/one-scale/calibration.json" \
    --description "PRM-B*, 1 stack, 96 features, 128 px, trained on LSP-extended 1-10000 and LSP 1-1000"
run "$python" -m bench.photos --checkpoint "$output/$name.safetensors" --root "$data" --output "$output/photos"
