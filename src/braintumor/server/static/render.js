// Pixels: grey values through a window, class maps in colour on a fixed scale, both placed by one view.

export const WHOLE = {level: 127.5, width: 255, inverted: false};
export const FITTED = {zoom: 1, x: 0.5, y: 0.5};
export const MOST_ZOOM = 24;
const LEGEND_GREY = 0.35;
const STEPS = 1024;

export function blobOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let n = 0; n < text.length; n++) bytes[n] = text.charCodeAt(n);
  return new Blob([bytes], {type: "image/png"});
}

export async function decode(blob) {
  const image = await createImageBitmap(blob, {colorSpaceConversion: "none"});
  const {width, height} = image;
  const context = canvasOf(width, height).getContext("2d", {willReadFrequently: true});
  context.drawImage(image, 0, 0);
  image.close();
  const {data} = context.getImageData(0, 0, width, height);
  const grey = new Uint8Array(width * height);
  for (let n = 0; n < grey.length; n++) grey[n] = data[4 * n];
  return {width, height, grey};
}

export function canvasOf(width, height) {
  return Object.assign(document.createElement("canvas"), {width, height});
}

export function greyLayer({width, height, grey}, window) {
  const table = new Uint32Array(256);
  for (let value = 0; value < 256; value++) {
    const share = (value - window.level) / window.width + 0.5;
    const level = Math.round(255 * Math.min(1, Math.max(0, window.inverted ? 1 - share : share)));
    table[value] = (0xff000000 | (level << 16) | (level << 8) | level) >>> 0;
  }
  return layer(width, height, (pixels) => {
    for (let n = 0; n < grey.length; n++) pixels[n] = table[grey[n]];
  });
}

export function peakOf(map) {
  let peak = 0;
  for (const row of map) for (const value of row) if (value > peak) peak = value;
  return peak;
}

// The map covers the slice's centred square; its colours are still to be drawn with the opacity.
export function mapLayer({width, height}, map, scale, {evidence, colours}) {
  const side = Math.max(width, height);
  const columns = samples(width, Math.floor((side - width) / 2), map[0].length / side, map[0].length);
  const rows = samples(height, Math.floor((side - height) / 2), map.length / side, map.length);
  const shown = map.map((row) => Float32Array.from(row, (value) => Math.min(value / scale, 1)));
  const table = colourTable(colours);
  return layer(width, height, (pixels) => {
    for (let y = 0, n = 0; y < height; y++) {
      const [above, below, down] = [shown[rows.first[y]], shown[rows.second[y]], rows.share[y]];
      for (let x = 0; x < width; x++, n++) {
        const [left, right, across] = [columns.first[x], columns.second[x], columns.share[x]];
        const upper = above[left] + (above[right] - above[left]) * across;
        const lower = below[left] + (below[right] - below[left]) * across;
        pixels[n] = coloured(upper + (lower - upper) * down, evidence, table);
      }
    }
  });
}

function coloured(strength, evidence, table) {
  if (strength <= evidence) return 0;
  const alpha = Math.round(255 * Math.sqrt((strength - evidence) / (1 - evidence)));
  return ((alpha << 24) | table[Math.round(strength * STEPS)]) >>> 0;
}

function samples(count, offset, step, cells) {
  const weights = {first: new Uint16Array(count), second: new Uint16Array(count), share: new Float32Array(count)};
  for (let n = 0; n < count; n++) {
    const at = Math.min(cells - 1, Math.max(0, (n + offset + 0.5) * step - 0.5));
    weights.first[n] = at;
    weights.second[n] = Math.min(cells - 1, weights.first[n] + 1);
    weights.share[n] = at - weights.first[n];
  }
  return weights;
}

function colourTable(colours) {
  const table = new Uint32Array(STEPS + 1);
  for (let n = 0, stop = 0; n <= STEPS; n++) {
    const share = n / STEPS;
    while (stop < colours.length - 2 && share > colours[stop + 1][0]) stop++;
    const [[from, start], [to, end]] = [colours[stop], colours[stop + 1]];
    const [red, green, blue] = start.map((value, c) => Math.round(value + ((end[c] - value) * (share - from)) / (to - from)));
    table[n] = (blue << 16) | (green << 8) | red;
  }
  return table;
}

function layer(width, height, fill) {
  const canvas = canvasOf(width, height);
  const image = new ImageData(width, height);
  fill(new Uint32Array(image.data.buffer));
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

export function placed(layer, view, width, height) {
  const factor = Math.min(width / layer.width, height / layer.height) * view.zoom;
  return {factor, left: width / 2 - view.x * layer.width * factor, top: height / 2 - view.y * layer.height * factor};
}

export function draw(context, {grey, map}, view, opacity, width, height) {
  context.fillStyle = "#000";
  context.fillRect(0, 0, width, height);
  const {factor, left, top} = placed(grey, view, width, height);
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  const box = [left, top, grey.width * factor, grey.height * factor];
  context.drawImage(grey, ...box);
  if (!map) return;
  context.globalAlpha = opacity;
  context.drawImage(map, ...box);
  context.globalAlpha = 1;
}

// The colours as they look over middle grey.
export function drawLegend(canvas, {evidence, colours}, opacity) {
  const context = canvas.getContext("2d");
  const {width, height} = canvas;
  const table = colourTable(colours);
  const ramp = layer(width, 1, (pixels) => {
    for (let x = 0; x < width; x++) pixels[x] = coloured(x / Math.max(1, width - 1), evidence, table);
  });
  const grey = Math.round(255 * LEGEND_GREY);
  context.globalAlpha = 1;
  context.fillStyle = `rgb(${grey} ${grey} ${grey})`;
  context.fillRect(0, 0, width, height);
  context.globalAlpha = opacity;
  context.drawImage(ramp, 0, 0, width, height);
}
