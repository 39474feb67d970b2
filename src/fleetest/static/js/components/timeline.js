// Which slot ran which test when, as bars on a canvas: 100,000 of them stay smooth, because bars that share a pixel
// are drawn as one, and only what is in view is looked at.

import { h, soon } from "../dom.js";
import { count, duration } from "../format.js";

const ROW = 18;
const GAP = 3;
const AXIS = 24;
const LABEL = 118;
const LABEL_NARROW = 64;
const RANK = { running: 1, passed: 2, xpassed: 2, xfailed: 2, skipped: 3, not_run: 3, cancelled: 4, failed: 6, error: 6, timeout: 7, crashed: 7, oom: 7, quarantined: 8 };
const TONE = { running: "busy", passed: "good", xpassed: "good", xfailed: "good", skipped: "line-strong", not_run: "line-strong", cancelled: "warn" };

/**
 * onOpen(bar) is called for a click. Returns { element, show(lanes, span) }: lanes [{ name, bars }] with bars
 * [{ start, end, verdict, id }] sorted by start, in seconds since the run began; span is the length in seconds.
 */
export function makeTimeline({ onOpen }) {
  const canvas = h("canvas", { tabindex: "0", role: "img", "aria-label": "Timeline of slots; the table below has the same tests" });
  const tip = h("div", { class: "timeline-tip", hidden: true });
  const hint = h("span", { class: "muted" }, "Wheel or + and − to zoom, drag or arrows to move, 0 for all.");
  const reset = h("button", { type: "button", class: "quiet", onclick: () => zoomTo(0, span) }, "Show all");
  const element = h("div", {}, h("div", { class: "timeline" }, canvas, tip), h("div", { class: "legend" }, legend(), hint, reset));
  let lanes = [];
  let span = 1;
  let from = 0;
  let to = 1;
  let isFollowing = true;
  let drag = null;

  function legend() {
    const entries = [["good", "passed"], ["bad", "failed"], ["neutral", "skipped or not run"], ["warn", "cancelled"], ["busy", "running"]];
    return entries.map(([kind, text]) => h("span", { class: `key ${kind}` }, h("span", {}, text)));
  }

  function zoomTo(start, end) {
    const least = Math.max(span / 1e6, 0.001);
    const length = Math.min(Math.max(end - start, least), Math.max(span, least));
    from = Math.min(Math.max(0, start), Math.max(0, span - length));
    to = from + length;
    isFollowing = from <= 0 && to >= span;
    soon(draw);
  }

  const labelWidth = () => (canvas.clientWidth < 560 ? LABEL_NARROW : LABEL);
  const toTime = (x) => from + ((x - labelWidth()) / Math.max(1, canvas.clientWidth - labelWidth())) * (to - from);

  function draw() {
    const width = canvas.clientWidth;
    if (!width) return;
    const height = AXIS + Math.max(1, lanes.length) * (ROW + GAP) + 4;
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
    const colours = { good: colour("good"), bad: colour("bad"), busy: colour("busy"), warn: colour("warn"), "line-strong": colour("line-strong") };
    const left = labelWidth();
    const perSecond = (width - left) / (to - from);
    lanes.forEach((lane, index) => {
      const y = AXIS + index * (ROW + GAP);
      context.fillStyle = colour("muted");
      context.textAlign = "left";
      context.fillText(fit(context, lane.name, left - 10), 0, y + ROW / 2);
      context.fillStyle = colour("neutral-soft");
      context.fillRect(left, y, width - left, ROW);
      drawBars(context, lane.bars, left, y, perSecond, colours);
    });
  }

  function drawBars(context, bars, left, y, perSecond, colours) {
    let first = firstVisible(bars, from);
    let pixel = -1;
    let worst = null;
    const flush = () => {
      if (worst) {
        context.fillStyle = colours[TONE[worst.verdict] ?? "bad"];
        context.fillRect(left + pixel, y, 1, ROW);
      }
      worst = null;
    };
    for (; first < bars.length && bars[first].start < to; first += 1) {
      const bar = bars[first];
      const x = Math.max(0, (bar.start - from) * perSecond);
      const end = (Math.min(bar.end, to) - from) * perSecond;
      if (end - x < 1.5) {
        if (Math.floor(x) !== pixel) flush();
        pixel = Math.floor(x);
        if (!worst || (RANK[bar.verdict] ?? 9) > (RANK[worst.verdict] ?? 9)) worst = bar;
        continue;
      }
      flush();
      context.fillStyle = colours[TONE[bar.verdict] ?? "bad"];
      context.fillRect(left + x, y, end - x > 4 ? end - x - 1 : end - x, ROW);
    }
    flush();
  }

  function firstVisible(bars, moment) {
    let low = 0;
    let high = bars.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (bars[middle].end < moment) low = middle + 1;
      else high = middle;
    }
    return low;
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
    const row = Math.floor((event.clientY - box.top - AXIS) / (ROW + GAP));
    const lane = lanes[row];
    if (!lane || event.clientX - box.left < labelWidth()) return null;
    const moment = toTime(event.clientX - box.left);
    const slack = (to - from) / Math.max(1, canvas.clientWidth);
    const bar = lane.bars[firstVisible(lane.bars, moment - slack)];
    return bar && bar.start <= moment + slack ? { bar, lane } : null;
  }

  canvas.addEventListener("wheel", (event) => {
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
    if (found) onOpen(found.bar);
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
  new MutationObserver(() => soon(draw)).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });

  function showTip(event) {
    const found = barAt(event);
    canvas.style.cursor = found ? "pointer" : "default";
    tip.hidden = !found;
    if (!found) return;
    const { bar, lane } = found;
    tip.textContent = `${bar.id}\n${bar.verdict.replace("_", " ")} after ${duration(bar.end - bar.start)}, ${lane.name}, from ${duration(bar.start)}`;
    tip.style.whiteSpace = "pre-line";
    const box = canvas.getBoundingClientRect();
    const x = event.clientX - box.left;
    tip.style.left = `${Math.max(0, Math.min(x + 12, box.width - tip.offsetWidth - 4))}px`;
    tip.style.top = `${event.clientY - box.top + 16}px`;
  }

  return {
    element,
    show(nextLanes, nextSpan) {
      lanes = nextLanes;
      span = Math.max(nextSpan, 0.001);
      if (isFollowing) [from, to] = [0, span];
      const bars = lanes.reduce((sum, lane) => sum + lane.bars.length, 0);
      canvas.setAttribute("aria-label", `Timeline: ${count(bars)} tests on ${count(lanes.length)} slots in ${duration(span)}; the table below has the same tests`);
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
