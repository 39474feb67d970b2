// One test over time.

import { get, path } from "../api.js";
import { legendOf, makeChart } from "../components/chart.js";
import { makeTiles, panel, showError } from "../components/panel.js";
import { emptyState, makeTable } from "../components/table.js";
import { h, replace } from "../dom.js";
import { badge, count, duration, percent, time } from "../format.js";
import { refreshing } from "../live.js";
import { href } from "../place.js";
import { strip } from "./tests.js";

const LINES = [
  { name: "duration", colour: "accent", isPoints: true, format: (value) => duration(value) },
  { name: "median", colour: "good" },
  { name: "median + spread", colour: "line-strong" },
];
const COLUMNS = [
  { key: "verdict", title: "Verdict", cell: (attempt) => badge(attempt.verdict) },
  { key: "run", title: "Run", cell: (attempt) => h("a", { class: "mono", href: href("runs", attempt.run_id) }, attempt.run_id.slice(0, 12)) },
  { key: "attempt", title: "Attempt", number: true, cell: (attempt) => count(attempt.attempt) },
  { key: "duration", title: "Duration", number: true, cell: (attempt) => duration(attempt.duration_s) },
  { key: "worker", title: "Worker", cell: (attempt) => attempt.worker ?? "–" },
  { key: "started", title: "Started", cell: (attempt) => h("span", { class: "nowrap" }, time(attempt.started_at)) },
  { key: "reason", title: "Reason", class: "name", cell: (attempt) => attempt.reason },
];

export function testPage(taskId) {
  const tiles = makeTiles();
  const verdicts = h("div", {});
  const hardware = h("div", {});
  const problem = h("div", {});
  const chart = makeChart(LINES, { label: "Duration of each execution, oldest first", isTime: false, height: 220, formatX: (value) => (Number.isInteger(value) ? `#${value}` : "") });
  const table = makeTable(COLUMNS, { caption: "Executions, newest first", rowKey: (attempt) => `${attempt.run_id} ${attempt.attempt}`, empty: emptyState("Never executed", "The history has no execution of this test.") });
  const element = h(
    "div",
    { class: "page" },
    h("div", { class: "page-head" }, h("div", { class: "crumbs" }, h("a", { href: "#/tests" }, "Tests")), h("h1", { class: "mono" }, taskId)),
    problem,
    tiles.element,
    panel("Duration", { end: legendOf(LINES) }, chart.element),
    h("div", { class: "columns" }, panel("Verdicts, newest last", { span: 6 }, verdicts), panel("By worker", { span: 6, isFlush: true }, hardware)),
    panel("Executions", { isFlush: true }, table.element),
  );

  function show(test) {
    tiles.show([
      { key: "runs", label: "Executions", value: count(test.attempts) },
      { key: "passed", label: "Passed", value: percent(test.attempts ? test.passed / test.attempts : NaN), note: `${count(test.failed)} failed`, tone: test.failed ? "bad" : "" },
      { key: "median", label: "Median", value: duration(test.median_s), note: test.mad_s === null ? "" : `± ${duration(test.mad_s)}` },
      { key: "p95", label: "95 % take at most", value: duration(test.p95_s) },
    ]);
    const timed = test.recent.filter((attempt) => attempt.duration_s !== null);
    const numbers = timed.map((_, index) => index + 1);
    const median = timed.map(() => test.median_s);
    const spread = timed.map(() => (test.median_s ?? 0) + (test.mad_s ?? 0));
    if (timed.length) chart.show(numbers, timed.map((attempt) => attempt.duration_s), median, spread);
    replace(verdicts, test.recent.length ? strip(test.recent.map((attempt) => attempt.verdict)) : h("span", { class: "muted" }, "none"));
    replace(hardware, test.by_worker.length ? byWorker(test.by_worker) : emptyState("No machine ran it yet"));
    table.show([...test.recent].reverse());
  }

  function byWorker(cells) {
    return h(
      "table",
      {},
      h("thead", {}, h("tr", {}, ["Worker", "Last", "Passed", "Failed", "Median"].map((title, index) => h("th", { scope: "col", class: index > 1 ? "number" : null }, title)))),
      h("tbody", {}, cells.map((cell) => h("tr", {}, h("td", {}, cell.column), h("td", {}, badge(cell.last_verdict)), h("td", { class: "number" }, count(cell.passed)), h("td", { class: "number" }, count(cell.failed)), h("td", { class: "number" }, duration(cell.median_s))))),
    );
  }

  const load = refreshing((signal) => get(path("history", "tests", taskId), {}, signal), { topics: ["runs"], pause_s: 5, shown: show, failed: (error) => showError(problem, error) });
  return { element, title: taskId, close: load.close };
}
