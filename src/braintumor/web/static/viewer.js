// The page: which slices there are, which one is shown and how, and what every button and key does.

import {cardTable, wholeCard} from "./card.js";
import {chosen, dropped} from "./files.js";
import {follow} from "./pointer.js";
import {FITTED, MOST_ZOOM, WHOLE, blobOf, decode, draw, drawLegend, greyLayer, mapLayer, peakOf, placed, thumbnail} from "./render.js";
import {csv, download, json, picture} from "./save.js";
import {Problem, Sender, Service} from "./sender.js";
import {REFER, Wording, isCalibrated, rounded} from "./wording.js";

const TAP = 300; // milliseconds
const DECODED = 12; // slices kept as grey values
const $ = (id) => document.getElementById(id);
const root = document.documentElement;
const clamp = (value, least, most) => Math.min(most, Math.max(least, value));

const service = new Service();
const state = {entries: [], refused: [], current: null, shown: null, choice: null, heatmap: true, original: false, opacity: 0.65};
const view = {...FITTED, ...WHOLE};
let about, wording, sender, panes;
let follows = true; // the first of new slices is shown, unless the user has chosen another one meanwhile
let followed = null;
let shownSlices = 0;

// ---- start

async function start() {
  takeToken();
  $("problem").textContent = "";
  $("again").hidden = true;
  try {
    about = await models();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    $("problem").textContent = `No answer: ${error.message}.`;
    $("again").hidden = false;
    return;
  }
  wording = new Wording(about.classes);
  state.opacity = about.scale.opacity;
  $("disclaimer").textContent = about.disclaimer;
  $("version").textContent = about.version;
  $("formats").textContent =
    `PNG, JPEG, TIFF or BMP, up to ${about.limits.file_bytes >> 20} MiB each; up to ${about.limits.slices} slices in one archive.`;
  $("cards").textContent = about.models.length > 1 ? "Model cards" : "Model card";
  $("cards").disabled = false;
  makeClassButtons();
  panes = about.models.map(makePane);
  $("views").dataset.count = panes.length;
  sender = new Sender(service, about.limits, {answered, changed: showProgress, asksToken: askToken});
  showControls();
  root.dataset.ready = "true";
}

async function models() {
  for (;;) {
    try {
      return await service.models();
    } catch (error) {
      if (error.status !== 401) throw error;
      await askToken();
    }
  }
}

function takeToken() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!found) return;
  service.token = found;
  history.replaceState(null, "", location.pathname + location.search);
}

let asked = null;

function askToken() {
  asked ??= new Promise((resolve) => {
    if (service.token) $("token-text").textContent = "The service did not accept this token.";
    $("token-dialog").showModal();
    $("token-form").onsubmit = (event) => {
      event.preventDefault();
      service.token = $("token").value.trim();
      $("token").value = "";
      asked = null;
      $("token-dialog").close();
      resolve();
    };
  });
  return asked;
}

// ---- files in, answers out

async function add(found) {
  const files = await found;
  if (!files.length || !sender) return;
  follows = true;
  followed = null;
  const items = files.map(({file, name}) => ({file, name, entry: makeEntry(name)}));
  showStage();
  sender.add(items);
}

function makeEntry(name, before = null) {
  const element = document.createElement("li");
  element.setAttribute("role", "option");
  element.setAttribute("aria-disabled", "true");
  element.setAttribute("aria-selected", "false");
  const text = document.createElement("span");
  text.className = "entry-name";
  text.textContent = name;
  text.title = name;
  const decision = document.createElement("span");
  decision.className = "entry-decision faint";
  decision.textContent = "waiting";
  element.append(text, decision);
  const entry = {name, slice: null, element};
  if (before) {
    state.entries.splice(state.entries.indexOf(before), 0, entry);
    before.element.before(element);
  } else {
    state.entries.push(entry);
    $("list").append(element);
  }
  return entry;
}

function drop(entry) {
  state.entries.splice(state.entries.indexOf(entry), 1);
  entry.element.remove();
}

function answered(item, {slices, refused}) {
  if (!state.entries.includes(item.entry)) return;
  const entries = slices.map((slice) => fill(makeEntry(slice.name, item.entry), slice));
  drop(item.entry);
  for (const each of refused) refuse(each);
  const place = (entry) => state.entries.indexOf(entry);
  if (follows && entries.length && (!followed || place(entries[0]) < place(followed))) {
    followed = entries[0];
    select(followed);
    const {activeElement} = document;
    if (activeElement === document.body || $("empty").contains(activeElement)) $("list").focus({preventScroll: true});
  }
}

let numbered = 0;

function fill(entry, slice) {
  entry.slice = {...slice, pixels: blobOf(slice.pixels)};
  entry.id = ++numbered;
  const {element} = entry;
  element.id = `slice-${entry.id}`;
  element.removeAttribute("aria-disabled");
  const decision = element.querySelector(".entry-decision");
  decision.classList.remove("faint");
  const names = slice.predictions.map((each) => wording.decision(each.decision));
  const same = slice.agree ?? true;
  decision.textContent = same ? names[0] : names.join(" ≠ ");
  decision.classList.toggle("refers", slice.predictions.some((each) => each.decision === REFER));
  if (names[0] !== "Refer" && same && names.length === 1) {
    const share = document.createElement("span");
    share.className = "faint";
    share.textContent = ` ${rounded(slice.predictions[0][`p_${slice.predictions[0].predicted}`], 2)}`;
    decision.append(share);
  }
  const canvas = Object.assign(document.createElement("canvas"), {width: 80, height: 80});
  canvas.setAttribute("aria-hidden", "true");
  element.prepend(canvas);
  visible.observe(element);
  element.onclick = () => choose(entry);
  return entry;
}

const visible = new IntersectionObserver(
  (changes) => {
    for (const {isIntersecting, target} of changes) {
      const entry = isIntersecting && state.entries.find(({element}) => element === target);
      if (!entry) continue;
      visible.unobserve(target);
      grey(entry).then((pixels) => thumbnail(target.querySelector("canvas"), pixels));
    }
  },
  {root: $("list"), rootMargin: "200px"},
);

function refuse({name, reason}) {
  state.refused.push({name, reason});
  const line = document.createElement("li");
  const [file, why] = [document.createElement("span"), document.createElement("span")];
  file.textContent = name;
  file.className = "entry-name";
  why.textContent = reason;
  why.className = "faint";
  line.append(file, why);
  $("refused-list").append(line);
  $("refused-title").textContent = `Not used: ${state.refused.length}`;
  if ($("refused").hidden) $("refused").open = innerWidth > 1000;
  $("refused").hidden = false;
}

function showProgress() {
  if (!sender) return;
  const {done, total, busy, pausing} = sender;
  $("progress").hidden = !busy;
  $("bar").max = Math.max(1, total);
  if (total === 1) $("bar").removeAttribute("value");
  else $("bar").value = done;
  $("progress-text").textContent = pausing ? `The server is busy; ${done} of ${total} files, going on soon` : `${done} of ${total} files`;
  if (!busy) {
    showStage();
    if (total) announce(`${summary()}.`);
  }
  showPosition();
}

function summary() {
  const slices = answeredEntries();
  const referred = slices.filter(({slice}) => slice.predictions.some((each) => each.decision === REFER)).length;
  return [`${slices.length} slices`, referred && `${referred} referred`, state.refused.length && `${state.refused.length} not used`]
    .filter(Boolean)
    .join(", ");
}

function cancel() {
  sender.cancel();
  for (const entry of state.entries.filter(({slice}) => !slice)) drop(entry);
  showProgress();
  showStage();
}

function clear() {
  cancel();
  for (const entry of [...state.entries]) drop(entry);
  state.refused = [];
  $("refused-list").replaceChildren();
  $("refused").hidden = true;
  Object.assign(state, {current: null, shown: null, choice: null});
  decoded.clear();
  reset();
  showStage();
  showProgress();
  $("choose-files").focus();
}

// ---- which slice

const answeredEntries = () => state.entries.filter(({slice}) => slice);
const decoded = new Map();

function grey(entry) {
  const found = decoded.get(entry) ?? decode(entry.slice.pixels);
  decoded.delete(entry);
  decoded.set(entry, found);
  if (decoded.size > DECODED) decoded.delete(decoded.keys().next().value);
  return found;
}

function choose(entry) {
  follows = false;
  select(entry);
}

function step(count) {
  const all = answeredEntries();
  if (!all.length) return;
  const at = all.indexOf(state.current);
  choose(all[clamp(at + count, 0, all.length - 1)]);
}

async function select(entry) {
  state.current?.element.setAttribute("aria-selected", "false");
  state.current = entry;
  entry.element.setAttribute("aria-selected", "true");
  $("list").setAttribute("aria-activedescendant", entry.element.id);
  entry.element.scrollIntoView({block: "nearest", inline: "nearest"});
  showStage();
  showPosition();
  const pixels = await grey(entry);
  if (state.current !== entry) return;
  state.shown = {entry, pixels}; // together, so that no slice is ever painted under the name of another
  for (const pane of panes) showAnswer(pane);
  showPosition();
  showAgreement();
  showMapState();
  paintSoon();
  const all = answeredEntries();
  announce(`Slice ${all.indexOf(entry) + 1} of ${all.length}. ${wording.result(entry.slice)}`);
}

function showPosition() {
  const all = answeredEntries();
  const at = all.indexOf(state.current);
  $("position").textContent = all.length ? `${at + 1} / ${all.length}` : "No slices";
  $("position").title = summary();
  $("previous").disabled = at <= 0;
  $("next").disabled = at < 0 || at === all.length - 1;
  $("clear").disabled = !state.entries.length && !state.refused.length;
  for (const id of ["save-csv", "save-json"]) $(id).disabled = !all.length;
  $("save-png").disabled = !state.shown;
}

function showStage() {
  const empty = !state.current;
  $("empty").hidden = !empty;
  $("work").hidden = empty;
  document.body.classList.toggle("started", state.entries.length + state.refused.length > 0);
}

function announce(text) {
  $("announce").textContent = text;
}

// ---- what a model says

function makePane(model, index) {
  const part = $("pane-template").content.cloneNode(true).firstElementChild;
  const find = (selector) => part.querySelector(selector);
  part.setAttribute("aria-label", `Model ${model.identity}`);
  find(".model").textContent = model.identity;
  find(".identity span").textContent = model.identity;
  find(".unit").textContent = `of the scale of ${model.name} (1 = ${model.class_map_scale.toPrecision(3)}), the same for every slice`;
  find(".card").onclick = showCards;
  find(".card").setAttribute("aria-label", `Model card of ${model.name}`);
  const pane = {model, index, part, find, canvas: find(".view canvas"), bar: find(".legend canvas"), map: null, mapOf: null};
  const body = find("tbody");
  pane.bars = about.classes.map(({title}) => {
    const row = body.insertRow();
    const name = document.createElement("th");
    name.scope = "row";
    name.textContent = title;
    row.append(name);
    const track = document.createElement("span");
    track.className = "track";
    const bar = document.createElement("span");
    track.append(bar);
    const cell = row.insertCell();
    cell.setAttribute("aria-hidden", "true");
    cell.append(track);
    return {row, bar, value: row.insertCell()};
  });
  follow(pane.canvas, {
    window: (dx, dy) => setWindow(view.width + dx, view.level + dy),
    move: (dx, dy) => move(pane, dx, dy),
    zoom: (factor, x, y) => zoom(pane, factor, x, y),
  });
  resized.observe(pane.canvas);
  resized.observe(pane.bar);
  $("views").append(part);
  return pane;
}

function showAnswer(pane) {
  const {slice, name} = state.shown.entry;
  const prediction = slice.predictions[pane.index];
  const refers = prediction.decision === REFER;
  const {find, model} = pane;
  pane.part.classList.toggle("refers", refers);
  find(".name").textContent = name;
  find(".decision").textContent = wording.heading(prediction);
  find(".reasons").hidden = !refers;
  find(".reasons").replaceChildren(
    ...prediction.reasons.split("; ").map((reason) => Object.assign(document.createElement("li"), {textContent: reason})),
  );
  find(".meaning").textContent = wording.meaning(prediction, model);
  find(".caution").textContent = wording.caution(prediction);
  find(".caution").hidden = !wording.caution(prediction);
  find("caption").textContent = isCalibrated(model) ? "Calibrated probabilities of the classes" : "Outputs for the classes, not calibrated";
  for (const [number, {name: label}] of about.classes.entries()) {
    const {row, bar, value} = pane.bars[number];
    const share = prediction[`p_${label}`];
    bar.style.width = `${100 * share}%`;
    value.textContent = rounded(share);
    row.classList.toggle("best", label === prediction.predicted);
  }
  const facts = [];
  if (model.unusual != null) {
    facts.push(["Unlike training images", `${prediction.unusual.toPrecision(3)} (typical 1, referred above ${model.unusual.toPrecision(3)})`]);
  }
  if (prediction.prediction_set) {
    facts.push(["Prediction set", prediction.prediction_set.split(" ").map((each) => wording.title(each)).join(", ")]);
  }
  if (model.confidence > 0) facts.push(["Referred below", rounded(model.confidence, 2)]);
  find(".facts").replaceChildren(
    ...facts.flatMap(([term, text]) => [
      Object.assign(document.createElement("dt"), {textContent: term}),
      Object.assign(document.createElement("dd"), {textContent: text}),
    ]),
  );
}

function showAgreement() {
  const {slice} = state.shown.entry;
  $("agreement").hidden = slice.agree === null;
  if (slice.agree === null) return;
  $("agreement").textContent = wording.agreement(slice);
  $("agreement").classList.toggle("refers", !slice.agree);
}

function showCards() {
  $("card-title").textContent = $("cards").textContent;
  $("card-body").replaceChildren(cardTable(about.models, about.classes), ...about.models.map(wholeCard));
  $("card-dialog").showModal();
}

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

function chooseMap(choice) {
  Object.assign(state, {choice, heatmap: true, original: false});
  showControls();
  announce(showMapState());
  paintSoon();
}

function mapShown({index, model}) {
  const prediction = state.shown.entry.slice.predictions[index];
  const number = state.choice ?? about.classes.findIndex(({name}) => name === prediction.predicted);
  const map = prediction.class_maps[number];
  const peak = peakOf(map) / model.class_map_scale;
  return {number, map, peak, title: about.classes[number].title, evident: peak >= about.scale.evidence};
}

function mapWords({title, peak, evident}) {
  if (!evident) return `No evidence above ${Math.round(100 * about.scale.evidence)} % of the scale for ${title}`;
  return `Map of ${title}: peak ${peakText(peak)} of the scale`;
}

const peakText = (peak) => (peak > 1 ? "above 1" : rounded(peak, peak < 0.1 ? 3 : 2));

const hasMap = () => state.heatmap && !state.original;

function showMapState() {
  if (!state.shown) return "";
  const {slice, name} = state.shown.entry;
  const said = panes.map((pane) => {
    const shown = mapShown(pane);
    const words = state.original ? "Original, as sent" : state.heatmap ? mapWords(shown) : "Map off";
    const nothing = hasMap() && !shown.evident;
    pane.find(".map").textContent = hasMap() ? `Map: ${shown.title}, peak ${peakText(shown.peak)}` : words;
    pane.find(".nothing").textContent = words;
    pane.find(".nothing").hidden = !nothing;
    pane.part.classList.toggle("no-map", !hasMap());
    const prediction = slice.predictions[pane.index];
    pane.canvas.setAttribute(
      "aria-label",
      `Slice ${name}. ${pane.model.identity}: ${wording.heading(prediction)}${prediction.reasons ? `, ${prediction.reasons}` : ""}. ${words}.`,
    );
    return panes.length > 1 ? `${pane.model.name}: ${words}` : words;
  });
  return said.join(". ");
}

// ---- how it is shown

function setWindow(width, level) {
  Object.assign(view, {width: clamp(width, 1, 510), level: clamp(level, 0, 255)});
  state.original = false;
  showControls();
  showMapState();
  paintSoon();
}

function move({canvas}, dx, dy) {
  if (!state.shown) return;
  const {pixels} = state.shown;
  const {factor} = placed(pixels, view, canvas.clientWidth, canvas.clientHeight);
  view.x = clamp(view.x - dx / (pixels.width * factor), 0, 1);
  view.y = clamp(view.y - dy / (pixels.height * factor), 0, 1);
  paintSoon();
}

function zoom({canvas}, by, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  if (!state.shown) return;
  const {pixels} = state.shown;
  const {width, height} = pixels;
  const before = placed(pixels, view, canvas.clientWidth, canvas.clientHeight);
  const [u, v] = [(x - before.left) / (width * before.factor), (y - before.top) / (height * before.factor)];
  view.zoom = clamp(view.zoom * by, 0.5, MOST_ZOOM);
  const {factor} = placed(pixels, view, canvas.clientWidth, canvas.clientHeight);
  view.x = clamp(u + (canvas.clientWidth / 2 - x) / (width * factor), 0, 1);
  view.y = clamp(v + (canvas.clientHeight / 2 - y) / (height * factor), 0, 1);
  paintSoon();
}

function reset() {
  Object.assign(view, FITTED, WHOLE);
  state.original = false;
  showControls();
  showMapState();
  paintSoon();
}

function toggle(name) {
  if (name === "inverted") view.inverted = !view.inverted;
  else state[name] = !state[name];
  if (name !== "original") state.original = false;
  showControls();
  announce(showMapState());
  paintSoon();
}

function setOriginal(original) {
  state.original = original;
  showControls();
  showMapState();
  paintSoon();
}

function showControls() {
  for (const button of $("classes").children) {
    button.setAttribute("aria-pressed", String(button.dataset.choice === String(state.choice ?? "")));
  }
  $("heatmap").setAttribute("aria-pressed", String(state.heatmap));
  $("original").setAttribute("aria-pressed", String(state.original));
  $("invert").setAttribute("aria-pressed", String(view.inverted));
  for (const [id, value, text] of [
    ["opacity", state.opacity, `${Math.round(100 * state.opacity)} %`],
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
const layers = {grey: null, of: null};

function paintSoon() {
  painting ||= requestAnimationFrame(paint);
}

function layersOf(pane) {
  const {entry, pixels} = state.shown;
  const window = state.original ? WHOLE : view;
  const of = [entry.id, window.level, window.width, window.inverted].join();
  if (layers.of !== of) Object.assign(layers, {of, grey: greyLayer(pixels, window)});
  if (!hasMap()) return {grey: layers.grey, map: null};
  const {number, map, evident} = mapShown(pane);
  const mapOf = `${entry.id},${number}`;
  if (pane.mapOf !== mapOf) {
    pane.mapOf = mapOf;
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
  if (!state.shown) return;
  const {entry, pixels} = state.shown;
  const window = state.original ? WHOLE : view;
  const magnified = placed(pixels, view, panes[0].canvas.clientWidth, panes[0].canvas.clientHeight).factor;
  const words = `W ${Math.round(window.width)}  L ${Math.round(window.level)}${window.inverted ? "  inverted" : ""}  ${Math.round(100 * magnified)} %`;
  for (const pane of panes) {
    if (!fitted(pane.canvas)) return;
    draw(pane.canvas.getContext("2d"), layersOf(pane), view, state.opacity, pane.canvas.width, pane.canvas.height);
    if (fitted(pane.bar)) drawLegend(pane.bar, about.scale, state.opacity);
    pane.find(".window").textContent = words;
  }
  if (entry.painted || !hasMap()) return;
  entry.painted = true;
  root.dataset.shown = ++shownSlices;
  document.dispatchEvent(new CustomEvent("braintumor:painted", {detail: {slices: shownSlices}}));
}

// ---- files for the user

async function savePicture() {
  const {slice, name} = state.shown.entry;
  const window = state.original ? WHOLE : view;
  const views = panes.map((pane) => {
    const prediction = slice.predictions[pane.index];
    const shown = mapShown(pane);
    const share = about.classes.map((each) => `${each.title} ${rounded(prediction[`p_${each.name}`])}`).join("   ");
    return {
      layers: layersOf(pane),
      hasMap: hasMap(),
      lines: [
        `${wording.heading(prediction)}${prediction.reasons ? `: ${prediction.reasons}` : ""}`,
        hasMap() ? `${mapWords(shown)} (1 = ${pane.model.class_map_scale.toPrecision(3)})` : "No map shown",
        share,
        `Model ${pane.model.identity}   window ${Math.round(window.width)}, level ${Math.round(window.level)}${window.inverted ? ", inverted" : ""}   opacity ${Math.round(100 * state.opacity)} %`,
      ],
    };
  });
  const blob = await picture(views, {view, opacity: state.opacity, scale: about.scale, disclaimer: about.disclaimer});
  download(blob, `${name.split("/").at(-1).replace(/\.[^.]*$/, "")}-view.png`);
}

const answeredSlices = () => answeredEntries().map(({slice}) => slice);

function saveTable() {
  download(new Blob([csv(answeredSlices())], {type: "text/csv"}), "braintumor.csv");
}

function saveAnswers() {
  download(new Blob([json(about, answeredSlices(), state.refused)], {type: "application/json"}), "braintumor.json");
}

// ---- buttons and keys

function pan(dx, dy) {
  const {canvas} = panes[0];
  move(panes[0], (dx * canvas.clientWidth) / 10, (dy * canvas.clientHeight) / 10);
}

function switchTheme() {
  root.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
}

const darkScheme = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : darkScheme.matches);

function nameTheme() {
  $("theme").textContent = isDark() ? "Light" : "Dark";
  $("theme").setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
}

const CLICKS = {
  "choose-files": () => $("files").click(),
  "choose-folder": () => $("folder").click(),
  "empty-files": () => $("files").click(),
  "empty-folder": () => $("folder").click(),
  again: start,
  cancel,
  clear,
  previous: () => step(-1),
  next: () => step(1),
  "save-png": savePicture,
  "save-csv": saveTable,
  "save-json": saveAnswers,
  heatmap: () => toggle("heatmap"),
  original: () => toggle("original"),
  invert: () => toggle("inverted"),
  "zoom-in": () => zoom(panes[0], 1.25),
  "zoom-out": () => zoom(panes[0], 0.8),
  left: () => pan(1, 0),
  right: () => pan(-1, 0),
  up: () => pan(0, 1),
  down: () => pan(0, -1),
  reset,
  cards: showCards,
  help: () => $("help-dialog").showModal(),
  theme: switchTheme,
};

const KEYS = {
  ArrowUp: () => step(-1),
  ArrowLeft: () => step(-1),
  ArrowDown: () => step(1),
  ArrowRight: () => step(1),
  Home: () => step(-Infinity),
  End: () => step(Infinity),
  h: () => toggle("heatmap"),
  i: () => toggle("inverted"),
  p: () => chooseMap(null),
  r: reset,
  0: reset,
  "+": () => zoom(panes[0], 1.25),
  "=": () => zoom(panes[0], 1.25),
  "-": () => zoom(panes[0], 0.8),
};

let spaceDown = null;

function keyDown(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input, select, textarea")) return;
  if (event.key === "?") return $("help-dialog").showModal();
  if (!state.shown) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === " ") {
    if (event.target.closest("button, summary, a")) return;
    if (!event.repeat) {
      spaceDown = {at: event.timeStamp, before: state.original};
      setOriginal(!state.original);
    }
  } else if (about.classes[key - 1]) chooseMap(key - 1);
  else if (KEYS[key]) KEYS[key]();
  else return;
  event.preventDefault();
}

function keyUp(event) {
  if (event.key !== " " || !spaceDown) return;
  if (event.timeStamp - spaceDown.at > TAP) setOriginal(spaceDown.before);
  spaceDown = null;
}

function drags() {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const show = (visible) => ($("drop").hidden = !visible);
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    show(true);
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || show(false));
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    show(false);
    add(dropped(event.dataTransfer));
  });
}

for (const [id, action] of Object.entries(CLICKS)) $(id).addEventListener("click", () => action());
for (const button of document.querySelectorAll("dialog .close")) button.onclick = () => button.closest("dialog").close();
for (const id of ["files", "folder"]) {
  $(id).addEventListener("change", () => {
    add(chosen($(id).files));
    $(id).value = "";
  });
}
$("opacity").addEventListener("input", () => {
  state.opacity = Number($("opacity").value);
  showControls();
  paintSoon();
});
$("width").addEventListener("input", () => setWindow(Number($("width").value), view.level));
$("level").addEventListener("input", () => setWindow(view.width, Number($("level").value)));
$("token-dialog").addEventListener("close", () => asked && $("token-dialog").showModal());
darkScheme.addEventListener("change", nameTheme);
document.addEventListener("keydown", keyDown);
document.addEventListener("keyup", keyUp);
drags();
nameTheme();
start();
