// Asks the coordinator. Every error becomes one sentence that can be shown.

const ROOT = "/api/v1";

export class Refused extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

/** Signals of loads that were told something older than what had happened when they asked: many look at a large fleet. */
const behind = new WeakSet();

async function ask(method, path, { query = {}, body = undefined, signal = undefined } = {}) {
  const url = new URL(ROOT + path, location.origin);
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, String(value));
  }
  const headers = { Accept: "application/json" };
  const options = { method, headers, signal, credentials: "same-origin", cache: "no-store" };
  if (method !== "GET") {
    headers["Content-Type"] = "application/json";
    headers["Idempotency-Key"] = crypto.randomUUID?.() ?? String(Math.random());
    options.body = JSON.stringify(body ?? {});
  }
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "unreachable", "The coordinator does not answer. It may be restarting; this page goes on trying.");
  }
  if (response.status === 401) {
    leaveForLogin();
    throw new Refused(401, "unauthorized", "You are not logged in any more.");
  }
  const answer = await response.json().catch(() => null);
  if (signal && response.headers.has("Age")) behind.add(signal);
  if (!response.ok) throw new Refused(response.status, answer?.code ?? "error", answer?.detail ?? `The coordinator answered ${response.status}.`);
  return answer;
}

export const get = (path, query = {}, signal = undefined) => ask("GET", path, { query, signal });
export const post = (path, body = {}) => ask("POST", path, { body });

/** Whether something that was asked for with this signal since the last call was answered as of an earlier time. */
export function wasBehind(signal) {
  return behind.delete(signal);
}

/** All items of a list that comes in pages, at most 20 pages. */
export async function getAll(path, query = {}, signal = undefined) {
  const items = [];
  let cursor = null;
  for (let page = 0; page < 20; page += 1) {
    const answer = await get(path, { ...query, limit: 1000, cursor }, signal);
    items.push(...answer.items);
    cursor = answer.next_cursor;
    if (!cursor) break;
  }
  return items;
}

/** A path made of parts, each of which may contain anything. */
export const path = (...parts) => `/${parts.map((part) => encodeURIComponent(part)).join("/")}`;

/** The coordinator answers the same address with its login page; the part after # is kept. */
export function leaveForLogin() {
  location.reload();
}
