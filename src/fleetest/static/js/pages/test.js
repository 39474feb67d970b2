// One test over time.

import { get, path } from "../api.js";
import { capabilityChoice } from "../components/capability_choice.js";
import { legendOf, makeChart } from "../components/chart.js";
import { makeTiles, panel, showError, verdictText } from "../components/panel.js";
import { emptyState, makeTable } from "../components/table.js";
import { h, renew } from "../dom.js";
import { absolute, badge, count, duration, percent, time, tone } from "../format.js";
import { refreshing } from "../live.js";
import { href, setFilter } from "../place.js";
import { strip } from "./tests.js";

const LINES = [
  { name: "passed", colour: "good", isPoints: true, format: (value) => duration(value) },
  { name: "did not pass", colour: "bad", isPoints: true },
  { name: "median of those that passed", colour: "accent" },
  { name: "", colour: "accent", isHidden: true },
  { name: "", colour: "accent", isHidden: true },
];
const BAND = [4, 5];
const FLAKY_NOTE = "runs in which the same code gave both";
const COLUMNS = [
  { key: "verdict", title: "Verdict", cell: (attempt) => badge(attempt.verdict) },
  { key: "run", title: "Run", cell: (attempt) => h("a", { class: "mono nowrap", href: href("runs", attempt.run_id) }, attempt.run_id.slice(0, 12)) },
  { key: "attempt", title: "Attempt", number: true, cell: (attempt) => count(attempt.attempt) },
  { key: "duration", title: "Duration", number: true, cell: (attempt) => duration(attempt.duration_s) },
  { key: "worker", title: "Worker", cell: (attempt) => (attempt.worker ? h("a", { href: href("workers", attempt.worker) }, attempt.worker) : "–") },
  { key: "started", title: "Started", cell: (attempt) => h("span", { class: "nowrap" }, time(attempt.started_at)) },
  { key: "reason", title: "Reason", class: "name", cell: (attempt) => attempt.reason },
];

const MACHINES = [
  { key: "column", title: "Machine", class: "name", cell: (cell) => (cell.isWorker ? h("a", { href: href("workers", cell.column) }, cell.column) : cell.column) },
  { key: "last", title: "Last", cell: (cell) => badge(cell.last_verdict) },
  { key: "passed", title: "Passed", number: true, cell: (cell) => count(cell.passed) },
  { key: "failed", title: "Failed", number: true, cell: (cell) => count(cell.failed) },
  { key: "median", title: "Median", number: true, cell: (cell) => h("span", { class: "nowrap" }, duration(cell.median_s)) },
];

function inWords({ verdict, worker, started_at }) {
  return `${verdict.replace("_", " ")} on ${worker ?? "no worker"}, ${started_at ? absolute(new Date(started_at)) : "not started"}`;
}

/** Runs in which it both passed and failed: the same code. */
function mixedRuns(recent) {
  const seen = new Map();
  for (const { run_id, verdict } of recent) {
    if (tone(verdict) !== "bad" && verdict !== "passed") continue;
    seen.set(run_id, (seen.get(run_id) ?? new Set()).add(verdict === "passed"));
  }
  return [...seen.values()].filter((kinds) => kinds.size === 2).length;
}

export function testPage(taskId, filter) {
  const tiles = makeTiles();
  const verdicts = h("div", {});
  const machines = makeTable(MACHINES, { caption: "This test by hardware", rowKey: (cell) => cell.column, isTall: false, empty: emptyState("No machine ran it yet") });
  const problem = h("div", {});
  const known = h("div", { class: "page" });
  const chart = makeChart(LINES, { label: "Duration of each execution, oldest first", isTime: false, height: 220, band: BAND, describe: (index) => moments[index], formatX: (value) => (Number.isInteger(value) ? `#${value}` : "") });
  const by = capabilityChoice({ label: "Which machines", chosen: filter.get("by") ?? "worker", onchange: () => { setFilter({ by: by.value === "worker" ? "" : by.value }); load.again(); } });
  let moments = [];
  const table = makeTable(COLUMNS, { caption: "Executions, newest first", rowKey: (attempt) => `${attempt.run_id} ${attempt.attempt}`, empty: emptyState("Never executed", "The history has no execution of this test.") });
  const element = h(
    "div",
    { class: "page" },
    h("div", { class: "page-head" }, h("div", { class: "crumbs" }, h("a", { href: "#/tests" }, "Tests")), h("h1", { class: "mono" }, taskId)),
    problem,
    tiles.element,
    known,
  );
  known.append(
    panel("Duration", { end: [legendOf(LINES), h("span", { class: "legend" }, "band: median ± spread")] }, chart.element),
    h("div", { class: "columns" }, panel("Verdicts, newest last", { span: 5 }, verdicts), panel("By hardware", { span: 7, isFlush: true, end: by }, machines.element)),
    panel("Executions", { isFlush: true }, table.element),
  );

  function fail(error) {
    if (error.status !== 404) return showError(problem, error);
    known.hidden = true;
    return renew(problem, h("section", { class: "panel" }, emptyState("Not executed yet", "The history has no execution of this test. It is shown here as soon as one has ended.", h("a", { href: href("tests", { view: "all" }) }, "All tests"))));
  }

  function show([test, cells]) {
    renew(problem);
    known.hidden = false;
    tiles.show([
      { key: "runs", label: "Executions", value: count(test.attempts) },
      { key: "passed", label: "Passed", value: percent(test.attempts ? test.passed / test.attempts : NaN), note: `${count(test.passed)} passed, ${count(test.failed)} failed`, tone: test.failed ? "bad" : "" },
      { key: "flaky", label: "Both verdicts in one run", value: count(mixedRuns(test.recent)), note: FLAKY_NOTE, tone: mixedRuns(test.recent) ? "bad" : "" },
      { key: "median", label: "Median", value: duration(test.median_s), note: test.mad_s === null ? "of those that passed" : `± ${duration(test.mad_s)}: half lie within` },
      { key: "p95", label: "95 % take at most", value: duration(test.p95_s) },
    ]);
    const timed = test.recent.filter((attempt) => attempt.duration_s !== null);
    const numbers = timed.map((_, index) => index + 1);
    const line = (value) => timed.map(() => value);
    const only = (isWanted) => timed.map((attempt) => (isWanted(attempt.verdict === "passed") ? attempt.duration_s : null));
    const [upper, lower] = test.median_s === null ? [null, null] : [test.median_s + (test.mad_s ?? 0), Math.max(0, test.median_s - (test.mad_s ?? 0))];
    moments = timed.map(inWords);
    if (timed.length) chart.show(numbers, only((passed) => passed), only((passed) => !passed), line(test.median_s), line(upper), line(lower));
    renew(verdicts, test.recent.length ? [strip(test.recent.map((attempt) => attempt.verdict), test.recent.map(inWords)), verdictCounts(test.recent)] : h("span", { class: "muted" }, "none"));
    machines.show(cells);
    table.show([...test.recent].reverse());
  }

  function verdictCounts(recent) {
    const counts = {};
    for (const { verdict } of recent) counts[verdict] = (counts[verdict] ?? 0) + 1;
    return h("div", { class: "verdicts" }, `The last ${count(recent.length)}: `, verdictText(counts));
  }

  async function fetchTest(signal) {
    const [value, test] = [by.value, await get(path("history", "tests", taskId), {}, signal)];
    if (value === "worker") return [test, test.by_worker.map((cell) => ({ ...cell, isWorker: true }))];
    const matrix = await get("/history/matrix", { by: value, text: taskId, limit: 500 }, signal);
    return [test, matrix.cells.filter((cell) => cell.row === taskId)];
  }

  const load = refreshing(fetchTest, { topics: ["runs"], pause_s: 5, shown: show, failed: fail });
  return { element, title: taskId, close: load.close };
}
