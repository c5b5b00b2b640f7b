// Files on their way to the server: in small requests, a few at a time, again where the server asks to come back.

import {isArchive, members} from "./files.js";

const FILES = 4;
const AT_A_TIME = 2;
const ATTEMPTS = 8;
const LONGEST_PAUSE = 30;
const COME_BACK = new Set([0, 408, 429, 502, 503]);
const SEND_LESS = new Set([413, 504]);

export class Problem extends Error {
  constructor(status, detail, refused = [], after = 0) {
    super(detail);
    Object.assign(this, {status, refused, after});
  }
}

export class Service {
  token = "";

  models() {
    return this.#ask("v1/models", {});
  }

  predict(files, signal) {
    const body = new FormData();
    for (const [number, file] of files.entries()) body.append("files", file, `file-${number}`);
    return this.#ask("v1/predictions?maps=true&pixels=true", {method: "POST", body, signal});
  }

  async #ask(address, options) {
    const headers = this.token ? {authorization: `Bearer ${this.token}`} : {};
    let answer;
    try {
      answer = await fetch(address, {...options, headers, credentials: "omit", cache: "no-store"});
      if (answer.ok) return await answer.json();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0, "the server cannot be reached");
    }
    const said = await answer.json().catch(() => ({}));
    const detail = typeof said.detail === "string" ? said.detail : `the server answered ${answer.status}`;
    throw new Problem(answer.status, detail, said.refused ?? [], Number(answer.headers.get("retry-after")) || 0);
  }
}

// `answered(item, {slices, refused})` is called once for each item, `changed()` whenever `done`, `total` or `pausing` have.
export class Sender {
  done = 0;
  total = 0;
  pausing = false;
  #waiting = [];
  #workers = 0;
  #stop = new AbortController();

  constructor(service, limits, {answered, changed, asksToken}) {
    Object.assign(this, {service, limits, answered, changed, asksToken});
  }

  get busy() {
    return this.#workers > 0;
  }

  add(items) {
    if (!this.busy) this.done = this.total = 0;
    this.#waiting.push(...items);
    this.total += items.length;
    while (this.#workers < Math.min(AT_A_TIME, this.total - this.done)) this.#work(this.#workers === 0 && this.done === 0);
    this.changed();
  }

  cancel() {
    this.#waiting = [];
    this.total = this.done;
    this.#stop.abort();
    this.#stop = new AbortController();
  }

  async #work(alone) {
    this.#workers++;
    const {signal} = this.#stop;
    try {
      let most = alone ? 1 : FILES;
      for (let batch; !signal.aborted && (batch = await this.#next(most, signal)).length; most = FILES) {
        await this.#send(batch, signal);
      }
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    } finally {
      this.#workers--;
      this.changed();
    }
  }

  async #next(most, signal) {
    const batch = [];
    for (let bytes = 0; batch.length < most && this.#waiting.length; ) {
      const item = this.#waiting.shift();
      item.archive ??= await isArchive(item.file).catch(() => false);
      if (batch.length && (item.archive || bytes + item.file.size > this.limits.file_bytes)) {
        if (!signal.aborted) this.#waiting.unshift(item);
        break;
      }
      batch.push(item);
      bytes += item.file.size;
      if (item.archive) break;
    }
    return batch;
  }

  async #send(batch, signal) {
    const small = batch.filter((item) => {
      const most = item.archive ? this.limits.request_bytes : this.limits.file_bytes;
      if (item.file.size < most) return true;
      this.#settle(item, [], [{reason: `larger than ${most >> 20} MiB; ${item.archive ? "send it in parts" : "export the slice alone"}`}]);
      return false;
    });
    if (!small.length) return;
    for (const item of small) if (item.archive) item.members ??= await members(item.file).catch(() => []);
    for (let attempt = 0; ; attempt++) {
      const {token} = this.service;
      try {
        return this.#deliver(small, await this.service.predict(small.map(({file}) => file), signal));
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        if (error.status === 401) {
          if (this.service.token === token) await this.asksToken();
        } else if (SEND_LESS.has(error.status) && small.length > 1) {
          for (const item of small) await this.#send([item], signal);
          return;
        } else if (COME_BACK.has(error.status) && attempt < ATTEMPTS) await this.#pause(attempt, error.after, signal);
        else return this.#deliver(small, {slices: [], refused: error.refused}, error.message);
      }
    }
  }

  async #pause(attempt, after, signal) {
    const seconds = Math.min(LONGEST_PAUSE, Math.max(after, 0.25 * 2 ** attempt)) * (1 + Math.random() / 4);
    this.pausing = true;
    this.changed();
    await new Promise((resolve, reject) => {
      const timer = setTimeout(resolve, 1000 * seconds);
      signal.addEventListener("abort", () => (clearTimeout(timer), reject(new DOMException("", "AbortError"))), {once: true});
    });
    this.pausing = false;
    this.changed();
  }

  #deliver(batch, {slices, refused}, otherwise = "not answered by the server") {
    for (const [number, item] of batch.entries()) {
      const own = (each) => each.file === number;
      const [used, unused] = [slices.filter(own), refused.filter(own)];
      this.#settle(item, used, used.length || unused.length ? unused : [{reason: otherwise}]);
    }
  }

  #settle(item, slices, refused) {
    this.done++;
    const name = ({member}) => (member == null ? item.name : `${item.name}/${item.members?.[member] ?? `member ${member + 1}`}`);
    const inOrder = slices.sort((a, b) => (a.member ?? 0) - (b.member ?? 0));
    this.answered(item, {
      slices: inOrder.map((slice) => ({...slice, name: name(slice)})),
      refused: refused.map(({member, reason}) => ({name: name({member}), reason})),
    });
    this.changed();
  }
}
