// The list in the sidebar: one line for each single image, each volume, and each file that waits for its answer.

import {FITTED, WHOLE, draw, greyLayer} from "./render.js";
import {REFER, rounded} from "./wording.js";
import {counted, inOrder, tally, volumeKey, volumeName} from "./volume.js";

let numbered = 0;

// A stack is a line of the list: {name, slices, element}; its slices are in order, one for a single image, none while it waits.
export class List {
  stacks = [];
  #byVolume = new Map();
  #visible;

  // `pictures` decodes slices; `choose(stack)` is called when the user clicks a line.
  constructor(element, pictures, choose) {
    Object.assign(this, {element, pictures, choose});
    // thumbnails are decoded when their line comes into view: a folder may have hundreds
    this.#visible = new IntersectionObserver((changes) => this.#seen(changes), {root: element, rootMargin: "200px"});
  }

  get answered() {
    return this.stacks.filter(({slices}) => slices.length);
  }

  get slices() {
    return this.stacks.flatMap(({slices}) => slices);
  }

  waiting(name) {
    return this.#insert(name, null);
  }

  // Put a slice into its volume, or into a line of its own before the one that waited for it.
  put(slice, before) {
    const key = volumeKey(slice);
    let stack = key && this.#byVolume.get(key);
    if (!stack) {
      stack = this.#insert(key ? volumeName(slice) : slice.name, before);
      stack.key = key;
      if (key) this.#byVolume.set(key, stack);
      this.#answered(stack);
    }
    // the same file added twice gives the same slices
    const twin = stack.slices.find(({name, number}) => name === slice.name && number === slice.number);
    if (twin) return twin;
    slice.stack = stack;
    stack.slices.push(slice);
    inOrder(stack.slices);
    return slice;
  }

  drop(stack) {
    this.stacks.splice(this.stacks.indexOf(stack), 1);
    this.#byVolume.delete(stack.key);
    stack.element.remove();
  }

  select(stack) {
    this.element.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
    stack.element.setAttribute("aria-selected", "true");
    this.element.setAttribute("aria-activedescendant", stack.element.id);
    stack.element.scrollIntoView({block: "nearest", inline: "nearest"});
  }

  // Write the decision into the line of a stack, and show its middle slice there.
  describe(stack, wording) {
    const {slices, element} = stack;
    const decision = element.querySelector(".entry-decision");
    const refers = slices.some(({predictions}) => predictions.some(({decision}) => decision === REFER));
    decision.classList.remove("faint");
    decision.classList.toggle("refers", refers && slices.length === 1);
    decision.replaceChildren(...(slices.length > 1 ? volumeWords(slices, wording) : imageWords(slices[0], wording)));
    this.#visible.unobserve(element);
    this.#visible.observe(element);
  }

  #insert(name, before) {
    const element = document.createElement("li");
    element.setAttribute("role", "option");
    element.setAttribute("aria-disabled", "true");
    element.setAttribute("aria-selected", "false");
    element.append(text("entry-name", name), text("entry-decision faint", "waiting"));
    element.firstChild.title = name;
    const stack = {name, slices: [], element};
    if (before) {
      this.stacks.splice(this.stacks.indexOf(before), 0, stack);
      before.element.before(element);
    } else {
      this.stacks.push(stack);
      this.element.append(element);
    }
    return stack;
  }

  #answered(stack) {
    const {element} = stack;
    element.id = `entry-${++numbered}`;
    element.removeAttribute("aria-disabled");
    const canvas = Object.assign(document.createElement("canvas"), {width: 80, height: 80});
    canvas.setAttribute("aria-hidden", "true");
    element.prepend(canvas);
    element.onclick = () => this.choose(stack);
  }

  #seen(changes) {
    for (const {isIntersecting, target} of changes) {
      const stack = isIntersecting && this.stacks.find(({element}) => element === target);
      if (!stack) continue;
      this.#visible.unobserve(target);
      this.pictures.of(middle(stack)).then((pixels) => thumbnail(target.querySelector("canvas"), pixels));
    }
  }
}

export const middle = ({slices}) => slices[slices.length >> 1];

function imageWords(slice, wording) {
  const names = slice.predictions.map(({decision}) => wording.decision(decision));
  const same = slice.agree ?? true;
  const [first] = slice.predictions;
  if (!same) return [names.join(" ≠ ")];
  if (first.decision === REFER || names.length > 1) return [names[0]];
  return [names[0], text("faint", ` ${rounded(first[`p_${first.predicted}`], 2)}`)];
}

function volumeWords(slices, wording) {
  const tallies = slices[0].predictions.map((_, index) => tally(slices, index, wording.classes));
  // one number where all models agree, else one for each model
  const perModel = (key) => {
    const values = tallies.map((counts) => counts[key]);
    return new Set(values).size > 1 ? values.join(" / ") : values[0];
  };
  const line = text("tallies faint", `${perModel("tumor")} tumor class, `);
  line.append(text(tallies.some(({referred}) => referred) ? "refers" : "", `${perModel("referred")} refer`));
  return [`${counted(slices.length)} `, line];
}

function text(name, content) {
  return Object.assign(document.createElement("span"), {className: name, textContent: content});
}

function thumbnail(canvas, slice) {
  draw(canvas.getContext("2d"), {grey: greyLayer(slice, WHOLE)}, FITTED, 0, canvas.width, canvas.height);
}
