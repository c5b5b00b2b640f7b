// How the shown slice looks: which map, through which window, where; the same for every slice that is shown next.

import {$, announce, clamp} from "./page.js";
import {FITTED, MOST_ZOOM, WHOLE, draw, drawLegend, greyLayer, mapLayer, peakOf, placed} from "./render.js";
import {baseName, download, picture} from "./save.js";
import {rounded, sentence} from "./wording.js";

const look = {choice: null, heatmap: true, original: false, opacity: 0.65};
const view = {...FITTED, ...WHOLE};
let about, wording, panes;
let shown = null; // slice and pixels together, so that no slice is ever painted under the name of another
let shownSlices = 0;

// Take what the service says about its models; `all` are their panes.
export function setUp(description, words, all) {
  [about, wording, panes] = [description, words, all];
  look.opacity = about.scale.opacity;
  for (const {canvas, bar} of panes) {
    resized.observe(canvas);
    resized.observe(bar);
  }
  makeClassButtons();
  showControls();
}

export function display(slice, pixels) {
  shown = {slice, pixels};
  showMapState();
  paintSoon();
}

export function blank() {
  shown = null;
  look.choice = null;
  reset();
}

export const isOriginal = () => look.original;
const seen = () => (look.original ? WHOLE : view); // window and level

// ---- which map

function makeClassButtons() {
  const choices = [[null, "Predicted", "P"], ...about.classes.map(({title}, number) => [number, title, String(number + 1)])];
  for (const [choice, title, key] of choices) {
    const button = Object.assign(document.createElement("button"), {type: "button", onclick: () => chooseMap(choice)});
    button.dataset.choice = choice ?? "";
    button.setAttribute("aria-keyshortcuts", key);
    button.append(`${title} `, Object.assign(document.createElement("kbd"), {textContent: key}));
    $("classes").append(button);
  }
}

export function chooseMap(choice) {
  Object.assign(look, {choice, heatmap: true, original: false});
  showControls();
  announce(showMapState());
  paintSoon();
}

function mapShown({index, model}) {
  const prediction = shown.slice.predictions[index];
  const number = look.choice ?? about.classes.findIndex(({name}) => name === prediction.predicted);
  const map = prediction.class_maps[number];
  const peak = peakOf(map) / model.class_map_scale;
  return {number, map, peak, title: about.classes[number].title, evident: peak >= about.scale.evidence};
}

function mapWords({title, peak, evident}) {
  if (!evident) return `No evidence above ${Math.round(100 * about.scale.evidence)} % of the scale for ${title}`;
  return `Map of ${title}: peak ${wording.peak(peak)} of the scale`;
}

const hasMap = () => look.heatmap && !look.original;

function showMapState() {
  if (!shown) return "";
  const {slice} = shown;
  const texts = panes.map((pane) => {
    const map = mapShown(pane);
    const words = look.original ? "Original, as sent" : look.heatmap ? mapWords(map) : "Map off";
    const nothing = hasMap() && !map.evident;
    pane.find(".map").textContent = hasMap() ? `Map: ${map.title}, peak ${wording.peak(map.peak)}` : words;
    pane.find(".nothing").textContent = words;
    pane.find(".nothing").hidden = !nothing;
    pane.part.classList.toggle("no-map", !hasMap());
    const prediction = slice.predictions[pane.index];
    pane.canvas.setAttribute(
      "aria-label",
      `Slice ${slice.name}. ${pane.model.identity}: ${wording.heading(prediction)}${prediction.reasons.length ? `, ${sentence(prediction.reasons)}` : ""}. ${words}.`,
    );
    return panes.length > 1 ? `${pane.model.name}: ${words}` : words;
  });
  return texts.join(". ");
}

// ---- how it is shown

export function windowBy(dx, dy) {
  setWindow(view.width + dx, view.level + dy);
}

function setWindow(width, level) {
  Object.assign(view, {width: clamp(width, 1, 510), level: clamp(level, 0, 255)});
  look.original = false;
  showControls();
  showMapState();
  paintSoon();
}

export function move({canvas}, dx, dy) {
  if (!shown) return;
  const {pixels} = shown;
  const {factor} = placed(pixels, view, canvas.clientWidth, canvas.clientHeight);
  view.x = clamp(view.x - dx / (pixels.width * factor), 0, 1);
  view.y = clamp(view.y - dy / (pixels.height * factor), 0, 1);
  paintSoon();
}

export function pan(dx, dy) {
  const {canvas} = panes[0];
  move(panes[0], (dx * canvas.clientWidth) / 10, (dy * canvas.clientHeight) / 10);
}

export function zoom({canvas}, by, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  if (!shown) return;
  const {pixels} = shown;
  const {width, height} = pixels;
  const before = placed(pixels, view, canvas.clientWidth, canvas.clientHeight);
  const [u, v] = [(x - before.left) / (width * before.factor), (y - before.top) / (height * before.factor)];
  view.zoom = clamp(view.zoom * by, 0.5, MOST_ZOOM);
  const {factor} = placed(pixels, view, canvas.clientWidth, canvas.clientHeight);
  view.x = clamp(u + (canvas.clientWidth / 2 - x) / (width * factor), 0, 1);
  view.y = clamp(v + (canvas.clientHeight / 2 - y) / (height * factor), 0, 1);
  paintSoon();
}

export function reset() {
  Object.assign(view, FITTED, WHOLE);
  look.original = false;
  showControls();
  showMapState();
  paintSoon();
}

export function toggle(name) {
  if (name === "inverted") view.inverted = !view.inverted;
  else look[name] = !look[name];
  if (name !== "original") look.original = false;
  showControls();
  announce(showMapState());
  paintSoon();
}

export function setOriginal(original) {
  look.original = original;
  showControls();
  showMapState();
  paintSoon();
}

function showControls() {
  for (const button of $("classes").children) {
    button.setAttribute("aria-pressed", String(button.dataset.choice === String(look.choice ?? "")));
  }
  $("heatmap").setAttribute("aria-pressed", String(look.heatmap));
  $("original").setAttribute("aria-pressed", String(look.original));
  $("invert").setAttribute("aria-pressed", String(view.inverted));
  for (const [id, value, text] of [
    ["opacity", look.opacity, `${Math.round(100 * look.opacity)} %`],
    ["width", view.width, Math.round(view.width)],
    ["level", view.level, Math.round(view.level)],
  ]) {
    $(id).value = value;
    $(`${id}-value`).textContent = text;
  }
}

// ---- paint

let painting = 0;
const resized = new ResizeObserver(paintSoon);
const layers = {grey: null, slice: null, of: null};

function paintSoon() {
  painting ||= requestAnimationFrame(paint);
}

function layersOf(pane) {
  const {slice, pixels} = shown;
  const {level, width, inverted} = seen();
  const of = [level, width, inverted].join();
  if (layers.slice !== slice || layers.of !== of) Object.assign(layers, {slice, of, grey: greyLayer(pixels, {level, width, inverted})});
  if (!hasMap()) return {grey: layers.grey, map: null};
  const {number, map, evident} = mapShown(pane);
  if (pane.mapOf !== map) {
    pane.mapOf = map;
    pane.map = evident ? mapLayer(pixels, map, pane.model.class_map_scale, about.scale) : null;
  }
  return {grey: layers.grey, map: pane.map};
}

function fitted(canvas) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.round(side * devicePixelRatio));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, {width, height});
  return width > 0 && height > 0;
}

function paint() {
  painting = 0;
  if (!shown) return;
  const {slice, pixels} = shown;
  const window = seen();
  const magnified = placed(pixels, view, panes[0].canvas.clientWidth, panes[0].canvas.clientHeight).factor;
  const words = `W ${Math.round(window.width)}  L ${Math.round(window.level)}${window.inverted ? "  inverted" : ""}  ${Math.round(100 * magnified)} %`;
  for (const pane of panes) {
    if (!fitted(pane.canvas)) return;
    draw(pane.canvas.getContext("2d"), layersOf(pane), view, look.opacity, pane.canvas.width, pane.canvas.height);
    if (fitted(pane.bar)) drawLegend(pane.bar, about.scale, look.opacity);
    pane.find(".window").textContent = words;
  }
  if (slice.painted || !hasMap()) return;
  slice.painted = true;
  document.documentElement.dataset.shown = ++shownSlices;
  document.dispatchEvent(new CustomEvent("braintumor:painted", {detail: {slices: shownSlices}}));
}

// ---- as a file

export async function savePicture() {
  const {slice} = shown;
  const window = seen();
  const notes = slice.notes?.length ? [`Assumed in reading: ${slice.notes.join("; ")}`] : [];
  const views = panes.map((pane) => {
    const prediction = slice.predictions[pane.index];
    const map = mapShown(pane);
    const share = about.classes.map(({title, name}) => `${title} ${rounded(prediction[`p_${name}`])}`).join("   ");
    return {
      layers: layersOf(pane),
      hasMap: hasMap(),
      lines: [
        `${wording.heading(prediction)}${prediction.reasons.length ? `: ${sentence(prediction.reasons)}` : ""}`,
        hasMap() ? `${mapWords(map)} (1 = ${pane.model.class_map_scale.toPrecision(3)})` : "No map shown",
        share,
        `Model ${pane.model.identity}   window ${Math.round(window.width)}, level ${Math.round(window.level)}${window.inverted ? ", inverted" : ""}   opacity ${Math.round(100 * look.opacity)} %`,
        ...notes,
      ],
    };
  });
  const blob = await picture(views, {view, opacity: look.opacity, scale: about.scale, disclaimer: about.disclaimer});
  download(blob, `${baseName(slice.name)}-view.png`);
}

$("opacity").addEventListener("input", () => {
  look.opacity = Number($("opacity").value);
  showControls();
  paintSoon();
});
$("width").addEventListener("input", () => setWindow(Number($("width").value), view.level));
$("level").addEventListener("input", () => setWindow(view.width, Number($("level").value)));
