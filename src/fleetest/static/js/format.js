// Numbers and times for people. All times come from the coordinator in UTC; the browser shows its own time zone.

import { h, setText } from "./dom.js";

const COUNT = new Intl.NumberFormat("en");
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const CALENDAR = new Intl.DateTimeFormat("en-GB", { weekday: "short", day: "numeric", month: "short", year: "numeric" });
const FULL = new Intl.DateTimeFormat("en-GB", { dateStyle: "full", timeStyle: "long" });

export const count = (value) => COUNT.format(value ?? 0);

/** "1.2 s", "340 ms", "3 min 05 s", "2 h 10 min". */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 0.00005) return "0 ms";
  if (seconds < 1) return `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  if (whole < 172800) return `${Math.floor(whole / 3600)} h ${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")} min`;
  return `${Math.floor(whole / 86400)} days`;
}

/** A duration of which nobody wants fractions: "7 s", "3 min 05 s". */
export function rounded(seconds) {
  if (seconds < 0.5) return "under 1 s";
  return seconds < 59.5 ? `${Math.round(seconds)} s` : duration(seconds);
}

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value < 10 && unit ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

export const percent = (share) => (Number.isFinite(share) ? `${Math.round(share * 100)} %` : "–");

export const clock = (date) => CLOCK.format(date);
export const calendar = (date) => CALENDAR.format(date);

/** A moment in full, in the zone of whoever looks and in UTC. */
export const absolute = (date) => `${FULL.format(date)} (${date.toISOString()})`;

/** A <time> with a short text and the absolute moment as its tooltip; `moment` is an ISO text or null. */
export function time(moment, { relative = false } = {}) {
  if (!moment) return h("span", { class: "muted" }, "–");
  const date = new Date(moment);
  if (Number.isNaN(date.getTime())) return h("span", {}, String(moment));
  const isToday = date.toDateString() === new Date().toDateString();
  const text = relative ? ago(date) : (isToday ? CLOCK : DAY).format(date);
  return h("time", { datetime: date.toISOString(), title: absolute(date), class: relative ? "relative" : null }, text);
}

function ago(date) {
  const seconds = Math.floor((Date.now() - date.getTime()) / 1000);
  if (seconds < 2) return "just now";
  return `${rounded(seconds)} ago`;
}

/** Brings relative times up to date that nothing else draws again. */
export function refreshRelativeTimes() {
  for (const each of document.querySelectorAll("time.relative")) setText(each, ago(new Date(each.dateTime)));
}

export const VERDICTS = [
  "passed", "xpassed", "xfailed", "skipped", "failed", "error", "timeout", "crashed", "oom", "quarantined", "cancelled", "not_run",
];
const GOOD = new Set(["passed", "xpassed", "xfailed"]);
const NEUTRAL = new Set(["skipped", "cancelled", "not_run"]);

/** The tone of a verdict or state: good, bad, neutral, busy, warn. */
export function tone(name) {
  if (GOOD.has(name) || name === "healthy") return "good";
  if (NEUTRAL.has(name) || name === "left" || name === "waiting" || name === "queued" || name === "pending") return "neutral";
  if (name === "running" || name === "leased" || name === "collecting") return "busy";
  if (name === "suspect" || name === "draining" || name === "probation" || name === "disconnected") return "warn";
  return "bad";
}

const GLYPHS = { good: "✓", bad: "✕", neutral: "–", busy: "▶", warn: "!" };

/** A badge that says its state by colour, sign and word. */
export function badge(name, text = null) {
  const kind = tone(name);
  return h("span", { class: `badge ${kind}` }, h("span", { "aria-hidden": "true", class: "glyph" }, GLYPHS[kind]), text ?? name.replace("_", " "));
}
