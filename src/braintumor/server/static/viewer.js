// The page: the slices, which of them is shown and how, and the actions of buttons and keys.

import {cardTable, wholeCard} from "./card.js";
import {
  blank, chooseMap, display, isOriginal, move, pan, reset, savePicture, setOriginal, setUp, toggle, windowBy, zoom,
} from "./display.js";
import {chosen, dropped} from "./files.js";
import {List, middle} from "./list.js";
import {makePane, showAnswer} from "./pane.js";
import {$, announce, announceSoon, clamp, switchTheme} from "./page.js";
import {Pictures} from "./pictures.js";
import {blobOf} from "./render.js";
import {results, sources} from "./results.js";
import {baseName, csv, download, json} from "./save.js";
import {Problem, Sender, Service} from "./sender.js";
import {Strip} from "./strip.js";
import {askToken, takeToken} from "./token.js";
import {strongest} from "./volume.js";
import {NO_TUMOR_CLASS, REFER, Wording} from "./wording.js";

const TAP = 300; // milliseconds
const PAGE = 10; // slices

const service = new Service();
const pictures = new Pictures();
const list = new List($("list"), pictures, (stack) => choose(home(stack)));
const state = {refused: [], current: null, shown: null};
let about, wording, sender, panes, strip;
let follows = true; // the first of what is new is shown, unless the user has chosen something meanwhile
let followed = null;

// ---- start

async function start() {
  takeToken(service);
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
  wording = new Wording(about.classes, about.reasons);
  $("disclaimer").textContent = about.disclaimer;
  $("version").textContent = about.version;
  $("formats").textContent =
    `DICOM, NIfTI, PNG, JPEG, TIFF or BMP, up to ${about.limits.file_bytes >> 20} MiB each; up to ${about.limits.slices} slices in one archive.`;
  $("cards").textContent = about.models.length > 1 ? "Model cards" : "Model card";
  $("cards").disabled = false;
  panes = about.models.map(addPane);
  strip = new Strip(about.models, wording, about.scale, {choose: chooseAt, evidence: chooseEvidence});
  $("views").dataset.count = panes.length;
  setUp(about, wording, panes);
  sender = new Sender(service, about.limits, {answered, changed: showProgress, asksToken});
  document.documentElement.dataset.ready = "true";
}

const asksToken = () => askToken(service);

async function models() {
  for (;;) {
    try {
      return await service.models();
    } catch (error) {
      if (error.status !== 401) throw error;
      await asksToken();
    }
  }
}

// ---- files in, answers out

let numbered = 0;

async function add(promise) {
  const files = await promise;
  if (!files.length || !sender) return;
  follows = true;
  followed = null;
  const items = files.map(({file, name}) => ({file, name, number: ++numbered, waiting: list.waiting(name)}));
  showStage();
  sender.add(items);
}

function answered(item, {slices, refused}) {
  const before = item.waiting;
  if (!list.stacks.includes(before)) return;
  const put = slices.map((slice) => list.put(Object.assign(slice, {pixels: blobOf(slice.pixels)}), before));
  list.drop(before);
  for (const file of refused) refuse(file);
  const changed = new Set(put.map(({stack}) => stack));
  for (const stack of changed) list.describe(stack, wording);
  const [first] = changed;
  const line = (stack) => list.stacks.indexOf(stack);
  if (follows && first && (!followed || line(first) < line(followed))) {
    followed = first;
    select(home(first));
    const {activeElement} = document;
    if (activeElement === document.body || $("empty").contains(activeElement)) $("list").focus({preventScroll: true});
  } else if (changed.has(state.current?.stack)) {
    showStack();
    if (state.shown) panes.forEach(showResults);
  }
}

function refuse({name, code, text}) {
  state.refused.push({name, code, text});
  const line = document.createElement("li");
  const [file, why] = [document.createElement("span"), document.createElement("span")];
  file.textContent = name;
  file.className = "entry-name";
  why.textContent = text;
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
  $("progress-text").textContent = pausing ? `The server is busy; ${done} of ${total} files, continuing soon` : `${done} of ${total} files`;
  if (!busy) {
    showStage();
    if (follows && state.current) select(home(state.current.stack));
    if (total) announce(`${summary()}.`);
  }
  showPosition();
}

function summary() {
  const {slices} = list;
  const referred = slices.filter(({predictions}) => predictions.some(({decision}) => decision === REFER)).length;
  return [`${slices.length} slices`, referred && `${referred} referred`, state.refused.length && `${state.refused.length} not used`]
    .filter(Boolean)
    .join(", ");
}

function cancel() {
  sender.cancel();
  for (const stack of list.stacks.filter(({slices}) => !slices.length)) list.drop(stack);
  showProgress();
  showStage();
}

function clear() {
  cancel();
  for (const stack of [...list.stacks]) list.drop(stack);
  state.refused = [];
  $("refused-list").replaceChildren();
  $("refused").hidden = true;
  Object.assign(state, {current: null, shown: null});
  pictures.clear();
  strip?.show(null);
  blank();
  showStage();
  showProgress();
  $("choose-files").focus();
}

// ---- which slice

// The slice at which a stack opens: where the user left it.
const home = (stack) => stack.last ?? middle(stack);

function choose(slice) {
  follows = false;
  slice.stack.last = slice;
  select(slice);
}

function chooseAt(at) {
  const {slices} = state.current.stack;
  choose(slices[clamp(at, 0, slices.length - 1)]);
}

const indexInVolume = () => state.current.stack.slices.indexOf(state.current);

// From one end of a volume on to the next line of the list, but not by a key that is held down.
function step(by, held = false) {
  const {slices} = state.current.stack;
  const next = slices[indexInVolume() + by];
  if (next) return choose(next);
  const stacks = list.answered;
  const stack = stacks[stacks.indexOf(state.current.stack) + by];
  if (stack && !(held && slices.length > 1)) choose(by > 0 ? stack.slices[0] : stack.slices.at(-1));
}

// To an end of the volume; for a single image, to an end of the list.
function chooseEnd(last) {
  const {slices} = state.current.stack;
  const all = slices.length > 1 ? slices : list.slices;
  choose(all.at(last ? -1 : 0));
}

function stepStack(by) {
  const stack = list.answered[list.answered.indexOf(state.current.stack) + by];
  if (stack) choose(home(stack));
}

function scroll(count) {
  if (!state.current || state.current.stack.slices.length < 2) return false;
  if (count) chooseAt(indexInVolume() + count);
  return true;
}

function chooseEvidence(at) {
  chooseMap(null);
  chooseAt(at);
}

function findEvidence() {
  const {slices} = state.current.stack;
  const {evidence} = about.scale;
  const candidates = panes
    .map(({index, model: {class_map_scale}}) => strongest(slices, index, about.classes, {class_map_scale, evidence}))
    .filter(Boolean);
  if (!candidates.length) return announce(NO_TUMOR_CLASS);
  chooseEvidence(candidates.reduce((best, next) => (next.strength > best.strength ? next : best)).at);
}

let showing = false;

// Slices are shown in turn as they are decoded; those that the user has moved past meanwhile are left out.
async function select(slice) {
  if (slice.stack !== state.current?.stack) list.select(slice.stack);
  state.current = slice;
  showStage();
  showStack();
  if (showing) return;
  showing = true;
  try {
    while (state.current && state.current !== state.shown) {
      const next = state.current;
      const pixels = await pictures.of(next);
      if (next.stack === state.current?.stack) show(next, pixels);
    }
  } finally {
    showing = false;
  }
}

function show(slice, pixels) {
  const moved = slice.stack !== state.shown?.stack;
  state.shown = slice;
  for (const pane of panes) {
    if (moved && !writing) pane.find(".results-said").textContent = "";
    showAnswer(pane, slice, wording);
    showResults(pane);
  }
  showPosition();
  showAgreement();
  display(slice, pixels);
  const {slices, name} = slice.stack;
  const [number, all] = slices.length > 1 ? [slices.indexOf(slice), slices] : [list.answered.indexOf(slice.stack), list.answered];
  announceSoon(`Slice ${number + 1} of ${all.length}${slices.length > 1 ? ` of ${name}` : ""}. ${wording.result(slice)}`);
}

function showStack() {
  strip.show(state.current.stack, state.current);
  showPosition();
}

function showPosition() {
  const {answered, slices} = list;
  const line = answered.indexOf(state.current?.stack);
  $("position").textContent = answered.length ? `${line + 1} / ${answered.length}` : "No slices";
  $("position").title = summary();
  $("previous").disabled = line <= 0;
  $("next").disabled = line < 0 || line === answered.length - 1;
  $("clear").disabled = !list.stacks.length && !state.refused.length;
  for (const id of ["save-csv", "save-json"]) $(id).disabled = !slices.length;
  $("save-png").disabled = !state.shown;
}

function showStage() {
  const empty = !state.current;
  $("empty").hidden = !empty;
  $("work").hidden = empty;
  document.body.classList.toggle("started", list.stacks.length + state.refused.length > 0);
}

// ---- the panes of the models

function addPane(model, index) {
  const pane = makePane(model, index, about.classes, {
    window: windowBy,
    move,
    zoom,
    scroll,
    card: showCards,
  });
  pane.find(".results-one").onclick = () => saveResults(pane, [state.shown]);
  pane.find(".results-all").onclick = () => saveResults(pane, state.shown.stack.slices);
  $("views").append(pane.part);
  return pane;
}

function showAgreement() {
  const slice = state.shown;
  const notes = slice.notes ?? [];
  $("notes").hidden = !notes.length;
  $("notes").textContent = `Assumed in reading: ${notes.join("; ")}.`;
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

// ---- files for the user

function saveTable() {
  download(new Blob([csv(list.slices)], {type: "text/csv"}), "braintumor.csv");
}

function saveAnswers() {
  download(new Blob([json(about, list.slices, state.refused)], {type: "application/json"}), "braintumor.json");
}

let writing = null; // DICOM results are written, until stopped

function showResults({find}) {
  const [here, all] = [sources([state.shown]), sources(state.shown.stack.slices)];
  find(".results").hidden = !about.dicom || !here.length;
  find(".results-one").textContent = writing ? "Stop" : "This file";
  find(".results-all").textContent = `All ${all.length} files`;
  find(".results-all").hidden = writing || all.length < 2;
}

async function saveResults(pane, slices) {
  if (writing) return writing.abort();
  writing = new AbortController();
  const {signal} = writing;
  const files = sources(slices);
  const say = (text) => (pane.find(".results-said").textContent = text);
  const changed = (done) => say(files.length > 1 ? `${done} of ${files.length} files` : "Writing");
  changed(0);
  panes.forEach(showResults);
  try {
    const archive = await results(files, pane.model.name, {service, signal, asksToken, changed});
    download(archive, `${baseName(slices.length > 1 ? slices[0].stack.name : slices[0].name)}-dicom-results.zip`);
    say("Saved");
  } catch (error) {
    if (error instanceof Problem) say(`Not written: ${error.message}.`);
    else if (error.name === "AbortError") say("Stopped");
    else throw error;
  } finally {
    writing = null;
    if (state.shown) panes.forEach(showResults);
  }
}

// ---- buttons and keys

const CLICKS = {
  "choose-files": () => $("files").click(),
  "choose-folder": () => $("folder").click(),
  "empty-files": () => $("files").click(),
  "empty-folder": () => $("folder").click(),
  again: start,
  cancel,
  clear,
  previous: () => stepStack(-1),
  next: () => stepStack(1),
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
  ArrowUp: (held) => step(-1, held),
  ArrowLeft: (held) => step(-1, held),
  ArrowDown: (held) => step(1, held),
  ArrowRight: (held) => step(1, held),
  PageUp: () => chooseAt(indexInVolume() - PAGE),
  PageDown: () => chooseAt(indexInVolume() + PAGE),
  Home: () => chooseEnd(false),
  End: () => chooseEnd(true),
  e: findEvidence,
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
  if (event.target.closest("input, select, textarea") && event.target !== $("slice")) return;
  if (event.key === "?") return $("help-dialog").showModal();
  if (!state.shown) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === " ") {
    if (event.target.closest("button, summary, a")) return;
    if (!event.repeat) {
      spaceDown = {at: event.timeStamp, before: isOriginal()};
      setOriginal(!isOriginal());
    }
  } else if (about.classes[key - 1]) chooseMap(key - 1);
  else if (KEYS[key]) KEYS[key](event.repeat);
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
document.addEventListener("keydown", keyDown);
document.addEventListener("keyup", keyUp);
drags();
start();
