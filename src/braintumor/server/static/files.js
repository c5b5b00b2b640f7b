// Turn what the user dropped or chose into a sorted list of files with the names to show.

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
  const files = [];
  for (const entry of entries) if (entry) await walk(entry, files);
  return files.filter(({name}) => !HIDDEN.test(name)).sort(byName);
}

async function walk(entry, files) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    files.push({file, name: entry.fullPath.replace(/^\//, "")});
    return;
  }
  const reader = entry.createReader();
  // a browser gives the entries of a folder in parts (Chrome 100 at a time); an empty part is the end
  for (;;) {
    const children = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!children.length) return;
    for (const child of children) await walk(child, files);
  }
}
