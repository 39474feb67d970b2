// Which slot ran which test when, as bars on a canvas: 100,000 of them stay smooth, because bars that share a pixel
// are drawn as one, and only what is in view is looked at.

import { h, setText, soon } from "../dom.js";
import { count, duration } from "../format.js";
import { onTheme } from "../theme.js";
import { Bars } from "./bars.js";

const ROW = 18;
const GAP = 3;
const AXIS = 24;
const LABEL = 118;
const LABEL_NARROW = 64;
const VIEW = 560;
const RANK = { running: 1, passed: 2, xpassed: 2, xfailed: 2, skipped: 3, not_run: 3, cancelled: 4, failed: 6, error: 6, timeout: 7, crashed: 7, oom: 7, quarantined: 8 };
const TONE = { running: "busy", passed: "good", xpassed: "good", xfailed: "good", skipped: "line-strong", not_run: "line-strong", cancelled: "line-strong" };

/**
 * onOpen(id) is called for a click. Returns { element, show(bars, running, span) }: bars as Bars, running a map from
 * the name of a lane to { start, end, id }, span the length in seconds. Only the lanes in view are drawn.
 */
export function makeTimeline({ onOpen }) {
  const canvas = h("canvas", { tabindex: "0", role: "img", "aria-label": "Timeline of slots; the table below has the same tests" });
  const tip = h("div", { class: "timeline-tip", hidden: true });
  const hint = h("span", { class: "muted" }, "Wheel or + and − to zoom, drag or arrows to move, 0 for all.");
  const reset = h("button", { type: "button", class: "quiet", onclick: () => zoomTo(0, span) }, "Show all");
  const space = h("div", { class: "timeline-space" }, canvas);
  const view = h("div", { class: "timeline-view" }, space);
  const element = h("div", {}, h("div", { class: "timeline" }, view, tip), h("div", { class: "legend" }, legend(), hint, reset));
  let bars = new Bars();
  let lanes = [];
  let running = new Map();
  let span = 1;
  let from = 0;
  let to = 1;
  let isFollowing = true;
  let drag = null;

  function legend() {
    const entries = [["good", "passed"], ["bad", "failed"], ["line-strong", "skipped, cancelled or not run"], ["busy", "running"]];
    return entries.map(([kind, text]) => h("span", { class: `key ${kind}` }, h("span", {}, text)));
  }

  function zoomTo(start, end) {
    const least = Math.max(span / 1e6, 0.001);
    const length = Math.min(Math.max(end - start, least), Math.max(span, least));
    from = Math.min(Math.max(0, start), Math.max(0, span - length));
    to = from + length;
    isFollowing = from <= 0 && to >= span;
    describe();
    soon(draw);
  }

  /** What is seen, for those who do not see it. */
  function describe() {
    const part = isFollowing ? "" : `, shown from ${duration(from)} to ${duration(to)}`;
    canvas.setAttribute("aria-label", `Timeline: ${count(bars.ids.length)} tests on ${count(lanes.length)} slots in ${duration(span)}${part}; the table below has the same tests`);
  }

  const labelWidth = () => (canvas.clientWidth < 560 ? LABEL_NARROW : LABEL);
  const toTime = (x) => from + ((x - labelWidth()) / Math.max(1, canvas.clientWidth - labelWidth())) * (to - from);

  function draw() {
    const width = canvas.clientWidth;
    if (!width) return;
    const whole = AXIS + Math.max(1, lanes.length) * (ROW + GAP) + 4;
    const height = Math.min(VIEW, whole);
    space.style.height = `${whole}px`;
    const skipped = Math.floor(view.scrollTop / (ROW + GAP));
    const seen = lanes.slice(skipped, skipped + Math.ceil((height - AXIS) / (ROW + GAP)) + 1);
    const scale = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.height = `${height}px`;
    }
    const context = canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = `12px ${colour("sans")}`;
    context.textBaseline = "middle";
    drawAxis(context, width, height, colour);
    const colours = { good: colour("good"), bad: colour("bad"), busy: colour("busy"), "line-strong": colour("line-strong") };
    const left = labelWidth();
    const perSecond = (width - left) / (to - from);
    const [muted, soft] = [colour("muted"), colour("neutral-soft")];
    context.textAlign = "left";
    context.save();
    context.beginPath();
    context.rect(0, AXIS, width, height - AXIS);
    context.clip();
    seen.forEach((lane, index) => {
      const y = AXIS + (skipped + index) * (ROW + GAP) - view.scrollTop;
      context.fillStyle = muted;
      context.fillText(fit(context, lane.name, left - 10), 0, y + ROW / 2);
      context.fillStyle = soft;
      context.fillRect(left, y, width - left, ROW);
      drawBars(context, lane, left, y, perSecond, colours);
    });
    context.restore();
  }

  /** Bars narrower than a pixel share it: the worst of them gives the colour. */
  function drawBars(context, lane, left, y, perSecond, colours) {
    const names = bars.verdicts;
    let pixel = -1;
    let worst = -1;
    const flush = () => {
      if (worst >= 0) {
        context.fillStyle = colours[TONE[names[worst]] ?? "bad"];
        context.fillRect(left + pixel, y, 1, ROW);
      }
      worst = -1;
    };
    const paint = (start, end, verdict) => {
      const x = Math.max(0, (start - from) * perSecond);
      const width = (Math.min(end, to) - from) * perSecond - x;
      context.fillStyle = colours[TONE[verdict] ?? "bad"];
      context.fillRect(left + x, y, width > 4 ? width - 1 : Math.max(1, width), ROW);
    };
    for (let index = lane.firstAt(from); index < lane.length && lane.starts[index] < to; index += 1) {
      const x = Math.max(0, (lane.starts[index] - from) * perSecond);
      if ((Math.min(lane.ends[index], to) - from) * perSecond - x >= 1.5) {
        flush();
        paint(lane.starts[index], lane.ends[index], names[lane.verdicts[index]]);
        continue;
      }
      if (Math.floor(x) !== pixel) flush();
      pixel = Math.floor(x);
      if (worst < 0 || (RANK[names[lane.verdicts[index]]] ?? 9) > (RANK[names[worst]] ?? 9)) worst = lane.verdicts[index];
    }
    flush();
    const now = running.get(lane.name);
    if (now && now.start < to && now.end > from) paint(now.start, now.end, "running");
  }

  function drawAxis(context, width, height, colour) {
    const left = labelWidth();
    const step = niceStep((to - from) / Math.max(2, Math.floor((width - left) / 110)));
    context.strokeStyle = colour("line");
    context.fillStyle = colour("muted");
    context.textAlign = "center";
    context.lineWidth = 1;
    for (let moment = Math.ceil(from / step) * step; moment <= to; moment += step) {
      const x = Math.round(left + ((moment - from) / (to - from)) * (width - left)) + 0.5;
      context.beginPath();
      context.moveTo(x, AXIS - 5);
      context.lineTo(x, height);
      context.stroke();
      if (x < width - 20) context.fillText(axisText(moment, step), Math.max(x, left + 14), 9);
    }
  }

  function barAt(event) {
    const box = canvas.getBoundingClientRect();
    const y = event.clientY - box.top;
    const lane = y < AXIS ? null : lanes[Math.floor((y - AXIS + view.scrollTop) / (ROW + GAP))];
    if (!lane || event.clientX - box.left < labelWidth()) return null;
    const moment = toTime(event.clientX - box.left);
    const slack = (to - from) / Math.max(1, canvas.clientWidth);
    const index = lane.firstAt(moment - slack);
    if (index < lane.length && lane.starts[index] <= moment + slack) {
      return { lane: lane.name, start: lane.starts[index], end: lane.ends[index], id: bars.ids[lane.ids[index]], verdict: bars.verdicts[lane.verdicts[index]] };
    }
    const now = running.get(lane.name);
    return now && now.start <= moment + slack && now.end >= moment - slack ? { ...now, lane: lane.name, verdict: "running" } : null;
  }

  canvas.addEventListener("wheel", (event) => {
    // Where the slots do not fit, the wheel scrolls through them; with Ctrl it zooms.
    if (view.scrollHeight > view.clientHeight && !event.ctrlKey) return;
    event.preventDefault();
    const centre = toTime(event.clientX - canvas.getBoundingClientRect().left);
    const factor = Math.exp(Math.sign(event.deltaY) * 0.25);
    zoomTo(centre - (centre - from) * factor, centre + (to - centre) * factor);
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, from, to, hasMoved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (drag) {
      const moved = ((drag.x - event.clientX) / Math.max(1, canvas.clientWidth - labelWidth())) * (drag.to - drag.from);
      if (Math.abs(drag.x - event.clientX) > 3) drag.hasMoved = true;
      if (drag.hasMoved) zoomTo(drag.from + moved, drag.to + moved);
      return;
    }
    showTip(event);
  });
  canvas.addEventListener("pointerup", (event) => {
    const wasClick = drag && !drag.hasMoved;
    drag = null;
    const found = wasClick ? barAt(event) : null;
    if (found) onOpen(found.id);
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("keydown", (event) => {
    const length = to - from;
    const steps = {
      "+": [from + length * 0.15, to - length * 0.15], "=": [from + length * 0.15, to - length * 0.15], "-": [from - length * 0.2, to + length * 0.2],
      ArrowLeft: [from - length * 0.2, to - length * 0.2], ArrowRight: [from + length * 0.2, to + length * 0.2], 0: [0, span],
    };
    if (steps[event.key]) {
      event.preventDefault();
      zoomTo(...steps[event.key]);
    }
  });
  new ResizeObserver(() => soon(draw)).observe(canvas);
  view.addEventListener("scroll", () => { tip.hidden = true; soon(draw); }, { passive: true });
  onTheme(element, () => soon(draw));

  function showTip(event) {
    const found = barAt(event);
    canvas.style.cursor = found ? "pointer" : "default";
    tip.hidden = !found;
    if (!found) return;
    const ended = found.verdict === "running" ? "running for" : `${found.verdict.replace("_", " ")} after`;
    tip.textContent = `${found.id}\n${ended} ${duration(found.end - found.start)} on ${found.lane}, begun ${duration(found.start)} into the run`;
    tip.style.whiteSpace = "pre-line";
    const box = canvas.getBoundingClientRect();
    const x = event.clientX - box.left;
    tip.style.left = `${Math.max(0, Math.min(x + 12, box.width - tip.offsetWidth - 4))}px`;
    tip.style.top = `${event.clientY - box.top + 16}px`;
  }

  return {
    element,
    show(nextBars, nextRunning, nextSpan) {
      bars = nextBars;
      running = nextRunning;
      lanes = bars.sorted();
      span = Math.max(nextSpan, 0.001);
      if (isFollowing) [from, to] = [0, span];
      const isTall = AXIS + lanes.length * (ROW + GAP) + 4 > VIEW;
      setText(hint, `${isTall ? "Ctrl and wheel" : "Wheel"} or + and − to zoom, drag or arrows to move, 0 for all.`);
      describe();
      soon(draw);
    },
  };
}

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(Math.max(rough, 1e-6)));
  const unit = rough / power;
  return (unit <= 1 ? 1 : unit <= 2 ? 2 : unit <= 5 ? 5 : 10) * power;
}

function axisText(moment, step) {
  if (moment < 1e-9) return "0";
  if (moment < 60) return `${moment.toFixed(step < 1 ? Math.min(3, Math.ceil(-Math.log10(step))) : 0)} s`;
  const whole = Math.round(moment);
  return whole < 3600 ? `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")} min` : `${(whole / 3600).toFixed(1)} h`;
}

function fit(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let length = text.length;
  while (length > 1 && context.measureText(`${text.slice(0, length)}…`).width > width) length -= 1;
  return `${text.slice(0, length)}…`;
}
