// One execution of a test with everything that is known of it.

import { h } from "../dom.js";
import { badge, bytes, duration, time } from "../format.js";
import { href } from "../place.js";

/** `isTitled`: its number stands above it already. */
export function attemptView(attempt, { isTitled = false } = {}) {
  const facts = [
    ["Worker", attempt.worker ? h("a", { href: href("workers", attempt.worker) }, attempt.worker) : "none"],
    ["Runner", attempt.runner],
    ["Started", attempt.started_at && time(attempt.started_at)],
    ["Duration", attempt.duration_s === null ? null : parts(attempt)],
    ["CPU time", attempt.cpu_s ? duration(attempt.cpu_s) : null],
    ["Peak memory", attempt.peak_memory_bytes ? bytes(attempt.peak_memory_bytes) : null],
    ["Reason", attempt.reason],
    ["Artifacts", attempt.artifacts.length ? attempt.artifacts.map((name) => h("div", { class: "mono" }, name)) : null],
  ];
  return h(
    "div",
    { class: "page" },
    h("div", {}, badge(attempt.verdict), isTitled ? "" : ` attempt ${attempt.attempt}`, h("span", { class: "muted" }, role(attempt))),
    h("dl", { class: "facts beside" }, facts.filter(([, value]) => value).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    attempt.traceback && [h("h3", {}, "Traceback and evidence"), h("pre", { class: "output", tabindex: "0" }, attempt.traceback)],
    attempt.output && [h("h3", {}, "Output"), h("pre", { class: "output", tabindex: "0" }, attempt.output)],
  );
}

function role(attempt) {
  if (attempt.is_superseded) return " came too late to count: evidence only";
  return attempt.is_final ? " this one decided the verdict" : " tried again after this one";
}

function parts(attempt) {
  const { setup_s, call_s, teardown_s } = attempt;
  if (!setup_s && !teardown_s) return duration(attempt.duration_s);
  return `${duration(attempt.duration_s)} (setup ${duration(setup_s)}, call ${duration(call_s)}, teardown ${duration(teardown_s)})`;
}
