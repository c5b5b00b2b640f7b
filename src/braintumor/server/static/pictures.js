// The grey values of slices: decoded when they are to be shown, and cached as long as there is room.

import {decode} from "./render.js";

const ROOM = 48 << 20; // grey values, of one byte each

export class Pictures {
  #kept = new Map(); // by slice, longest unused first

  of(slice) {
    const picture = this.#kept.get(slice) ?? {grey: decode(slice.pixels), bytes: slice.width * slice.height};
    this.#kept.delete(slice); // a Map keeps the order of insertion: put in again, it is the last used
    this.#kept.set(slice, picture);
    let bytes = 0;
    for (const kept of this.#kept.values()) bytes += kept.bytes;
    for (const [oldest, {bytes: freed}] of this.#kept) {
      if (bytes <= ROOM || oldest === slice) break;
      this.#kept.delete(oldest);
      bytes -= freed;
    }
    return picture.grey;
  }

  clear() {
    this.#kept.clear();
  }
}
