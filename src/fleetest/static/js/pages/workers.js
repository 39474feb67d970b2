// All workers as a table.

import { get, getAll } from "../api.js";
import { makeTable, emptyState } from "../components/table.js";
import { workerActions } from "../components/worker_actions.js";
import { h, replace } from "../dom.js";
import { badge, bytes, count, duration, time } from "../format.js";
import { panel, showError } from "../components/panel.js";
import { refreshing } from "../live.js";
import { href, setFilter } from "../place.js";

const STATES = ["healthy", "suspect", "draining", "quarantined", "probation", "disconnected"];
const SORTS = {
  worker_id: (worker) => worker.worker_id,
  used: (worker) => worker.slots_used / Math.max(1, worker.slots),
  waiting_s: (worker) => worker.waiting_s,
  load_average: (worker) => worker.load_average ?? -1,
  memory: (worker) => worker.memory_available_bytes ?? -1,
  speed: (worker) => worker.speed,
};

export function workersPage(filter) {
  const text = h("input", { type: "search", placeholder: "Name, host or capability", "aria-label": "Filter workers", value: filter.get("text") ?? "", oninput: change });
  const state = h("select", { "aria-label": "State", onchange: change }, h("option", { value: "" }, "All states"), STATES.map((name) => h("option", { value: name, selected: name === filter.get("state") }, name)));
  let sort = filter.get("sort") ?? "worker_id";
  const columns = [
    { key: "state", title: "State", cell: (worker) => h("span", { title: worker.reason || null }, badge(worker.state)) },
    { key: "worker_id", title: "Worker", sortable: true, class: "name short", cell: (worker) => h("div", {}, h("a", { href: href("workers", worker.worker_id) }, worker.worker_id), h("div", { class: "muted" }, worker.host)) },
    { key: "used", title: "Slots", number: true, sortable: true, cell: (worker) => `${count(worker.slots_used)} / ${count(worker.slots)}` },
    { key: "running", title: "Runs now", class: "name", cell: runningCell },
    { key: "waiting_s", title: "Work queued", number: true, sortable: true, cell: (worker) => (worker.waiting_s ? duration(worker.waiting_s) : "–") },
    { key: "speed", title: "Speed", number: true, sortable: true, cell: (worker) => h("span", { title: "Of the typical worker's speed" }, `${worker.speed.toFixed(2)}×`) },
    { key: "load_average", title: "Load", number: true, sortable: true, cell: loadCell },
    { key: "memory", title: "Memory free", number: true, sortable: true, cell: (worker) => h("span", { class: "nowrap" }, bytes(worker.memory_available_bytes)) },
    { key: "seen", title: "Last heard", cell: (worker) => h("span", { class: "nowrap" }, time(worker.last_seen_at, { relative: true })) },
    { key: "actions", title: "Actions", cell: (worker) => workerActions(worker, { isShort: true }) },
  ];
  const table = makeTable(columns, {
    caption: "Workers",
    rowKey: (worker) => worker.worker_id,
    onSort: sortBy,
    empty: emptyState("No worker matches", "Without a filter, none has joined yet. Start one on each machine:", h("code", {}, `fleetest worker --coordinator ${location.protocol === "https:" ? "wss" : "ws"}://${location.host}`)),
  });
  const holder = h("div", {}, table.element);
  const lostTable = makeTable(
    [
      { key: "state", title: "State", cell: (worker) => badge(worker.state) },
      { key: "worker_id", title: "Worker", class: "name short", cell: (worker) => h("a", { href: href("workers", worker.worker_id) }, worker.worker_id) },
      { key: "since", title: "Since", cell: (worker) => h("span", { class: "nowrap" }, time(worker.since, { relative: true })) },
      { key: "reason", title: "Because", cell: (worker) => worker.reason },
    ],
    { caption: "Workers that were lost and did not come back", rowKey: (worker) => worker.worker_id, isTall: false, empty: emptyState("None was lost") },
  );
  const lostPanel = panel("Lost", { isFlush: true }, lostTable.element);
  lostPanel.hidden = true;
  const element = h("div", { class: "page" }, h("div", { class: "page-head" }, h("h1", {}, "Workers"), h("div", { class: "filters actions" }, text, state)), h("section", { class: "panel" }, holder), lostPanel);
  let workers = [];

  function loadCell(worker) {
    if (worker.load_average === null) return "–";
    return h("span", { title: worker.resources.cpus ? `Load average, on ${count(worker.resources.cpus)} CPUs` : "Load average" }, worker.load_average.toFixed(2));
  }

  function runningCell(worker) {
    if (!worker.running.length) return h("span", { class: "muted" }, "nothing");
    const [first] = worker.running;
    const others = worker.running.length - 1;
    return h("div", {}, h("a", { class: "mono", href: href("runs", first.run_id, "tasks", first.task_id) }, first.task_id), h("div", { class: "muted" }, `for ${duration(first.running_s)}${others ? `, and ${others} more` : ""}`));
  }

  function sortBy(key) {
    sort = sort === key ? `-${key}` : key;
    change();
  }

  function change() {
    setFilter({ text: text.value, state: state.value, sort: sort === "worker_id" ? "" : sort });
    show();
  }

  function show() {
    const wanted = text.value.trim().toLowerCase();
    const key = sort.replace(/^-/, "");
    const value = SORTS[key] ?? SORTS.worker_id;
    const sign = sort.startsWith("-") ? -1 : 1;
    const rows = workers.filter((worker) => (!state.value || worker.state === state.value) && (!wanted || words(worker).includes(wanted)));
    rows.sort((one, other) => {
      const [first, second] = [value(one), value(other)];
      return sign * (first < second ? -1 : first > second ? 1 : 0);
    });
    table.show(rows, { sort: { key, isDescending: sign < 0 } });
  }

  function words(worker) {
    const capabilities = Object.entries(worker.attributes).map(([name, values]) => `${name}=${values.join(" ")}`);
    return `${worker.worker_id} ${worker.host} ${capabilities.join(" ")}`.toLowerCase();
  }

  const load = refreshing((signal) => Promise.all([getAll("/workers", {}, signal), get("/lost-workers", {}, signal)]), {
    topics: ["workers", "status"],
    pause_s: 2,
    shown([found, lost]) {
      workers = found;
      lostPanel.hidden = !lost.items.length;
      lostTable.show(lost.items);
      if (!table.element.isConnected) replace(holder, table.element);
      show();
    },
    failed: (error) => showError(holder, error),
  });
  return { element, title: "Workers", close: load.close };
}
