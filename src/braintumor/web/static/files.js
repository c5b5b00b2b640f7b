// What was dropped or chosen: files with the names they go by, and the names inside ZIP archives.

const HIDDEN = /(^|\/)(\.[^/]*|__MACOSX|Thumbs\.db|desktop\.ini)(\/|$)/i;
const order = new Intl.Collator(undefined, {numeric: true});
const byName = (a, b) => order.compare(a.name, b.name);

export function chosen(list) {
  return [...list]
    .map((file) => ({file, name: file.webkitRelativePath || file.name}))
    .filter(({name}) => !HIDDEN.test(name))
    .sort(byName);
}

export async function dropped(transfer) {
  const entries = [...transfer.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry?.());
  if (!entries.some((entry) => entry?.isDirectory)) return chosen(transfer.files);
  const found = [];
  for (const entry of entries) if (entry) await walk(entry, found);
  return found.filter(({name}) => !HIDDEN.test(name)).sort(byName);
}

async function walk(entry, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    found.push({file, name: entry.fullPath.replace(/^\//, "")});
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return;
    for (const each of some) await walk(each, found);
  }
}

export async function isArchive(file) {
  const start = new Uint8Array(await file.slice(0, 2).arrayBuffer());
  return start[0] === 0x50 && start[1] === 0x4b;
}

// Names of the members that the server counts: no folders, nothing hidden. Source: APPNOTE.TXT of PKWARE, 4.3.12, 4.3.16.
export async function members(file) {
  const end = new DataView(await file.slice(-22).arrayBuffer());
  if (end.byteLength < 22 || end.getUint32(0, true) !== 0x06054b50) return [];
  const [size, start] = [end.getUint32(12, true), end.getUint32(16, true)];
  const view = new DataView(await file.slice(start, start + size).arrayBuffer());
  const names = [];
  for (let at = 0; at + 46 <= view.byteLength && view.getUint32(at, true) === 0x02014b50; ) {
    const [name, extra, comment] = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    const bytes = new Uint8Array(view.buffer, at + 46, Math.min(name, view.byteLength - at - 46));
    names.push(new TextDecoder().decode(bytes));
    at += 46 + name + extra + comment;
  }
  return names.filter((name) => {
    const parts = name.split("/");
    return !name.endsWith("/") && !parts.includes("__MACOSX") && !parts.at(-1).startsWith(".");
  });
}
