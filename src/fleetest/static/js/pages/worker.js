// One worker: what it has, what it does, how it is rated, what happened to it.

import { get, path } from "../api.js";
import { BYTES, legendOf, makeChart } from "../components/chart.js";
import { makeTiles, panel, showError } from "../components/panel.js";
import { makeStateStrip } from "../components/state_strip.js";
import { emptyState } from "../components/table.js";
import { workerActions } from "../components/worker_actions.js";
import { h, keyed, renew, replace, setText } from "../dom.js";
import { badge, bytes, count, duration, percent, time } from "../format.js";
import { live, refreshing } from "../live.js";
import { href, setFilter } from "../place.js";

const LOAD = [{ name: "load average", colour: "accent", isFilled: true, format: (value) => value.toFixed(1) }, { name: "slots in use", colour: "good" }];
const MEMORY = [{ name: "memory free", colour: "accent", isFilled: true, format: (value) => bytes(value) }];

const NOTHING_RUNS = {
  healthy: "It waits for work.",
  probation: "It gets one test at a time until it has proved itself.",
  draining: "It gets nothing new until it is resumed.",
  quarantined: "It gets nothing until it is released.",
  suspect: "It has been silent: it gets nothing new until it is heard again.",
  disconnected: "Its connection is lost: it is waited for.",
};

export function workerPage(workerId, filter) {
  const tiles = makeTiles();
  const state = h("span", {});
  const actions = h("div", { class: "actions" });
  const running = h("div", {});
  const idle = h("div", {});
  const capabilities = h("dl", { class: "facts columned" });
  const score = h("div", {});
  const states = makeStateStrip({ range: filter.get("states") ?? "", onRange: (range) => setFilter({ states: range }) });
  const load = makeChart(LOAD, { label: "Load average and slots in use over the last minutes" });
  const memory = makeChart(MEMORY, { label: "Free memory over the last minutes", increments: BYTES });
  const problem = h("div", {});
  const history = panel("History of states", { end: states.ranges }, states.element);
  const present = h(
    "div",
    { class: "columns" },
    panel("Runs now", { span: 7, isFlush: true }, running, idle),
    panel("Score", { span: 5 }, score),
    panel("Load", { span: 6, end: legendOf(LOAD) }, load.element),
    panel("Memory", { span: 6, end: legendOf(MEMORY) }, memory.element),
  );
  const abilities = panel("Capabilities", {}, capabilities);
  const element = h(
    "div",
    { class: "page" },
    h("div", { class: "page-head" }, h("div", { class: "crumbs" }, h("a", { href: "#/workers" }, "Workers")), h("h1", {}, workerId), state, actions),
    problem,
    tiles.element,
    present,
    history,
    abilities,
  );
  const ofPresent = [tiles.element, present, abilities, state, actions];
  let mark = "";
  let isHere = false;

  function show(worker) {
    renew(problem, worker.reason && h("div", { class: "panel notice bad" }, h("div", {}, worker.reason)));
    for (const part of ofPresent) part.hidden = false;
    const nextMark = `${worker.state}${worker.can_release}${live.me.may}`;
    if (nextMark !== mark) {
      mark = nextMark;
      replace(state, badge(worker.state));
      replace(actions, workerActions(worker));
    }
    tiles.show([
      { key: "slots", label: "Slots in use", value: `${count(worker.slots_used)} / ${count(worker.slots)}`, note: worker.waiting ? `${count(worker.waiting)} tests queued` : "nothing queued" },
      { key: "work", label: "Work queued", value: worker.waiting_s ? duration(worker.waiting_s) : "–", note: "predicted" },
      { key: "speed", label: "Speed", value: `${worker.speed.toFixed(2)}×`, note: "of the typical worker" },
      { key: "load", label: "Load average", value: worker.load_average?.toFixed(2) ?? "–", note: worker.resources.cpus ? `on ${count(worker.resources.cpus)} CPUs` : "" },
      { key: "memory", label: "Memory free", value: bytes(worker.memory_available_bytes), note: worker.resources.memory ? `of ${bytes(worker.resources.memory)}` : "" },
    ]);
    showRunning(worker);
    showCapabilities(worker);
    renew(score, ratings(worker).map(scoreRow), h("p", { class: "muted note" }, `How well it fits, and where its group is, depends on the test: a waiting test's page has the whole score. A slot may hold ${duration(worker.prefetch_s)} of work ahead.`));
  }

  /** One that is lost or left has no present, but a past and perhaps a future. */
  function showGone(last) {
    for (const part of ofPresent) part.hidden = true;
    mark = "";
    renew(problem, h("section", { class: "panel" }, emptyState(`${workerId} is not here`, last ? `It is ${last.state}${last.reason ? `: ${last.reason}` : ""}. It joins again with:` : "Nobody of this name has joined since the coordinator started. It joins with:", h("code", {}, `fleetest worker --coordinator ${location.protocol === "https:" ? "wss" : "ws"}://${location.host} --name ${workerId}`), h("a", { href: href("alerts") }, "Alerts say what happened"))));
  }

  async function fetchWorker(signal) {
    const known = await get(`${path("workers", workerId)}/states`, {}, signal);
    return [known, known.is_here ? await get(path("workers", workerId), {}, signal) : null];
  }

  const fetchSeries = async (signal) => (isHere ? get(`${path("workers", workerId)}/series`, {}, signal) : null);

  function showAll([known, worker]) {
    history.hidden = false;
    states.show(known.spans);
    const hasCome = worker && !isHere;
    isHere = Boolean(worker);
    if (hasCome) series.again();
    if (worker) show(worker);
    else showGone(known.spans.at(-1));
  }

  function fail(error) {
    if (error.status !== 404) return showError(problem, error);
    history.hidden = true;
    return showGone(null);
  }

  function ratings(worker) {
    const free = worker.slots ? (worker.slots - worker.slots_used) / worker.slots : 0;
    return [
      { name: "Free slots", value: free },
      { name: "Speed, compared with the typical worker", value: worker.speed },
      { name: "Reliability", value: worker.reliability },
    ];
  }

  function scoreRow(part) {
    const bar = h("span", {});
    bar.style.width = `${100 * Math.max(0, Math.min(1, part.value))}%`;
    return h("div", { class: "bar-row" }, h("span", {}, part.name), h("span", { class: "bar-track" }, bar), h("span", { class: "number" }, percent(part.value)));
  }

  function showRunning(worker) {
    renew(idle, !worker.running.length && emptyState("Nothing runs here", worker.state === "quarantined" && !worker.can_release ? "It gets nothing until its probe passes." : NOTHING_RUNS[worker.state] ?? "It gets no work now."));
    keyed(
      running,
      worker.running,
      (task) => `${task.slot} ${task.run_id} ${task.task_id}`,
      (task) => h("div", { class: "alert-row" }, h("span", { class: "muted number" }, `slot ${task.slot}`), h("a", { class: "mono", href: href("runs", task.run_id, "tasks", task.task_id) }, task.task_id), h("span", { class: "number nowrap" })),
      (row, task) => setText(row.lastChild, task.is_started ? duration(task.running_s) : "about to start"),
    );
  }

  function showCapabilities(worker) {
    const facts = [["Host", worker.host], ["Address", worker.address || "not connected"], ["Joined", time(worker.joined_at)], ["Heard", time(worker.last_seen_at)]];
    for (const [name, total] of Object.entries(worker.resources)) {
      const show = name.endsWith("memory") ? bytes : count;
      const taken = total - worker.free[name];
      const text = `${show(total)}, ${taken ? show(taken) : "none"} reserved`;
      facts.push([name, text]);
    }
    for (const [name, values] of Object.entries(worker.attributes)) facts.push([name, values.map((value) => h("span", { class: "chip" }, value))]);
    renew(capabilities, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  }

  function showSeries(series) {
    const at = series.at.map((moment) => Date.parse(moment) / 1000);
    load.show(at, series.values.load_average, series.values.slots_used);
    memory.show(at, series.values.memory_available_bytes);
  }

  const detail = refreshing(fetchWorker, { topics: ["workers", "status"], pause_s: 1, shown: showAll, failed: fail });
  const series = refreshing(fetchSeries, { topics: ["status"], pause_s: 3, shown: (found) => found && showSeries(found) });
  return {
    element,
    title: workerId,
    close() {
      detail.close();
      series.close();
    },
  };
}
