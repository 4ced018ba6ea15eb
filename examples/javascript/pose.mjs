// Joints of a crop in JavaScript:  npm install onnxruntime-web && node pose.mjs MODEL.onnx CROP.rgb
// MODEL.onnx is made by python -m pyranet_fast.export CHECKPOINT MODEL.onnx --decode; CROP.rgb is S * S * 3 bytes of RGB.
// In a page the same three calls do, with the bytes from a canvas (getImageData gives RGBA: leave out every fourth).
import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-web";

ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(new Uint8Array(readFileSync(process.argv[2])));
const crop = new Uint8Array(readFileSync(process.argv[3]));
const side = Math.sqrt(crop.length / 3);
const { joints, scores } = await session.run({ image: new ort.Tensor("uint8", crop, [1, side, side, 3]) });
for (let k = 0; k < scores.data.length; k++)
  console.log(joints.data[2 * k].toFixed(2), joints.data[2 * k + 1].toFixed(2), scores.data[k].toFixed(4));
