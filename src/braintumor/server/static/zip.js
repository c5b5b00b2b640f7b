// ZIP archives: list the members, unpack one of them, join several archives. Source: APPNOTE.TXT of PKWARE, 4.3.

const END = 0x06054b50;
const MEMBER = 0x02014b50;
const DEFLATED = 8;

// By its first bytes; a DICOM file may begin like an archive, PS3.10 7.1.
export async function isArchive(file) {
  const start = new TextDecoder("latin1").decode(await file.slice(0, 132).arrayBuffer());
  return start.startsWith("PK") && !start.endsWith("DICM");
}

// The members that the server counts, in its order: no folders, nothing hidden.
export async function members(file) {
  return (await directory(file)).filter(({name}) => {
    const parts = name.split("/");
    return !name.endsWith("/") && !parts.includes("__MACOSX") && !parts.at(-1).startsWith(".");
  });
}

async function directory(file) {
  const end = new DataView(await file.slice(-22).arrayBuffer());
  if (end.byteLength < 22 || end.getUint32(0, true) !== END) return [];
  const [size, start] = [end.getUint32(12, true), end.getUint32(16, true)];
  const view = new DataView(await file.slice(start, start + size).arrayBuffer());
  const listed = [];
  for (let at = 0; at + 46 <= view.byteLength && view.getUint32(at, true) === MEMBER; ) {
    const [name, extra, comment] = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    const bytes = new Uint8Array(view.buffer, at + 46, Math.min(name, view.byteLength - at - 46));
    listed.push({
      name: new TextDecoder().decode(bytes),
      head: new Uint8Array(view.buffer, at + 6, 24), // from the needed version up to the length of the name
      packing: view.getUint16(at + 10, true),
      size: view.getUint32(at + 20, true),
      at: view.getUint32(at + 42, true),
    });
    at += 46 + name + extra + comment;
  }
  return listed;
}

export async function unpacked(file, member) {
  const packed = await packedBytes(file, member);
  if (member.packing !== DEFLATED) return packed;
  return new Response(packed.stream().pipeThrough(new DecompressionStream("deflate-raw"))).blob();
}

async function packedBytes(file, {at, size}) {
  const head = new DataView(await file.slice(at, at + 30).arrayBuffer());
  const start = at + 30 + head.getUint16(26, true) + head.getUint16(28, true);
  return file.slice(start, start + size);
}

// One archive with the members of all, whose leading numbers go on from one archive to the next.
export async function joined(archives) {
  const [parts, ends] = [[], []];
  let [offset, before] = [0, 0];
  for (const archive of archives) {
    let most = 0;
    for (const member of await directory(archive)) {
      const name = new TextEncoder().encode(
        member.name.replace(/^\d+/, (number) => {
          most = Math.max(most, Number(number));
          return String(before + Number(number)).padStart(number.length, "0");
        }),
      );
      const head = member.head.slice();
      head[2] &= ~8; // sizes stand before the bytes, not behind them
      new DataView(head.buffer).setUint16(22, name.length, true);
      const local = [record(0x04034b50), head, new Uint8Array(2), name];
      ends.push(record(MEMBER, 20), head, new Uint8Array(12), record(offset), name);
      parts.push(...local, await packedBytes(archive, member));
      offset += 30 + name.length + member.size;
    }
    before += most;
  }
  const count = ends.length / 5;
  const size = ends.reduce((sum, {length}) => sum + length, 0);
  const last = new DataView(new ArrayBuffer(22));
  last.setUint32(0, END, true);
  for (const offset of [8, 10]) last.setUint16(offset, count, true);
  last.setUint32(12, size, true);
  last.setUint32(16, offset, true);
  return new Blob([...parts, ...ends, last], {type: "application/zip"});
}

// A 32-bit number, and a 16-bit one behind it where there is one.
function record(first, second = null) {
  const view = new DataView(new ArrayBuffer(second === null ? 4 : 6));
  view.setUint32(0, first, true);
  if (second !== null) view.setUint16(4, second, true);
  return new Uint8Array(view.buffer);
}
