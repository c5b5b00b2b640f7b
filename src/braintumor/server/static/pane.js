// The pane of one model for the shown slice: the view, the decision with reasons, the probabilities.

import {follow} from "./pointer.js";
import {REFER, isCalibrated, rounded} from "./wording.js";

// `actions` are those of `follow`, each with the pane before its arguments, and `card`, which shows the model card.
export function makePane(model, index, classes, actions) {
  const part = document.getElementById("pane-template").content.cloneNode(true).firstElementChild;
  const find = (selector) => part.querySelector(selector);
  part.setAttribute("aria-label", `Model ${model.identity}`);
  find(".model").textContent = model.identity;
  find(".identity span").textContent = model.identity;
  find(".unit").textContent = `of the scale of ${model.name} (1 = ${model.class_map_scale.toPrecision(3)}), the same for every slice`;
  find(".card").onclick = actions.card;
  find(".card").setAttribute("aria-label", `Model card of ${model.name}`);
  const pane = {model, index, part, find, canvas: find(".view canvas"), bar: find(".legend canvas"), map: null, mapOf: null};
  pane.bars = classes.map(({title}) => addBar(find("tbody"), title));
  const {window, move, zoom, scroll} = actions;
  follow(pane.canvas, {window, move: (...by) => move(pane, ...by), zoom: (...by) => zoom(pane, ...by), scroll});
  return pane;
}

function addBar(body, title) {
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
}

export function showAnswer({part, find, model, index, bars}, slice, wording) {
  const prediction = slice.predictions[index];
  const refers = prediction.decision === REFER;
  part.classList.toggle("refers", refers);
  find(".name").textContent = slice.name;
  find(".decision").textContent = wording.heading(prediction);
  find(".reasons").hidden = !refers;
  find(".reasons").replaceChildren(...prediction.reasons.map(({text}) => element("li", text)));
  find(".meaning").textContent = wording.meaning(prediction, model);
  find(".caution").textContent = wording.caution(prediction);
  find(".caution").hidden = !wording.caution(prediction);
  find("caption").textContent = isCalibrated(model) ? "Calibrated probabilities of the classes" : "Outputs for the classes, not calibrated";
  for (const [number, {name}] of wording.classes.entries()) {
    const {row, bar, value} = bars[number];
    const share = prediction[`p_${name}`];
    bar.style.width = `${100 * share}%`;
    value.textContent = rounded(share);
    row.classList.toggle("best", name === prediction.predicted);
  }
  find(".facts").replaceChildren(...facts(prediction, model, wording).flatMap(([term, text]) => [element("dt", term), element("dd", text)]));
}

function facts(prediction, model, wording) {
  const rows = [];
  if (model.ood_threshold != null) {
    rows.push(["Unlike training images", `${prediction.ood_score.toPrecision(3)} (typical 1, referred above ${model.ood_threshold.toPrecision(3)})`]);
  }
  if (prediction.prediction_set.length) {
    rows.push(["Prediction set", prediction.prediction_set.map((name) => wording.title(name)).join(", ")]);
  }
  if (model.confidence > 0) rows.push(["Referred below", rounded(model.confidence, 2)]);
  return rows;
}

function element(name, textContent) {
  return Object.assign(document.createElement(name), {textContent});
}
