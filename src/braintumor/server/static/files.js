// What was dropped or chosen: files with the names they go by.

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
