// Below the views of a volume: the slider through its slices, and a plot of each model's probabilities along them.

import {$} from "./page.js";
import {Plot, sample} from "./plot.js";
import {curveWords, isSeries, strongest, tallyWords} from "./volume.js";
import {NO_TUMOR_CLASS, REFER} from "./wording.js";

export class Strip {
  #plots;
  #shown = null;
  #drawing = 0;

  // `choose(at)` shows the slice at this index of the volume; `evidence(at)` also the map of its predicted class.
  constructor(models, wording, scale, {choose, evidence}) {
    Object.assign(this, {wording, scale, evidence});
    this.#plots = models.map((model, index) => this.#makePlot(model, index, models.length, choose));
    $("plots").append(...this.#plots.map(({part}) => part));
    $("slice").addEventListener("input", () => choose(Number($("slice").value) - 1));
    $("key").append(
      ...wording.classes.map(({title}, number) => keyLine(sample(number), title)),
      keyLine(Object.assign(document.createElement("span"), {className: "sample referred-sample"}), "Referred"),
    );
  }

  // Show a stack with one of its slices as the current one; nothing for a single image.
  show(stack, slice) {
    $("volume").hidden = !stack || stack.slices.length < 2;
    if ($("volume").hidden) {
      this.#shown = null;
      return;
    }
    const at = stack.slices.indexOf(slice);
    const same = this.#shown?.stack === stack && this.#shown.count === stack.slices.length;
    this.#shown = {stack, count: stack.slices.length, at};
    $("slice").max = stack.slices.length;
    $("slice").value = at + 1;
    $("slice").setAttribute("aria-valuetext", `slice ${at + 1} of ${stack.slices.length}, ${this.wording.decisions(slice)}`);
    $("slice-at").textContent = `${at + 1} of ${stack.slices.length}`;
    $("slice-place").textContent = positionLine(slice, at);
    // many slices may arrive before the next frame: the curves are drawn once for all of them
    if (same) for (const {plot} of this.#plots) plot.mark(at);
    else this.#drawing ||= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#drawing = 0;
    if (!this.#shown) return;
    const {stack, at} = this.#shown;
    const {slices} = stack;
    for (const [index, {plot, find}] of this.#plots.entries()) {
      plot.draw(slices, index, this.wording.classes, at);
      find("svg").setAttribute("aria-label", curveWords(slices, index, this.wording));
      find(".tally").textContent = tallyWords(slices, index, this.wording);
      this.#findEvidence(find, slices, index);
    }
  }

  #findEvidence(find, slices, index) {
    const {evidence} = this.scale;
    const {class_map_scale} = this.#plots[index].model;
    const best = strongest(slices, index, this.wording.classes, {class_map_scale, evidence});
    const button = find(".evidence");
    button.hidden = !best;
    find(".no-evidence").hidden = Boolean(best);
    const decided = slices.some(({predictions}) => predictions[index].decision !== REFER);
    find(".no-evidence").textContent = decided ? NO_TUMOR_CLASS : "Every slice is referred.";
    if (!best) return;
    const peak = best.strength;
    const words = peak < evidence ? `no map above ${Math.round(100 * evidence)} % of the scale` : `peak ${this.wording.peak(peak)}`;
    button.textContent = `Strongest evidence: ${this.wording.title(best.name)} on slice ${best.at + 1}, ${words}`;
    button.onclick = () => this.evidence(best.at);
  }

  #makePlot(model, index, count, choose) {
    const part = $("plot-template").content.cloneNode(true).firstElementChild;
    const find = (selector) => part.querySelector(selector);
    find(".plot-model").textContent = count > 1 ? model.identity : "";
    return {model, part, find, plot: new Plot(find("svg"), this.wording.classes, choose)};
  }
}

function keyLine(mark, title) {
  const line = document.createElement("li");
  line.append(mark, title);
  return line;
}

// The number and position of the slice in its file, if they tell more than its index here.
function positionLine({number, position, volume}, at) {
  const numberText = number != null && number !== at + 1 && `no. ${number} in the ${isSeries({volume}) ? "series" : "file"}`;
  const positionText = position != null && `${position.toFixed(1)} mm`.replace("-", "−");
  return [numberText, positionText].filter(Boolean).join(", ");
}
