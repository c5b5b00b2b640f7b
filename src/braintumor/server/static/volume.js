// The slices of a volume: their order, and a model's decisions along them, in numbers and in words.

import {peakOf} from "./render.js";
import {NONE, REFER, rounded} from "./wording.js";

const SERIES = "series "; // what DICOM files of one series share; slices of other volumes share their file

export const isSeries = ({volume}) => volume?.startsWith(SERIES) ?? false;

// The key that the slices of a volume share; null for a single image.
export function volumeKey(slice) {
  if (slice.volume == null) return null;
  return isSeries(slice) ? slice.volume : `${slice.item.number}/${slice.member ?? ""}`;
}

// Sort by position along the normal if every slice has one of its own, else by number; as `volumes.in_order`.
export function inOrder(slices) {
  const positions = slices.map(({position}) => position);
  const placed = !positions.includes(null) && !positions.includes(undefined) && new Set(positions).size === slices.length;
  return slices.sort((a, b) => (placed ? a.position - b.position : a.number - b.number));
}

export function volumeName(slice) {
  const file = slice.file;
  if (!isSeries(slice)) return file;
  const folder = file.split("/").slice(0, -1).join("/");
  return folder ? `${folder} – ${slice.volume}` : `DICOM ${slice.volume}`;
}

// Count the decisions of the model at `index`: slices of each class, slices referred, and for which reasons.
export function tally(slices, index, classes) {
  const counts = {decided: new Map(classes.map(({name}) => [name, 0])), referred: 0, reasons: new Map()};
  const add = (map, key) => map.set(key, (map.get(key) ?? 0) + 1);
  for (const {predictions} of slices) {
    const {decision, reasons} = predictions[index];
    if (decision !== REFER) add(counts.decided, decision);
    else {
      counts.referred++;
      for (const code of new Set(reasons.map((reason) => reason.code))) add(counts.reasons, code);
    }
  }
  counts.tumor = slices.length - counts.referred - counts.decided.get(NONE);
  return counts;
}

export function tallyWords(slices, index, wording) {
  const {decided, referred, reasons} = tally(slices, index, wording.classes);
  const parts = [...decided].filter(([, count]) => count).map(([name, count]) => `${wording.decision(name)} on ${count}`);
  const why = [...reasons].sort((a, b) => b[1] - a[1]).map(([code, count]) => `${wording.reasons[code] ?? code} on ${count}`);
  if (referred) parts.push(`referred ${referred} (${why.join("; ")})`);
  return `${counted(slices.length)}: ${parts.join(", ")}.`;
}

export const counted = (count) => `${count} ${count === 1 ? "slice" : "slices"}`;

// The slice with the strongest evidence for any tumor class that was decided; null if none was.
export function strongest(slices, index, classes, {class_map_scale, evidence}) {
  const candidates = classes
    .filter(({name}) => name !== NONE)
    .map(({name}) => evidenceOf(slices, index, name, classes, {class_map_scale, evidence}))
    .filter((candidate) => candidate?.decided);
  return candidates.reduce((best, next) => (best && best.strength >= next.strength ? best : next), null);
}

// The slice with the strongest evidence for a class, of those decided so, else of those referred that show a brain; the
// first of equals, null if there is none. As `volumes.evidence`; tests/fixtures/volume_rules.json holds for both.
export function evidenceOf(slices, index, name, classes, {class_map_scale, evidence}) {
  const number = classes.findIndex((candidate) => candidate.name === name);
  const answers = slices.map(({predictions}, at) => ({at, prediction: predictions[index]}));
  const decided = answers.filter(({prediction}) => prediction.decision === name);
  const referred = answers.filter(({prediction}) => prediction.predicted === name && showsBrain(prediction));
  let best = null;
  for (const {at, prediction} of decided.length ? decided : referred) {
    const strength = peakAt(prediction, number) / class_map_scale;
    // below the threshold of evidence maps do not count, and the probability decides
    const rank = [strength >= evidence ? strength : 0, prediction[`p_${name}`]];
    if (!best || rank[0] > best.rank[0] || (rank[0] === best.rank[0] && rank[1] > best.rank[1])) {
      best = {at, name, strength, rank, decided: decided.length > 0};
    }
  }
  return best;
}

const NO_PICTURE = ["image_quality", "not_brain_mri"];
const showsBrain = ({reasons}) => !reasons.some(({code}) => NO_PICTURE.includes(code));

const peaks = new WeakMap();

function peakAt(prediction, number) {
  if (!peaks.has(prediction)) peaks.set(prediction, new Map());
  const own = peaks.get(prediction);
  if (!own.has(number)) own.set(number, peakOf(prediction.class_maps[number]));
  return own.get(number);
}

// The curves in words, for screen readers.
export function curveWords(slices, index, wording) {
  const classes = wording.classes.map(({name, title}) => {
    const shares = slices.map(({predictions}) => predictions[index][`p_${name}`]);
    const most = Math.max(...shares);
    return `${title}: highest ${rounded(most, 2)} on slice ${shares.indexOf(most) + 1}, decided on ${ranges(slices, index, name)}.`;
  });
  return [`Class probabilities along ${counted(slices.length)}.`, ...classes, `Referred: ${ranges(slices, index, REFER)}.`].join(" ");
}

function ranges(slices, index, decision) {
  const texts = runs(slices, index, decision).map(([from, to]) => (from === to ? from + 1 : `${from + 1} to ${to + 1}`));
  return texts.join(", ") || "none";
}

// The first and last index of each run of slices with this decision.
export function runs(slices, index, decision) {
  const list = [];
  for (const [at, {predictions}] of slices.entries()) {
    if (predictions[index].decision !== decision) continue;
    if (list.at(-1)?.[1] === at - 1) list.at(-1)[1] = at;
    else list.push([at, at]);
  }
  return list;
}
