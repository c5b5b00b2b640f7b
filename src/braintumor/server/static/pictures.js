// Grey values of slices: decoded when they are to be seen, and kept as long as there is room.

import {decode} from "./render.js";

const ROOM = 48 << 20; // grey values, of one byte each

export class Pictures {
  #kept = new Map(); // by slice, longest unused first

  of(slice) {
    const found = this.#kept.get(slice) ?? {grey: decode(slice.pixels), bytes: slice.width * slice.height};
    this.#kept.delete(slice);
    this.#kept.set(slice, found);
    let bytes = 0;
    for (const each of this.#kept.values()) bytes += each.bytes;
    for (const [oldest, {bytes: freed}] of this.#kept) {
      if (bytes <= ROOM || oldest === slice) break;
      this.#kept.delete(oldest);
      bytes -= freed;
    }
    return found.grey;
  }

  clear() {
    this.#kept.clear();
  }
}
