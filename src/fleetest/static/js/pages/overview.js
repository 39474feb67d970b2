// The whole fleet at a glance.

import { get } from "../api.js";
import { legendOf, makeChart } from "../components/chart.js";
import { makeTiles, panel, progressBar, showError, verdictText } from "../components/panel.js";
import { emptyState } from "../components/table.js";
import { makeWorkerGrid } from "../components/worker_grid.js";
import { h, replace } from "../dom.js";
import { badge, count, duration, time } from "../format.js";
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

function timeLeft({ runs, tasks, remaining_s }) {
  if (!runs) return { value: "–" };
  // What no worker can run waits for a worker, not for time.
  if (tasks.waiting && !tasks.running && !tasks.leased) return { value: "–", note: "what waits cannot run now" };
  return { value: duration(remaining_s), note: "predicted, all live runs" };
}

export function overviewPage() {
  const tiles = makeTiles();
  const grid = makeWorkerGrid();
  const runs = h("div", {});
  const alerts = h("div", {});
  const rate = makeChart(RATE, { label: "Tests finished per second over the last minutes" });
  const waiting = makeChart(WAITING, { label: "Tests waiting and running over the last minutes" });
  const verdicts = makeChart(VERDICTS, { label: "Passed and failed since the coordinator started" });
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
      panel("Verdicts", { span: 4, end: legendOf(VERDICTS) }, verdicts.element),
      panel("Runs in progress", { span: 7, isFlush: true, end: h("a", { href: "#/runs" }, "All runs") }, runs),
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
      { key: "left", label: "Time left", ...timeLeft(status) },
      { key: "workers", label: "Workers", value: count(status.workers_total), note: `${count(status.workers.healthy ?? 0)} healthy` },
      { key: "alerts", label: "Open alerts", value: count(status.alerts.open), tone: status.alerts.open ? "bad" : "", note: status.alerts.acknowledged ? `${count(status.alerts.acknowledged)} acknowledged` : "" },
    ]);
  }

  function showRuns() {
    const live_runs = [...live.runs.values()].filter((run) => run.is_live);
    if (!live_runs.length) {
      replace(runs, emptyState("No run in progress", "Start one from a terminal:", h("code", {}, `pytest --fleet ${location.protocol === "https:" ? "wss" : "ws"}://${location.host}`)));
      return;
    }
    replace(runs, live_runs.map(runRow));
  }

  function runRow(run) {
    const done = run.states.finished;
    return h(
      "div",
      { class: "alert-row" },
      badge(run.state === "cancelling" ? "cancelled" : "running", run.state),
      h(
        "div",
        {},
        h("a", { href: href("runs", run.run_id) }, run.title || run.run_id),
        h("div", { class: "muted" }, run.owner ? `${run.owner} · ` : "", "started ", time(run.submitted_at, { relative: true }), " · ", verdictText(run.counts)),
        progressBar(run.counts, run.tasks, run.states.running),
      ),
      h("div", { class: "number" }, `${count(done)} / ${count(run.tasks)}`, h("div", { class: "muted" }, run.remaining_s === null ? "" : `${duration(run.remaining_s)} left`)),
    );
  }

  function showAlerts(page) {
    const open = page.items.slice(0, 6);
    if (!open.length) replace(alerts, emptyState("No open alerts", "Every worker does what it should."));
    else
      replace(
        alerts,
        open.map((alert) => h("div", { class: "alert-row" }, badge("failed", alert.cause), h("div", {}, alert.worker_id ? h("a", { href: href("workers", alert.worker_id) }, alert.worker_id) : null, " ", alert.message), h("div", { class: "muted" }, time(alert.raised_at, { relative: true })))),
      );
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
