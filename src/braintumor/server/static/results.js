// DICOM results: send the files of slices to the server again, and join the archives that it returns.

import {asked} from "./sender.js";
import {isSeries} from "./volume.js";
import {joined, unpacked} from "./zip.js";

const FILES = 8;
const BYTES = 16 << 20;

// The DICOM files that slices come from, each once; slices of other files have none.
export function sources(slices) {
  const byMember = new Map();
  for (const slice of slices) {
    const {item, member} = slice;
    const inside = item.archive ? item.members[member] : null;
    if (!isSeries(slice) || inside === undefined) continue;
    byMember.set(`${item.number}/${member}`, {item, inside, size: (inside ?? item.file).size});
  }
  return [...byMember.values()];
}

// One archive with the results of a model; `changed(done)` is called as files are answered.
export async function results(files, model, {service, signal, asksToken, changed}) {
  const archives = [];
  const waiting = batches(files);
  for (let done = 0; waiting.length; changed(done)) {
    const batch = waiting.shift();
    const contents = await Promise.all(batch.map(content));
    try {
      archives.push(await asked(service, () => service.results(contents, model, signal), {signal, asksToken}));
      done += batch.length;
    } catch (error) {
      if (!error.sendLess || batch.length === 1) throw error;
      // too large or too slow together: halves are tried before what waits, so that the order stays
      const half = batch.length >> 1;
      waiting.unshift(batch.slice(0, half), batch.slice(half));
    }
  }
  return archives.length === 1 ? archives[0] : joined(archives);
}

function batches(files) {
  const groups = [];
  let bytes = 0;
  for (const file of files) {
    bytes += file.size;
    if (!groups.length || groups.at(-1).length === FILES || bytes > BYTES) {
      groups.push([]);
      bytes = file.size;
    }
    groups.at(-1).push(file);
  }
  return groups;
}

function content({item, inside}) {
  return inside ? unpacked(item.file, inside) : item.file;
}
