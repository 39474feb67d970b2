// What the coordinator tells by itself: one WebSocket, healed with growing pauses, feeding whoever listens.

import { get, leaveForLogin, wasBehind } from "./api.js";
import { soon } from "./dom.js";

const PAUSE_S = [0.3, 0.6, 1.2, 2.5, 5, 8];
const STALE_S = 25;
const BREATHING = 5;

class Live {
  constructor() {
    this.connection = "waiting";
    this.status = null;
    this.me = { name: "", role: "", may: [] };
    this.runs = new Map();
    this.workers = new Map();
    this.listeners = new Map();
    this.changed = new Set();
    this.attempt = 0;
    this.heardAt = 0;
  }

  /** Calls `call` (at most once a frame) when `topic` changes: connection, status, runs, workers, alerts. Returns a function that ends it. */
  listen(topic, call) {
    if (!this.listeners.has(topic)) this.listeners.set(topic, new Set());
    this.listeners.get(topic).add(call);
    return () => this.listeners.get(topic).delete(call);
  }

  tell(topic) {
    this.changed.add(topic);
    soon(this.deliver ?? (this.deliver = () => {
      const topics = this.changed;
      this.changed = new Set();
      for (const each of topics) for (const call of this.listeners.get(each) ?? []) call();
    }));
  }

  start() {
    this.connect();
    setInterval(() => {
      if (this.connection === "open" && performance.now() - this.heardAt > STALE_S * 1000) this.socket?.close();
    }, 5000);
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && this.connection === "lost") this.connectNow();
    });
    window.addEventListener("online", () => this.connectNow());
  }

  setConnection(connection) {
    if (this.connection === connection) return;
    this.connection = connection;
    this.tell("connection");
  }

  connectNow() {
    if (this.connection === "open" || this.socket) return;
    clearTimeout(this.timer);
    this.attempt = 0;
    this.connect();
  }

  connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/api/v1/events`);
    this.socket = socket;
    socket.onopen = () => {
      this.attempt = 0;
      this.heardAt = performance.now();
      this.setConnection("open");
      this.learnWhoIAm();
    };
    socket.onmessage = (message) => {
      this.heardAt = performance.now();
      this.take(JSON.parse(message.data));
    };
    socket.onclose = () => {
      this.socket = null;
      if (this.connection === "open" || this.attempt >= 2) this.setConnection("lost");
      const pause = PAUSE_S[Math.min(this.attempt, PAUSE_S.length - 1)] * (0.75 + Math.random() / 2);
      this.attempt += 1;
      this.timer = setTimeout(() => this.connect(), pause * 1000);
      this.checkLogin();
    };
  }

  /** A browser does not say why an upgrade was refused: ask in a way that does. */
  async checkLogin() {
    await get("/status").catch((error) => { if (error.status === 401) leaveForLogin(); });
  }

  take(frame) {
    const isAll = frame.type === "snapshot";
    if (isAll) {
      this.runs = new Map();
      this.workers = new Map();
    }
    for (const run of frame.runs ?? []) this.runs.set(run.run_id, run);
    for (const row of frame.workers ?? []) this.workers.set(row[0], workerOf(row));
    for (const gone of frame.workers_gone ?? []) this.workers.delete(gone);
    if (frame.fleet) {
      this.status = { ...frame.fleet, me: this.me };
      this.tell("status");
    }
    if (isAll || frame.runs?.length) this.tell("runs");
    if (isAll || frame.workers?.length || frame.workers_gone?.length) this.tell("workers");
    if (isAll || frame.alerts?.length) this.tell("alerts");
  }

  /** Whether whoever is logged in may do what needs `role`. */
  may(role) {
    return this.me.may.includes(role);
  }

  async learnWhoIAm() {
    const status = await get("/status").catch(() => null);
    if (!status) return;
    this.me = status.me;
    this.status = status;
    this.tell("status");
  }
}

/** A row of the frames: [worker_id, state, slots, slots_used, waiting, load_average, memory_available_bytes, alerts]. */
function workerOf([worker_id, state, slots, slots_used, waiting, load_average, memory_available_bytes, alerts]) {
  return { worker_id, state, slots, slots_used, waiting, load_average, memory_available_bytes, alerts };
}

export const live = new Live();

/**
 * A screen that nobody sees asks for nothing. Loads with `load(signal)` now, and again after `topics` change, at most every `pause_s`; `shown(result)` or
 * `failed(error)` takes the outcome. While `mark()` gives what it gave before, there is nothing new to load. Returns { again(), close() }.
 */
export function refreshing(load, { topics = [], pause_s = 1, mark = () => ({}), shown, failed = () => {} }) {
  let isWanted = false;
  let isLoading = false;
  let isClosed = false;
  let timer = null;
  let startedAt = 0;
  let took = 0;
  let marked = null;
  const abort = new AbortController();

  async function run() {
    timer = null;
    isWanted = false;
    isLoading = true;
    startedAt = performance.now();
    marked = mark();
    try {
      const result = await load(abort.signal);
      if (!isClosed) shown(result);
    } catch (error) {
      marked = null;
      if (!isClosed && error.name !== "AbortError") failed(error);
    }
    took = performance.now() - startedAt;
    isLoading = false;
    const isBehind = wasBehind(abort.signal);
    if (isWanted || isBehind) again();
  }

  function again({ isUrgent = false } = {}) {
    if (isClosed) return;
    isWanted = true;
    if (isLoading) return;
    if (isUrgent) clearTimeout(timer);
    else if (timer || document.hidden) return;
    // Many screens and a busy coordinator: what takes long is asked for less often.
    const pause = Math.max(0, startedAt + Math.max(pause_s * 1000, BREATHING * took) - performance.now());
    timer = setTimeout(run, isUrgent ? 0 : pause);
  }

  const seen = () => { if (!document.hidden && isWanted) again(); };
  document.addEventListener("visibilitychange", seen);
  const ends = [...topics.map((topic) => live.listen(topic, () => mark() !== marked && again())), () => document.removeEventListener("visibilitychange", seen)];
  run();
  return {
    again: () => again({ isUrgent: true }),
    close() {
      isClosed = true;
      clearTimeout(timer);
      abort.abort();
      for (const end of ends) end();
    },
  };
}
