// Send files to the server in small requests, a few at a time, and again when the server asks to come back later.

import {isArchive, members} from "./zip.js";

const FILES = 4;
const BYTES = 16 << 20;
const LARGE = 4 << 20; // bytes; such a file likely has many slices, and goes alone
const AT_A_TIME = 2; // requests: one is answered while the next is sent
const ATTEMPTS = 8;
const LONGEST_PAUSE = 30;
const PACKED = /\.gz$/i;
const COME_BACK = new Set([0, 408, 429, 502, 503]);
const SEND_LESS = new Set([413, 504]);

export class Problem extends Error {
  constructor(status, detail, refused = [], after = 0) {
    super(detail);
    Object.assign(this, {status, refused, after});
  }

  get sendLess() {
    return SEND_LESS.has(this.status);
  }
}

export class Service {
  token = "";

  models() {
    return this.#ask("v1/models", {});
  }

  predict(files, signal) {
    return this.#ask("v1/predictions?maps=true&pixels=true", {method: "POST", body: form(files), signal});
  }

  results(files, model, signal) {
    const address = `v1/dicom-results?model=${encodeURIComponent(model)}`;
    return this.#ask(address, {method: "POST", body: form(files), signal}, (answer) => answer.blob());
  }

  async #ask(address, options, content = (answer) => answer.json()) {
    const letters = new TextEncoder().encode(this.token); // headers take no letters beyond U+00FF
    const headers = this.token ? {authorization: `Bearer ${String.fromCharCode(...letters)}`} : {};
    let answer;
    try {
      answer = await fetch(address, {...options, headers, credentials: "omit", cache: "no-store"});
      if (answer.ok) return await content(answer);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0, "the server cannot be reached");
    }
    const problem = await answer.json().catch(() => ({}));
    const detail = typeof problem.detail === "string" ? problem.detail : `the server answered ${answer.status}`;
    throw new Problem(answer.status, detail, problem.refused ?? [], Number(answer.headers.get("retry-after")) || 0);
  }
}

function form(files) {
  const body = new FormData();
  // neutral names: the real ones, which may tell who the patient is, never leave this browser
  for (const [number, file] of files.entries()) body.append("files", file, `file-${number}`);
  return body;
}

// Return what `ask` returns; repeat it after asking for a token, or after a pause if the server asks to come back later.
// `pausing(whether)` is called around such a pause.
export async function asked(service, ask, {signal, asksToken, pausing = () => {}}) {
  for (let attempt = 0; ; attempt++) {
    const {token} = service;
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (error.status === 401) {
        if (service.token === token) await asksToken(); // unless another request has got a new one meanwhile
      } else if (COME_BACK.has(error.status) && attempt < ATTEMPTS) {
        pausing(true);
        await pause(attempt, error.after, signal).finally(() => pausing(false));
      } else throw error;
    }
  }
}

function pause(attempt, after, signal) {
  const seconds = Math.min(LONGEST_PAUSE, Math.max(after, 0.25 * 2 ** attempt)) * (1 + Math.random() / 4);
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), reject(new DOMException("", "AbortError"))), {once: true});
  });
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
      let most = alone ? 1 : FILES; // the first file goes alone, so that something is shown soon
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
      const alone = item.archive || item.file.size > LARGE || PACKED.test(item.name);
      if (batch.length && (alone || bytes + item.file.size > BYTES)) {
        if (!signal.aborted) this.#waiting.unshift(item);
        break;
      }
      batch.push(item);
      bytes += item.file.size;
      if (alone) break;
    }
    return batch;
  }

  async #send(batch, signal) {
    const small = batch.filter((item) => {
      const most = item.archive ? this.limits.request_bytes : this.limits.file_bytes;
      if (item.file.size < most) return true;
      this.#settle(item, [], [{code: "too_large", text: `larger than ${most >> 20} MiB; ${item.archive ? "send it in parts" : "export fewer slices"}`}]);
      return false;
    });
    if (!small.length) return;
    for (const item of small) if (item.archive) item.members ??= await members(item.file).catch(() => []);
    const pausing = (whether) => {
      this.pausing = whether;
      this.changed();
    };
    const {service, asksToken} = this;
    try {
      const files = small.map(({file}) => file);
      this.#deliver(small, await asked(service, () => service.predict(files, signal), {signal, asksToken, pausing}));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      // one of them is too much for the server: sent alone, the others are answered
      if (error.sendLess && small.length > 1) for (const item of small) await this.#send([item], signal);
      else this.#deliver(small, {slices: [], refused: error.refused}, error.message);
    }
  }

  #deliver(batch, {slices, refused}, otherwise = "not answered by the server") {
    for (const [number, item] of batch.entries()) {
      const own = ({file}) => file === number;
      const [used, unused] = [slices.filter(own), refused.filter(own)];
      this.#settle(item, used, used.length || unused.length ? unused : [{text: otherwise}]);
    }
  }

  #settle(item, slices, refused) {
    this.done++;
    const name = ({member}) => (member == null ? item.name : `${item.name}/${item.members?.[member]?.name ?? `member ${member + 1}`}`);
    const inOrder = slices.sort((a, b) => (a.member ?? 0) - (b.member ?? 0) || (a.number ?? 0) - (b.number ?? 0));
    const several = (slice) => slices.some((other) => other !== slice && other.member === slice.member);
    const named = (slice) => ({...slice, item, file: name(slice), name: several(slice) ? `${name(slice)}#${slice.number}` : name(slice)});
    this.answered(item, {
      slices: inOrder.map(named),
      refused: refused.map(({member, code, text}) => ({name: name({member}), code, text})),
    });
    this.changed();
  }
}
