// The whole fleet at a glance.

import { get } from "../api.js";
import { legendOf, makeChart, WHOLE } from "../components/chart.js";
import { makeTiles, panel, progressBar, showError, timeLeft, verdictText } from "../components/panel.js";
import { emptyState } from "../components/table.js";
import { makeWorkerGrid } from "../components/worker_grid.js";
import { h, keyed, renew } from "../dom.js";
import { badge, count, time } from "../format.js";
import { live, refreshing } from "../live.js";
import { href } from "../place.js";

const RATE = [{ name: "tests finished per second", colour: "accent", isFilled: true, format: (value) => String(Number(value.toPrecision(3))) }];
const WAITING = [
  { name: "waiting", colour: "warn", isFilled: true, format: (value) => count(Math.round(value)) },
  { name: "running", colour: "busy" },
];
const VERDICTS = [
  { name: "passed", colour: "good", format: (value) => count(Math.round(value)) },
  { name: "failed", colour: "bad" },
];

/** How much a total grew per second, over the last five samples. */
function rates(at, totals) {
  return totals.map((total, index) => {
    const before = Math.max(0, index - 5);
    const passed = at[index] - at[before];
    return passed > 0 ? Math.max(0, total - totals[before]) / passed : 0;
  });
}

export function overviewPage() {
  const tiles = makeTiles();
  const grid = makeWorkerGrid();
  const runs = h("div", {});
  const noRuns = emptyState("No run in progress", "Start one from a terminal:", h("code", {}, `pytest --fleet ${location.protocol === "https:" ? "wss" : "ws"}://${location.host}`));
  const alerts = h("div", {});
  const rate = makeChart(RATE, { label: "Tests finished per second over the last minutes" });
  const waiting = makeChart(WAITING, { label: "Tests waiting and running over the last minutes", increments: WHOLE });
  const verdicts = makeChart(VERDICTS, { label: "Passed and failed since the coordinator started", increments: WHOLE });
  const element = h(
    "div",
    { class: "page" },
    h("div", { class: "page-head" }, h("h1", {}, "Overview")),
    tiles.element,
    h(
      "div",
      { class: "columns" },
      panel("Throughput", { span: 4, end: legendOf(RATE) }, rate.element),
      panel("Queue", { span: 4, end: legendOf(WAITING) }, waiting.element),
      panel("Verdicts since the start", { span: 4, end: legendOf(VERDICTS) }, verdicts.element),
      panel("Runs in progress", { span: 7, isFlush: true, end: h("a", { href: "#/runs" }, "All runs") }, runs, noRuns),
      panel("Open alerts", { span: 5, isFlush: true, end: h("a", { href: "#/alerts" }, "All alerts") }, alerts),
      panel("Workers", { span: 12, end: h("a", { href: "#/workers" }, "As a table") }, grid.element),
    ),
  );

  function showStatus() {
    const status = live.status;
    if (!status) return;
    const { tasks } = status;
    const isBusy = status.runs > 0;
    tiles.show([
      { key: "rate", label: "Throughput", value: `${Number(status.finished_per_s.toPrecision(3))}/s`, note: "mean of the last minute" },
      { key: "running", label: "Running", value: count(tasks.running), note: `${count(status.slots.used)} of ${count(status.slots.total)} slots in use` },
      { key: "waiting", label: "Waiting", value: count(tasks.waiting + tasks.leased), note: isBusy ? "tests in live runs" : "no run in progress" },
      { key: "left", label: "Time left", ...(status.runs ? timeLeft(status.tasks, status.remaining_s) : { value: "–", note: "no run in progress" }) },
      { key: "workers", label: "Workers", value: count(status.workers_total), note: workersNote(status.workers) },
      { key: "alerts", label: "Open alerts", value: count(status.alerts.open), tone: status.alerts.open ? "bad" : "", note: status.alerts.acknowledged ? `${count(status.alerts.acknowledged)} acknowledged` : status.alerts.open ? "nobody has taken note" : "" },
    ]);
  }

  function workersNote(states) {
    const others = Object.entries(states).filter(([name, number]) => number && name !== "healthy").map(([name, number]) => `${count(number)} ${name}`);
    return [`${count(states.healthy ?? 0)} healthy`, ...others].join(", ");
  }

  function showRuns() {
    const going = [...live.runs.values()].filter((run) => run.is_live);
    noRuns.hidden = going.length > 0;
    keyed(runs, going, (run) => run.run_id, makeRun, (row, run) => row.update(run));
  }

  function makeRun(run) {
    const [state, about, bar, done] = [h("div", {}), h("div", { class: "muted" }), h("div", {}), h("div", { class: "number end" })];
    const row = h("div", { class: "alert-row" }, state, h("div", { class: "progress-box" }, h("a", { href: href("runs", run.run_id) }, run.title || run.run_id), about, bar), done);
    row.update = (next) => {
      renew(state, badge(next.state === "cancelling" ? "cancelled" : "running", next.state));
      renew(about, next.owner ? `${next.owner} · ` : "", "started ", time(next.submitted_at, { relative: true }), " · ", verdictText(next.counts));
      renew(bar, progressBar(next.counts, next.tasks, next.states.running));
      const left = timeLeft(next.states, next.remaining_s);
      renew(done, `${count(next.states.finished)} / ${count(next.tasks)}`, h("div", { class: "muted" }, left.value === "–" ? left.note : `${left.value} left`));
    };
    return row;
  }

  function showAlerts(page) {
    const open = page.items.slice(0, 6);
    renew(alerts, open.length ? open.map(alertRow) : emptyState("No open alerts", "Every worker does what it should."));
  }

  function alertRow(alert) {
    const worker = alert.worker_id ? h("a", { href: href("workers", alert.worker_id) }, alert.worker_id) : null;
    return h("div", { class: "alert-row" }, badge("failed", alert.cause), h("div", {}, worker, " ", alert.message), h("div", { class: "muted end" }, time(alert.raised_at, { relative: true })));
  }

  function showSeries(series) {
    const at = series.at.map((moment) => Date.parse(moment) / 1000);
    rate.show(at, rates(at, series.values.finished));
    waiting.show(at, series.values.waiting, series.values.running);
    verdicts.show(at, series.values.passed, series.values.failed);
  }

  const showGrid = () => grid.show([...live.workers.values()]);
  const ends = [live.listen("status", showStatus), live.listen("runs", showRuns), live.listen("workers", showGrid)];
  const series = refreshing((signal) => get("/status/series", {}, signal), { topics: ["status"], pause_s: 2, shown: showSeries });
  const openAlerts = refreshing((signal) => get("/alerts", { state: "open", limit: 6 }, signal), { topics: ["alerts"], shown: showAlerts, failed: (error) => showError(alerts, error) });
  showStatus();
  showRuns();
  showGrid();
  return {
    element,
    title: "Overview",
    close() {
      for (const end of ends) end();
      series.close();
      openAlerts.close();
    },
  };
}
