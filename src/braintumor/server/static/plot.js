// The class probabilities along the slices of a volume: one line for each class, bands where slices are referred.

import {runs} from "./volume.js";
import {REFER} from "./wording.js";

const SPACE = "http://www.w3.org/2000/svg";
const EDGE = 8; // half the thumb of the slider above, so that both have the same places
const ABOVE = 6;
const SIGNS_FROM = 12; // pixels between slices
const SIGNS = ["m-3,0a3,3 0 1 0 6,0a3,3 0 1 0 -6,0z", "m-3,-3h6v6h-6z", "m0,-4l4,7h-8z", "m-3,0h6m-3,-3v6"];
let plots = 0;

export class Plot {
  #svg;
  #bands;
  #foot;
  #lines;
  #marker;
  #grid;
  #count = 0;
  #drawn = null;

  // `choose(at)` is called where the user points, `at` counted from 0.
  constructor(svg, classes, choose) {
    this.#svg = svg;
    const hatch = `hatch-${++plots}`;
    const pattern = part("pattern", {id: hatch, width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)"});
    pattern.append(part("rect", {width: 5, height: 5, class: "hatch-back"}), part("rect", {width: 1.5, height: 5, class: "hatch-line"}));
    this.#grid = part("path", {class: "grid"});
    this.#bands = part("path", {fill: `url(#${hatch})`});
    this.#foot = part("path", {class: "referred"});
    this.#lines = classes.map((_, number) => [part("path", {class: `line class-${number}`}), part("path", {class: `sign class-${number}`})]);
    this.#marker = part("path", {class: "marker"});
    svg.replaceChildren(pattern, this.#bands, this.#grid, ...this.#lines.toReversed().flat(), this.#foot, this.#marker);
    this.#follow(choose);
    new ResizeObserver(() => this.#drawn && this.draw(...this.#drawn)).observe(svg);
  }

  draw(slices, index, classes, at) {
    this.#drawn = [slices, index, classes, at];
    const [width, height] = [this.#svg.clientWidth, this.#svg.clientHeight];
    if (!width || !height) return;
    this.#count = slices.length;
    const y = (share) => round(ABOVE + (1 - share) * (height - 2 * ABOVE));
    const step = this.#step;
    this.#grid.setAttribute("d", [0, 0.5, 1].map((share) => `M0,${y(share)}H${width}`).join(""));
    const referred = runs(slices, index, REFER);
    const [reach, bottom] = [Math.max(1, step / 2), height - ABOVE];
    const from = (first) => round(Math.max(0, this.#x(first) - reach));
    const to = (last) => round(Math.min(width, this.#x(last) + reach));
    this.#bands.setAttribute("d", referred.map(([first, last]) => `M${from(first)},${ABOVE}H${to(last)}V${bottom}H${from(first)}z`).join(""));
    this.#foot.setAttribute("d", referred.map(([first, last]) => `M${from(first)},${height - 1.5}H${to(last)}`).join(""));
    for (const [number, {name}] of classes.entries()) {
      const points = slices.map(({predictions}, at) => `${this.#x(at)},${y(predictions[index][`p_${name}`])}`);
      const [line, sign] = this.#lines[number];
      line.setAttribute("d", `M${points.join("L")}`);
      sign.setAttribute("d", step < SIGNS_FROM ? "" : points.map((point) => `M${point}${SIGNS[number % SIGNS.length]}`).join(""));
    }
    this.mark(at);
  }

  mark(at) {
    if (this.#drawn) this.#drawn[3] = at;
    const x = this.#x(at);
    this.#marker.setAttribute("d", `M${x},0V${this.#svg.clientHeight}M${round(x - 4)},0h8l-4,6z`);
  }

  get #step() {
    return (this.#svg.clientWidth - 2 * EDGE) / Math.max(1, this.#count - 1);
  }

  #x(at) {
    return round(this.#count > 1 ? EDGE + at * this.#step : this.#svg.clientWidth / 2);
  }

  #follow(choose) {
    const svg = this.#svg;
    const point = ({clientX}) => {
      const at = Math.round((clientX - svg.getBoundingClientRect().left - EDGE) / this.#step);
      choose(Math.min(this.#count - 1, Math.max(0, at)));
    };
    svg.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      svg.setPointerCapture(event.pointerId);
      point(event);
    });
    svg.addEventListener("pointermove", (event) => svg.hasPointerCapture(event.pointerId) && point(event));
  }
}

// A line and its sign as the plot draws them, for its legend.
export function sample(number) {
  const svg = part("svg", {class: "sample", width: 30, height: 12, "aria-hidden": "true"});
  svg.append(
    part("path", {class: `line class-${number}`, d: "M0,6H30"}),
    part("path", {class: `sign class-${number}`, d: `M15,6${SIGNS[number % SIGNS.length]}`}),
  );
  return svg;
}

function part(name, attributes) {
  const element = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

const round = (value) => Math.round(10 * value) / 10;
