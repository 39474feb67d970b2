// One run: progress, timeline, failures by likeness, every test. The same while it runs and afterwards.

import { get, path, post } from "../api.js";
import { confirm, toast } from "../components/dialog.js";
import { Bars } from "../components/bars.js";
import { makeFailures } from "../components/failures.js";
import { makeTiles, panel, progressBar, showError, timeLeft, verdictText } from "../components/panel.js";
import { emptyState, makeTable } from "../components/table.js";
import { makeTimeline } from "../components/timeline.js";
import { h, renew, setText } from "../dom.js";
import { absolute, badge, calendar, clock, count, duration, time, tone, VERDICTS } from "../format.js";
import { live, refreshing } from "../live.js";
import { href, setFilter } from "../place.js";
import { runState } from "./runs.js";

const STATUSES = ["waiting", "running", ...VERDICTS];
const PAGE = 500;
const SLOWEST = 5;
const BAD = ["failed", "error", "timeout", "crashed", "oom", "quarantined"];
const SUCCESSES = new Set(["passed", "skipped", "xfailed", "xpassed"]);

export function runPage(runId, filter) {
  const tiles = makeTiles();
  const title = h("h1", {}, "Run");
  const badgeHolder = h("span", {});
  const actions = h("div", { class: "actions" });
  const notices = h("div", {});
  const bar = h("div", { class: "progress-box" });
  const slowest = h("div", {});
  const failures = makeFailures(runId);
  const timeline = makeTimeline({ onOpen: (id) => location.assign(href("runs", runId, "tasks", id)) });
  const tasks = makeTasks(runId, filter);
  const element = h(
    "div",
    { class: "page" },
    h("div", { class: "page-head" }, h("div", { class: "crumbs" }, h("a", { href: "#/runs" }, "Runs"), " / ", h("span", { class: "mono" }, runId.slice(0, 12))), title, badgeHolder, actions),
    tiles.element,
    bar,
    notices,
    panel("Failures", { isFlush: true }, failures.element),
    panel("Timeline", {}, timeline.element),
    panel("Slowest tests", { end: h("a", { href: href("runs", runId, { sort: "-duration" }) }, "All, slowest first") }, slowest),
    tasks.element,
  );
  let run = null;
  let failuresPage = null;
  const bars = new Bars();
  let following = null;

  function showRun(next) {
    const wasLive = run?.is_live;
    run = next;
    setText(title, run.title || run.run_id);
    document.title = `${run.title || "Run"} – Fleetest`;
    renew(badgeHolder, runState(run));
    showActions();
    tiles.show([
      { key: "done", label: "Done", value: `${count(run.states.finished)} / ${count(run.tasks)}`, note: run.is_live ? `${count(run.states.running)} running` : "tests" },
      run.is_live ? { key: "left", label: "Time left", ...timeLeft(run.states, run.remaining_s) } : { key: "left", label: "Duration", value: duration(run.duration_s), note: "" },
      { key: "bad", label: "Failed", value: count(sumOf(run, BAD)), tone: sumOf(run, BAD) ? "bad" : "", note: BAD.filter((name) => run.counts[name]).map((name) => `${count(run.counts[name])} ${name}`).join(", ") },
      ...(run.owner || run.priority ? [{ key: "owner", label: "Owner", value: run.owner || "–", note: run.priority ? `priority ${run.priority}` : "" }] : []),
      started(run),
    ]);
    if (failuresPage && run.is_live !== wasLive) showFailures(failuresPage);
    renew(bar, progressBar(run.counts, run.tasks, run.states.running), h("div", { class: "verdicts" }, verdictText(run.counts)));
    const said = [...run.notices, run.cancel_reason && `Cancelled: ${run.cancel_reason}`].filter(Boolean);
    renew(notices, said.length > 0 && h("section", { class: "panel notice warn" }, said.map((text) => h("div", {}, text))));
    if (wasLive && !run.is_live) for (const each of loads) each.again();
  }

  const sumOf = (each, names) => names.reduce((sum, name) => sum + (each.counts[name] ?? 0), 0);

  function started({ submitted_at }) {
    if (!submitted_at) return { key: "started", label: "Started", value: "–" };
    const moment = new Date(submitted_at);
    return { key: "started", label: "Started", value: clock(moment), note: calendar(moment), title: absolute(moment) };
  }

  function showSlowest(page) {
    const tasks = page.items.filter((task) => task.duration_s !== null);
    const longest = Math.max(...tasks.map((task) => task.duration_s), 1e-9);
    renew(slowest, tasks.length ? tasks.map((task) => slowRow(task, longest)) : emptyState("Nothing has run yet", "The slowest tests are listed here as soon as one has ended."));
  }

  function slowRow(task, longest) {
    const bar = h("span", { class: tone(task.verdict ?? task.state) });
    bar.style.width = `${(100 * task.duration_s) / longest}%`;
    const name = h("a", { class: "mono", href: href("runs", runId, "tasks", task.task_id) }, task.task_id);
    return h("div", { class: "bar-row wide" }, name, h("span", { class: "bar-track" }, bar), h("span", { class: "number" }, duration(task.duration_s)));
  }

  /** Nothing before the run itself is known: only it says whether there can be more than those that were told. */
  function showFailures(page) {
    failuresPage = page;
    if (run) failures.show(page.items, { isLive: run.is_live || sumOf(run, BAD) > 0 });
  }

  /** Changes with every failure; without the run among those that are told, always. */
  function failuresTold() {
    const told = live.runs.get(runId);
    return told ? `${sumOf(told, BAD)} ${told.is_live}` : {};
  }

  /** What running again would run: everything that did not succeed, also what never ran. */
  function unsuccessful(each) {
    return Object.entries(each.counts).reduce((sum, [verdict, number]) => sum + (SUCCESSES.has(verdict) ? 0 : number), 0);
  }

  function showActions() {
    const buttons = [];
    if (run.is_live && live.may("submit")) buttons.push(h("button", { type: "button", class: "danger", onclick: cancel }, "Cancel run"));
    const again = unsuccessful(run);
    if (!run.is_live && run.can_rerun && again && live.may("submit")) buttons.push(h("button", { type: "button", class: "primary", onclick: rerun }, `Run ${count(again)} again`));
    if (actions.dataset.mark === buttons.map((each) => each.textContent).join()) return;
    actions.dataset.mark = buttons.map((each) => each.textContent).join();
    renew(actions, buttons);
  }

  async function cancel() {
    const reason = await confirm({ title: "Cancel this run?", text: "Tests that wait are not run; those that run are ended within seconds.", action: "Cancel the run", isDangerous: true, reasonLabel: "Reason (optional)" });
    if (reason === null) return;
    await act(() => post(`${path("runs", runId)}/cancel`, { reason: reason || "cancelled in the dashboard" }), "The run is being cancelled.");
  }

  async function rerun() {
    const answer = await confirm({ title: "Run these tests again?", text: `A new run of the ${count(unsuccessful(run))} tests that did not pass: what failed, and what was cancelled or not run.`, action: "Run them" });
    if (answer === null) return;
    const submitted = await act(() => post(`${path("runs", runId)}/rerun`, { only: "failed" }), "They are submitted.");
    if (submitted) location.assign(href("runs", submitted.run_id));
  }

  async function act(ask, done) {
    try {
      const answer = await ask();
      toast(done);
      summary.again();
      return answer;
    } catch (error) {
      toast(error.message, { isBad: true });
      return null;
    }
  }

  async function loadTimeline(signal) {
    for (;;) {
      const part = await get(`${path("runs", runId)}/timeline`, { after: following }, signal);
      bars.take(part);
      following = part.next;
      if (part.is_complete) return part;
      showTimeline(part);
    }
  }

  function showTimeline(part) {
    const origin = Date.parse(part.origin) / 1000;
    const running = new Map();
    let span = bars.end;
    for (const task of part.running) {
      const start = Date.parse(task.since) / 1000 - origin;
      const lane = bars.lane(`${task.worker_id}/${task.slot}`);
      running.set(lane.name, { start, end: start + task.running_s, id: task.task_id });
      span = Math.max(span, start + task.running_s);
    }
    timeline.show(bars, running, span);
  }

  /** What is told by itself needs no question; notices and suites come with the next one. */
  function showTold() {
    const told = live.runs.get(runId);
    if (!run?.is_live || !told) return;
    if (told.is_live) showRun({ ...run, ...told });
    else summary.again();
  }

  const summary = refreshing((signal) => get(path("runs", runId), {}, signal), { topics: ["runs"], pause_s: 5, shown: showRun, failed: (error) => showError(bar, error) });
  const loads = [
    refreshing((signal) => get(`${path("runs", runId)}/failures`, {}, signal), { topics: ["runs"], pause_s: 2, mark: failuresTold, shown: showFailures, failed: (error) => showError(failures.element, error) }),
    refreshing((signal) => get(`${path("runs", runId)}/tasks`, { sort: "-duration", limit: SLOWEST }, signal), { topics: ["runs"], pause_s: 10, shown: showSlowest, failed: (error) => showError(slowest, error) }),
    refreshing(loadTimeline, { topics: ["runs"], pause_s: 1, shown: showTimeline }),
    tasks.load,
  ];
  const ends = [live.listen("status", () => run && showActions()), live.listen("runs", showTold)];
  return {
    element,
    title: "Run",
    close() {
      for (const each of [summary, ...loads]) each.close();
      for (const end of ends) end();
    },
  };
}

function makeTasks(runId, filter) {
  const text = h("input", { type: "search", placeholder: "Part of the test's name", "aria-label": "Filter tests by name", value: filter.get("text") ?? "", oninput: () => change({ text: text.value }) });
  const status = h("select", { "aria-label": "Status", onchange: () => change({ status: status.value }) }, h("option", { value: "" }, "All tests"), STATUSES.map((name) => h("option", { value: name, selected: name === filter.get("status") }, name.replace("_", " "))));
  const worker = h("input", { type: "search", placeholder: "Worker", "aria-label": "Filter tests by worker", value: filter.get("worker") ?? "", oninput: () => change({ worker: worker.value }) });
  const total = h("span", { class: "muted number", role: "status" });
  const columns = [
    { key: "verdict", title: "Verdict", cell: (task) => badge(task.verdict ?? task.state) },
    { key: "task_id", title: "Test", sortable: true, class: "name", cell: (task) => h("a", { class: "mono", href: href("runs", runId, "tasks", task.task_id) }, task.task_id) },
    { key: "duration", title: "Duration", number: true, sortable: true, cell: (task) => h("span", { class: "nowrap" }, duration(task.duration_s)) },
    { key: "attempts", title: "Attempts", number: true, cell: (task) => count(task.attempts) },
    { key: "worker", title: "Worker", cell: (task) => task.worker ? h("a", { href: href("workers", task.worker) }, task.worker) : "–" },
    { key: "started_at", title: "Started", cell: (task) => h("span", { class: "nowrap" }, time(task.started_at)) },
  ];
  const table = makeTable(columns, { caption: "Tests of this run", rowKey: (task) => task.task_id, onSort: sortBy, empty: emptyState("No test matches", "Clear a filter above, or wait until the suite is collected.") });
  const element = panel("Tests", { isFlush: true, end: [total, text, status, worker] }, table.element);
  let sort = filter.get("sort") ?? "";
  let pages = [];
  let sum = null;
  let version = 0;

  function query() {
    return { text: text.value, ...statusQuery(status.value), worker: worker.value, sort: sort || null, limit: PAGE };
  }

  function sortBy(key) {
    const isSame = sort === key;
    sort = isSame ? `-${key}` : sort === `-${key}` ? "" : key;
    change({ sort });
  }

  function change(changes) {
    setFilter(changes);
    version += 1;
    pages = [];
    load.again();
  }

  /** Loads again what is looked at: the first page says how many there are, those in view what they are now. */
  async function loadPages(signal) {
    const [from, to] = table.view();
    const wanted = new Set([0]);
    for (let number = Math.floor(from / PAGE); number * PAGE < to && number < pages.length; number += 1) wanted.add(number);
    const asked = version;
    const found = new Map();
    for (const number of wanted) {
      const page = await get(`${path("runs", runId)}/tasks`, { ...query(), cursor: pages[number]?.cursor ?? null }, signal);
      found.set(number, page);
    }
    return { asked, found };
  }

  async function more() {
    const [last, asked] = [pages.at(-1), version];
    if (!last?.next) return;
    const page = await get(`${path("runs", runId)}/tasks`, { ...query(), cursor: last.next }).catch(() => null);
    if (!page || asked !== version || pages.at(-1) !== last) return;
    pages.push({ cursor: last.next, items: page.items, next: page.next_cursor });
    draw();
  }

  function draw() {
    const rows = pages.flatMap((page) => page.items);
    const isAll = !pages.at(-1)?.next;
    setText(total, isAll ? `${count(rows.length)} tests` : sum === null ? `more than ${count(rows.length)} tests` : `${count(sum)} tests`);
    table.show(rows, { sort: sort ? { key: sort.replace(/^-/, ""), isDescending: sort.startsWith("-") } : null, loadMore: isAll ? null : more });
  }

  const load = refreshing(loadPages, {
    topics: ["runs"],
    pause_s: 1,
    shown({ asked, found }) {
      if (asked !== version) return;
      for (const [number, page] of found) {
        const before = pages[number];
        // Rows that did not change keep their identity, so that nothing is drawn again.
        const known = new Map((before?.items ?? []).map((row) => [row.task_id, row]));
        const items = page.items.map((row) => (known.has(row.task_id) && same(known.get(row.task_id), row) ? known.get(row.task_id) : row));
        pages[number] = { cursor: before?.cursor ?? null, items, next: pages[number + 1] ? pages[number + 1].cursor : page.next_cursor };
        if (number === 0) sum = page.total;
      }
      draw();
    },
  });
  return { element, load };
}

/** One choice for people is either states or a verdict for the API. */
function statusQuery(status) {
  if (status === "waiting") return { state: "pending,queued,leased" };
  return status === "running" ? { state: "running" } : { verdict: status };
}

function same(one, other) {
  return one.state === other.state && one.verdict === other.verdict && one.attempts === other.attempts && one.worker === other.worker && (one.state !== "running" || one.duration_s === other.duration_s);
}
