// Slices that belong together: their order, and what a model says along them, in numbers and in words.

import {peakOf} from "./render.js";
import {NONE, REFER, rounded} from "./wording.js";

const SERIES = "series "; // what DICOM files of one series share; slices of other volumes share their file

export const isSeries = ({volume}) => volume?.startsWith(SERIES) ?? false;

// What the slices of a volume share; null for an image that stands alone. A file gives the same to all its slices.
export function volumeKey(slice) {
  if (slice.volume == null) return null;
  return isSeries(slice) ? slice.volume : `${slice.item.number}/${slice.member ?? ""}`;
}

// By place along the normal where all slices have one, else by number.
export function inOrder(slices) {
  const placed = slices.every(({position}) => position != null);
  return slices.sort((a, b) => (placed ? a.position - b.position : 0) || a.number - b.number);
}

export function volumeName(slice) {
  const file = slice.file;
  if (!isSeries(slice)) return file;
  const folder = file.split("/").slice(0, -1).join("/");
  return folder ? `${folder} – ${slice.volume}` : `DICOM ${slice.volume}`;
}

// What a model at `index` decided: how many slices of each class, how many referred for which reason.
export function tally(slices, index, classes) {
  const found = {decided: new Map(classes.map(({name}) => [name, 0])), referred: 0, reasons: new Map()};
  const add = (map, key) => map.set(key, (map.get(key) ?? 0) + 1);
  for (const {predictions} of slices) {
    const {decision, reasons} = predictions[index];
    if (decision !== REFER) add(found.decided, decision);
    else {
      found.referred++;
      for (const reason of reasons.split("; ")) add(found.reasons, reason.replace(/ between .*/, ""));
    }
  }
  found.tumor = slices.length - found.referred - found.decided.get(NONE);
  return found;
}

export function tallyWords(slices, index, wording) {
  const {decided, referred, reasons} = tally(slices, index, wording.classes);
  const parts = [...decided].filter(([, count]) => count).map(([name, count]) => `${wording.decision(name)} on ${count}`);
  const why = [...reasons].sort((a, b) => b[1] - a[1]).map(([reason, count]) => `${reason} on ${count}`);
  if (referred) parts.push(`referred ${referred} (${why.join("; ")})`);
  return `${counted(slices.length)}: ${parts.join(", ")}.`;
}

export const counted = (count) => `${count} ${count === 1 ? "slice" : "slices"}`;

// The slice on which the map of the tumor class that was decided peaks highest; null where none was decided.
export function strongest(slices, index, classes) {
  let best = null;
  for (const [at, {predictions}] of slices.entries()) {
    const {decision} = predictions[index];
    if (decision === REFER || decision === NONE) continue;
    const peak = decidedPeak(predictions[index], classes);
    if (!best || peak > best.peak) best = {at, peak, name: decision};
  }
  return best;
}

const peaks = new WeakMap();

function decidedPeak(prediction, classes) {
  const number = classes.findIndex(({name}) => name === prediction.decision);
  if (!peaks.has(prediction)) peaks.set(prediction, peakOf(prediction.class_maps[number]));
  return peaks.get(prediction);
}

// The curves in words, for those who do not see them.
export function curveWords(slices, index, wording) {
  const classes = wording.classes.map(({name, title}) => {
    const shares = slices.map(({predictions}) => predictions[index][`p_${name}`]);
    const most = Math.max(...shares);
    return `${title}: highest ${rounded(most, 2)} on slice ${shares.indexOf(most) + 1}, decided on ${ranges(slices, index, name)}.`;
  });
  return [`Class probabilities along ${counted(slices.length)}.`, ...classes, `Referred: ${ranges(slices, index, REFER)}.`].join(" ");
}

function ranges(slices, index, decision) {
  const found = runs(slices, index, decision).map(([from, to]) => (from === to ? from + 1 : `${from + 1} to ${to + 1}`));
  return found.join(", ") || "none";
}

// First and last place of each run of slices with this decision.
export function runs(slices, index, decision) {
  const found = [];
  for (const [at, {predictions}] of slices.entries()) {
    if (predictions[index].decision !== decision) continue;
    if (found.at(-1)?.[1] === at - 1) found.at(-1)[1] = at;
    else found.push([at, at]);
  }
  return found;
}
