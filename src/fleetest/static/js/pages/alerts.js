// Alerts: open, acknowledged, cleared, each with its cause.

import { get, path, post } from "../api.js";
import { toast } from "../components/dialog.js";
import { showError } from "../components/panel.js";
import { emptyState, makeTable } from "../components/table.js";
import { h, replace } from "../dom.js";
import { badge, time } from "../format.js";
import { live, refreshing } from "../live.js";
import { href, setFilter } from "../place.js";

const STATES = [["", "All"], ["open", "Open"], ["acknowledged", "Acknowledged"], ["cleared", "Cleared"]];
const TONES = { open: "failed", acknowledged: "suspect", cleared: "passed" };

export function alertsPage(filter) {
  const state = h("select", { "aria-label": "State of alerts", onchange: () => change() }, STATES.map(([value, title]) => h("option", { value, selected: value === (filter.get("state") ?? "") }, title)));
  const columns = [
    { key: "state", title: "State", cell: (alert) => badge(TONES[alert.state], alert.state) },
    { key: "cause", title: "Cause", cell: (alert) => h("span", { class: "nowrap" }, alert.cause) },
    { key: "worker", title: "Worker", cell: (alert) => (alert.worker_id ? h("a", { href: href("workers", alert.worker_id) }, alert.worker_id) : "coordinator") },
    { key: "message", title: "What happened", class: "name", cell: (alert) => alert.message },
    { key: "raised", title: "Raised", cell: (alert) => h("span", { class: "nowrap" }, time(alert.raised_at)) },
    { key: "cleared", title: "Cleared", cell: (alert) => h("span", { class: "nowrap" }, time(alert.cleared_at)) },
    { key: "action", title: "Acknowledged", cell: acknowledgement },
  ];
  const table = makeTable(columns, { caption: "Alerts", rowKey: (alert) => alert.alert_id, empty: emptyState("No alerts here", "Nothing to do. An alert is raised when a worker is lost, silent, quarantined or flapping, when its probe fails, when it fails what others pass, or becomes slower than before, or when the coordinator cannot write what it must keep.") });
  const holder = h("div", {}, table.element);
  const element = h("div", { class: "page" }, h("div", { class: "page-head" }, h("h1", {}, "Alerts"), h("div", { class: "filters actions" }, state)), h("section", { class: "panel" }, holder));

  function acknowledgement(alert) {
    if (alert.acknowledged_by) return h("span", {}, `by ${alert.acknowledged_by}, `, time(alert.acknowledged_at));
    if (alert.state !== "open") return "–";
    if (!live.may("admin")) return h("span", { class: "muted" }, "not yet");
    return h("button", { type: "button", onclick: () => acknowledge(alert), "aria-label": `Acknowledge ${alert.cause} of ${alert.worker_id || "the coordinator"}` }, "Acknowledge");
  }

  async function acknowledge(alert) {
    try {
      await post(`${path("alerts", alert.alert_id)}/acknowledge`);
      list.again();
    } catch (error) {
      toast(error.message, { isBad: true });
    }
  }

  function change() {
    setFilter({ state: state.value });
    list.again();
  }

  function show(page) {
    if (!table.element.isConnected) replace(holder, table.element);
    table.show(page.items);
  }

  const list = refreshing((signal) => get("/alerts", { state: state.value, limit: 500 }, signal), { topics: ["alerts"], shown: show, failed: (error) => showError(holder, error) });
  return { element, title: "Alerts", close: list.close };
}
