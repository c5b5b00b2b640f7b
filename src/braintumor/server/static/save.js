// Save predictions and views as files on the user's disk.

import {canvasOf, draw, drawLegend} from "./render.js";
import {isSeries} from "./volume.js";
import {sentence} from "./wording.js";

const COLUMNS = [
  "image", "label", "predicted", "decision", "reason_codes", "reasons", "p_glioma", "p_meningioma", "p_pituitary", "p_no_tumor",
  "model", "ood_score", "prediction_set", "notes", "volume", "slice",
];
// A cell that a spreadsheet would take for a formula gets an apostrophe; as `text.FORMULA` and `text.NUMBER` in Python.
const FORMULA = /^'*\s*[=+\-@＝＋－＠]/;
const NUMBER = /^[+-]?\d+(\.\d+)?(e[+-]?\d+)?$/i;
const SIDE = 768;
const MARGIN = 20;

export function csv(slices) {
  const lines = slices.flatMap((slice) =>
    slice.predictions.map((prediction) => {
      const values = {
        ...prediction,
        image: slice.name,
        reason_codes: prediction.reasons.map(({code}) => code).join("; "),
        reasons: sentence(prediction.reasons),
        prediction_set: prediction.prediction_set.join(" "),
        notes: slice.notes?.join("; "),
        volume: volumeOf(slice),
        slice: slice.number,
      };
      return COLUMNS.map((column) => cell(values[column]));
    }),
  );
  return [COLUMNS, ...lines].map((line) => line.join(",")).join("\r\n") + "\r\n";
}

// The volume as `braintumor predict` names it: by its file's name, which only this browser knows.
function volumeOf(slice) {
  return slice.volume == null || isSeries(slice) ? slice.volume : slice.file;
}

function cell(value) {
  const text = typeof value === "string" && FORMULA.test(value) && !NUMBER.test(value) ? `'${value}` : String(value ?? "");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export function json(about, slices, refused) {
  const {disclaimer, version, models} = about;
  return JSON.stringify({
    disclaimer,
    version,
    models: models.map(({card, ...model}) => model),
    slices: slices.map((slice) => {
      const {name, number, position, notes, width, height, agree, predictions} = slice;
      const volume = volumeOf(slice);
      const answers = predictions.map((prediction) => ({...prediction, image: name, ...(volume != null && {volume})}));
      return {image: name, volume, number, position, notes, width, height, agree, predictions: answers};
    }),
    refused: refused.map(({name, code, text}) => ({image: name, error: {code: code ?? null, text}})),
  });
}

// Draw views side by side; below each its legend and text, below all of them the disclaimer.
export function picture(views, {view, opacity, scale, disclaimer}) {
  const page = canvasOf(views.length * (SIDE + MARGIN) + MARGIN, 10);
  const texts = views.map(({lines}) => lines);
  const rows = Math.max(...texts.map((lines) => lines.length));
  page.height = SIDE + 3 * MARGIN + 34 + 24 * rows + 40;
  const context = page.getContext("2d");
  context.fillStyle = "#121418";
  context.fillRect(0, 0, page.width, page.height);
  for (const [number, {layers, lines, hasMap}] of views.entries()) {
    const left = MARGIN + number * (SIDE + MARGIN);
    const canvas = canvasOf(SIDE, SIDE);
    draw(canvas.getContext("2d"), layers, view, opacity, SIDE, SIDE);
    context.drawImage(canvas, left, MARGIN);
    let top = SIDE + 2 * MARGIN;
    if (hasMap) {
      const legend = canvasOf(SIDE, 14);
      drawLegend(legend, scale, opacity);
      context.drawImage(legend, left, top);
      for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
        write(context, String(tick), left + tick * SIDE, top + 30, 14, "#bec2c8", tick === 0 ? "left" : tick === 1 ? "right" : "center");
      }
    }
    top += 58;
    for (const [row, line] of lines.entries()) write(context, line, left, top + 24 * row, row ? 15 : 18, "#f0f0f0", "left", SIDE);
  }
  write(context, disclaimer, MARGIN, page.height - MARGIN, 16, "#e8b04a", "left", page.width - 2 * MARGIN);
  return new Promise((resolve) => page.toBlob(resolve, "image/png"));
}

function write(context, text, x, y, size, colour, align, most) {
  context.font = `${size}px system-ui, sans-serif`;
  context.fillStyle = colour;
  context.textAlign = align;
  context.fillText(text, x, y, most);
}

export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  // not at once: the browser reads the content after the click
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export const baseName = (name) => name.split("/").at(-1).replace(/(\.nii)?\.[^.#]*(?=#|$)/, "").replace("#", "-");

