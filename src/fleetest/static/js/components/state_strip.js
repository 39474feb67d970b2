// Which states a worker was in, as a strip over time and as a list of what changed when and why.

import { h, renew } from "../dom.js";
import { badge, percent, rounded, time, tone } from "../format.js";

const RANGES = { hour: 3600, day: 86400 };
const LISTED = 30;
const GONE = new Set(["lost", "left"]);

/** Returns { element, ranges, show(spans) }; `range` is hour, day or "" for all, `onRange(range)` is called for another one. */
export function makeStateStrip({ range, onRange }) {
  const strip = h("div", { class: "states", role: "img" });
  const ends = h("div", { class: "states-ends muted" });
  const legend = h("div", { class: "legend" });
  const list = h("ol", { class: "plain story" });
  const element = h("div", { class: "states-history" }, h("div", {}, strip, ends), legend, list);
  const ranges = h("select", { "aria-label": "How far back", onchange: () => { range = ranges.value; onRange(range); draw(); } },
    [["", "Since the coordinator started"], ["day", "Last day"], ["hour", "Last hour"]].map(([value, title]) => h("option", { value, selected: value === range }, title)));
  let spans = [];

  function draw() {
    const now = Date.now();
    const parts = spans.map((span) => ({ ...span, from: Date.parse(span.since), to: span.until ? Date.parse(span.until) : now }));
    const begin = Math.max(parts.length ? parts[0].from : now, range ? now - RANGES[range] * 1000 : -Infinity);
    const seen = parts.filter((part) => part.to > begin || !part.until).map((part) => ({ ...part, from: Math.max(part.from, begin) }));
    const whole = Math.max(1, now - begin);
    renew(strip, seen.map((part) => segment(part, (part.to - part.from) / whole)));
    renew(ends, begin < now ? [time(new Date(begin).toISOString()), h("span", {}, "now")] : null);
    const sums = new Map();
    for (const part of seen) sums.set(part.state, (sums.get(part.state) ?? 0) + part.to - part.from);
    const shares = [...sums].map(([state, spent]) => [state, `${state} ${rounded(spent / 1000)}, ${spent / whole < 0.005 ? "under 1 %" : percent(spent / whole)}`]);
    strip.setAttribute("aria-label", `States over time: ${shares.map(([, text]) => text).join("; ") || "none known"}`);
    renew(legend, shares.map(([state, text]) => h("span", { class: `key ${tone(state)}` }, h("span", {}, text))));
    const newest = [...parts].reverse();
    renew(list, newest.slice(0, LISTED).map(line), newest.length > LISTED && h("li", { class: "muted" }, `and ${newest.length - LISTED} before`));
  }

  function segment(part, share) {
    const made = h("span", { class: `state ${tone(part.state)} ${part.state}`, title: `${words(part)}, ${moments(part)}` }, h("span", {}, part.state));
    made.style.flexGrow = share.toFixed(4);
    return made;
  }

  function line(part) {
    return h("li", {}, time(part.since), badge(part.state), h("span", {}, part.reason && part.reason !== part.state ? part.reason : "", h("span", { class: "muted" }, `${part.reason ? ", " : ""}${lasted(part)}`)));
  }

  function lasted(part) {
    const text = rounded((part.to - part.from) / 1000);
    return part.until ? `for ${text}` : `${GONE.has(part.state) ? "gone" : "so"} for ${text} now`;
  }

  const words = (part) => `${part.state}${part.reason ? ` (${part.reason})` : ""}`;
  const moments = (part) => `${new Date(part.since).toISOString()} to ${part.until ? new Date(part.until).toISOString() : "now"}`;

  return {
    element,
    ranges,
    show(next) {
      spans = next;
      draw();
    },
  };
}
