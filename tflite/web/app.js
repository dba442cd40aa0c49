// A photograph, video or camera in; the network's classes over it, and milliseconds, out.
import {loadAndCompile, loadLiteRt, Tensor} from '@litertjs/core';

const element = (id) => document.getElementById(id);
const [frame, mask, video] = [element('frame'), element('mask'), element('video')];
// Reading pixels back is what this page does with every frame.
const pixelsOf = frame.getContext('2d', {willReadFrequently: true});

// Pixels as the file has them, but upright: `kseg predict` knows no colour profiles either.
const AS_STORED = {colorSpaceConversion: 'none', premultiplyAlpha: 'none'};

/** Compiles for the GPU, or for the CPU where there is none or it does not take the file. */
async function compile() {
  await loadLiteRt('./litert/wasm/');
  const asked = new URLSearchParams(location.search).get('accelerator');
  if (asked !== 'wasm' && navigator.gpu) {
    try {
      const model = await loadAndCompile('model.tflite', {accelerator: 'webgpu'});
      if (model.isFullyAccelerated) return {model, where: 'WebGPU'};
      model.delete();
      if (asked) throw new Error('the GPU does not take every operator of this file');
    } catch (error) {
      if (asked) throw error;
      console.warn('On the CPU, since WebGPU fails:', error);
    }
  } else if (asked === 'webgpu') {
    throw new Error('this browser has no WebGPU');
  }
  return {model: await loadAndCompile('model.tflite', {accelerator: 'wasm'}), where: 'CPU'};
}

/** For every output position the two inputs and the weight of the second: half-pixel centres. */
function taps(extent, size) {
  const [low, high, weight] = [new Int32Array(size), new Int32Array(size), new Float32Array(size)];
  for (let i = 0; i < size; i++) {
    const at = Math.min(Math.max((i + 0.5) * extent / size - 0.5, 0), extent - 1);
    low[i] = Math.floor(at);
    high[i] = Math.min(low[i] + 1, extent - 1);
    weight[i] = at - low[i];
  }
  return {low, high, weight};
}

/** RGBA of any size to the network's RGB 0..255: bilinear, as kseg trains and scores. */
function encode({data, width, height}, facts) {
  const rows = taps(height, facts.height);
  const columns = taps(width, facts.width);
  const out = facts.takes_bytes ? new Uint8ClampedArray(facts.height * facts.width * 3)
                                : new Float32Array(facts.height * facts.width * 3);
  let o = 0;
  for (let y = 0; y < facts.height; y++) {
    const [top, bottom, v] = [rows.low[y] * width, rows.high[y] * width, rows.weight[y]];
    for (let x = 0; x < facts.width; x++) {
      const [left, right, u] = [columns.low[x], columns.high[x], columns.weight[x]];
      const [a, b, c, d] = [top + left, bottom + left, top + right, bottom + right].map((i) => 4 * i);
      for (let k = 0; k < 3; k++) {
        const first = data[a + k] + (data[b + k] - data[a + k]) * v;
        const second = data[c + k] + (data[d + k] - data[c + k]) * v;
        out[o++] = first + (second - first) * u;
      }
    }
  }
  return facts.takes_bytes ? new Uint8Array(out.buffer) : out;
}

/** The channel of every pixel. */
function channels(output, facts) {
  if (facts.output === 'CHANNELS') return output;
  const count = facts.names.length;
  const result = new Uint8Array(output.length / count);
  for (let i = 0, first = 0; i < result.length; i++, first += count) {
    let best = 0;
    for (let c = 1; c < count; c++) if (output[first + c] > output[first + best]) best = c;
    result[i] = best;
  }
  return result;
}

/** The classes of a picture: channel numbers (facts.mask_height x facts.mask_width). */
async function segment(network, facts, picture) {
  const input = new Tensor(encode(picture, facts), [1, facts.height, facts.width, 3]);
  const [output] = await network.model.run(input);
  input.delete();
  const values = await output.data();
  const result = channels(values, facts);
  output.delete();
  return result;
}

function draw(classes, facts) {
  mask.width = facts.mask_width;
  mask.height = facts.mask_height;
  const picture = new ImageData(facts.mask_width, facts.mask_height);
  const counts = new Array(facts.names.length).fill(0);
  const rgb = facts.colors.map((color) => [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16)));
  classes.forEach((channel, i) => {
    counts[channel]++;
    picture.data.set([...rgb[channel], facts.void.includes(channel) ? 0 : 255], 4 * i);
  });
  mask.getContext('2d').putImageData(picture, 0, 0);
  element('legend').replaceChildren(...counts.flatMap((count, channel) => {
    if (count * 200 < classes.length) return [];
    const item = document.createElement('li');
    const box = document.createElement('span');
    box.style.background = facts.colors[channel];
    item.append(box, `${facts.names[channel]} ${Math.round(100 * count / classes.length)} %`);
    return [item];
  }));
}

function say(text, isError = false) {
  element('status').textContent = text;
  element('status').classList.toggle('error', isError);
}

/** Draws a source, asks the network and shows its answer. */
async function show(network, facts, source, width, height) {
  [frame.width, frame.height] = [width, height];
  element('view').style.setProperty('--aspect', width / height);
  pixelsOf.drawImage(source, 0, 0);
  element('hint').hidden = true;
  const begin = performance.now();
  const classes = await segment(network, facts, pixelsOf.getImageData(0, 0, width, height));
  const milliseconds = performance.now() - begin;
  draw(classes, facts);
  say(`${network.where}, ${milliseconds.toFixed(0)} ms, ${facts.width} x ${facts.height}`);
  return classes;
}

const facts = await (await fetch('model.json')).json();
let network;
try {
  network = await compile();
  say(`Ready (${network.where}).`);
} catch (error) {
  say(`The network cannot run here: ${error.message}`, true);
  throw error;
}

let playing = 0;

function stop() {
  playing++;
  video.pause();
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  element('stop').hidden = true;
}

/** Frame after frame, until another picture or Stop. */
async function play() {
  const turn = ++playing;
  element('stop').hidden = false;
  await video.play();
  while (turn === playing) {
    if (video.videoWidth) await show(network, facts, video, video.videoWidth, video.videoHeight);
    await new Promise(requestAnimationFrame);
  }
}

async function open(file) {
  stop();
  try {
    if (file.type.startsWith('video/')) {
      video.src = URL.createObjectURL(file);
      await play();
    } else {
      const bitmap = await createImageBitmap(file, AS_STORED);
      await show(network, facts, bitmap, bitmap.width, bitmap.height);
    }
  } catch (error) {
    say(`${file.name}: ${error.message}`, true);
  }
}

element('file').addEventListener('change', ({target}) => target.files[0] && open(target.files[0]));
element('stop').addEventListener('click', stop);
element('opacity').addEventListener('input', ({target}) => { mask.style.opacity = target.value / 100; });
element('camera').addEventListener('click', async () => {
  stop();
  try {
    video.removeAttribute('src');
    video.srcObject = await navigator.mediaDevices.getUserMedia({video: {facingMode: 'environment'}});
    await play();
  } catch (error) {
    say(`The camera: ${error.message}`, true);
  }
});
element('stage').addEventListener('dragover', (event) => event.preventDefault());
element('stage').addEventListener('drop', (event) => {
  event.preventDefault();
  if (event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
});

// For a page around this one, and for tests.
window.kseg = {
  facts,
  where: network.where,
  /** Channel numbers, row by row, of an image's address. */
  segment: async (address) => {
    const bitmap = await createImageBitmap(await (await fetch(address)).blob(), AS_STORED);
    return show(network, facts, bitmap, bitmap.width, bitmap.height);
  },
};
