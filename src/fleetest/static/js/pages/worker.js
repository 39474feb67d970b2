// One worker: what it has, what it does, how it is rated, what happened to it.

import { get, path } from "../api.js";
import { legendOf, makeChart } from "../components/chart.js";
import { makeTiles, panel, showError, storyView } from "../components/panel.js";
import { emptyState } from "../components/table.js";
import { workerActions } from "../components/worker_actions.js";
import { h, replace } from "../dom.js";
import { badge, bytes, count, duration, percent, time } from "../format.js";
import { live, refreshing } from "../live.js";
import { href } from "../place.js";

const LOAD = [{ name: "load average", colour: "accent", isFilled: true, format: (value) => value.toFixed(1) }, { name: "slots in use", colour: "good" }];
const MEMORY = [{ name: "memory free", colour: "accent", isFilled: true, format: (value) => bytes(value) }];

export function workerPage(workerId) {
  const tiles = makeTiles();
  const state = h("span", {});
  const actions = h("div", { class: "actions" });
  const running = h("div", {});
  const capabilities = h("div", {});
  const score = h("div", {});
  const story = h("div", {});
  const load = makeChart(LOAD, { label: "Load average and slots in use over the last minutes" });
  const memory = makeChart(MEMORY, { label: "Free memory over the last minutes" });
  const problem = h("div", {});
  const element = h(
    "div",
    { class: "page" },
    h("div", { class: "page-head" }, h("div", { class: "crumbs" }, h("a", { href: "#/workers" }, "Workers")), h("h1", {}, workerId), state, actions),
    problem,
    tiles.element,
    h(
      "div",
      { class: "columns" },
      panel("Runs now", { span: 7, isFlush: true }, running),
      panel("Score", { span: 5 }, score),
      panel("Load", { span: 6, end: legendOf(LOAD) }, load.element),
      panel("Memory", { span: 6, end: legendOf(MEMORY) }, memory.element),
      panel("Capabilities", { span: 6 }, capabilities),
      panel("What happened to it", { span: 6 }, story),
    ),
  );
  let mark = "";

  function show(worker) {
    replace(problem);
    const nextMark = `${worker.state}${live.me.may}`;
    if (nextMark !== mark) {
      mark = nextMark;
      replace(state, badge(worker.state));
      replace(actions, workerActions(worker));
    }
    tiles.show([
      { key: "slots", label: "Slots in use", value: `${count(worker.slots_used)} / ${count(worker.slots)}`, note: worker.waiting ? `${count(worker.waiting)} tests queued` : "nothing queued" },
      { key: "work", label: "Work queued", value: worker.waiting_s ? duration(worker.waiting_s) : "–", note: "predicted" },
      { key: "speed", label: "Speed", value: `${worker.speed.toFixed(2)}×`, note: "of the typical worker" },
      { key: "load", label: "Load average", value: worker.load_average?.toFixed(2) ?? "–" },
      { key: "memory", label: "Memory free", value: bytes(worker.memory_available_bytes) },
    ]);
    showRunning(worker);
    showCapabilities(worker);
    replace(score, ratings(worker).map(scoreRow), h("p", { class: "muted" }, "The load balancer prefers fitting, free, fast and reliable workers; a slot may hold ", duration(worker.prefetch_s), " of work ahead."));
    replace(story, worker.reason && h("p", {}, worker.reason), storyView(worker.story));
  }

  function ratings(worker) {
    const free = worker.slots ? (worker.slots - worker.slots_used) / worker.slots : 0;
    return [
      { name: "Free slots", value: free },
      { name: "Speed, against the typical worker", value: worker.speed },
      { name: "Reliability", value: worker.reliability },
    ];
  }

  function scoreRow(part) {
    const bar = h("span", {});
    bar.style.width = `${100 * Math.max(0, Math.min(1, part.value))}%`;
    return h("div", { class: "bar-row" }, h("span", {}, part.name), h("span", { class: "bar-track" }, bar), h("span", { class: "number" }, part.value > 1 ? part.value.toFixed(2) : percent(part.value)));
  }

  function showRunning(worker) {
    if (!worker.running.length) {
      replace(running, emptyState("Nothing runs here", worker.state === "healthy" ? "It waits for work." : worker.reason || ""));
      return;
    }
    replace(running, worker.running.map((task) => h("div", { class: "alert-row" }, h("span", { class: "muted number" }, `slot ${task.slot}`), h("a", { class: "mono", href: href("runs", task.run_id, "tasks", task.task_id) }, task.task_id), h("span", { class: "number nowrap" }, duration(task.running_s)))));
  }

  function showCapabilities(worker) {
    const facts = [["Host", worker.host], ["Address", worker.address || "not connected"], ["Joined", time(worker.joined_at)], ["Heard", time(worker.last_seen_at)]];
    for (const [name, total] of Object.entries(worker.resources)) {
      const text = name.endsWith("memory") ? `${bytes(worker.free[name])} of ${bytes(total)} free` : `${worker.free[name]} of ${total} free`;
      facts.push([name, text]);
    }
    for (const [name, values] of Object.entries(worker.attributes)) facts.push([name, values.map((value) => h("span", { class: "chip" }, value))]);
    replace(capabilities, h("dl", { class: "facts" }, facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])));
  }

  function showSeries(series) {
    const at = series.at.map((moment) => Date.parse(moment) / 1000);
    load.show(at, series.values.load_average, series.values.slots_used);
    memory.show(at, series.values.memory_available_bytes);
  }

  const detail = refreshing((signal) => get(path("workers", workerId), {}, signal), { topics: ["workers", "status"], pause_s: 1, shown: show, failed: (error) => showError(problem, error) });
  const series = refreshing((signal) => get(`${path("workers", workerId)}/series`, {}, signal), { topics: ["status"], pause_s: 3, shown: showSeries });
  return {
    element,
    title: workerId,
    close() {
      detail.close();
      series.close();
    },
  };
}
