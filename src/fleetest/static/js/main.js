// The frame of all pages: navigation, theme, connection, and which page is shown.

import { leaveForLogin } from "./api.js";
import { h, replace, setClass, setText } from "./dom.js";
import { refreshRelativeTimes } from "./format.js";
import { live } from "./live.js";
import { alertsPage } from "./pages/alerts.js";
import { overviewPage } from "./pages/overview.js";
import { queuePage } from "./pages/queue.js";
import { runPage } from "./pages/run.js";
import { runsPage } from "./pages/runs.js";
import { taskPage } from "./pages/task.js";
import { testPage } from "./pages/test.js";
import { testsPage } from "./pages/tests.js";
import { workerPage } from "./pages/worker.js";
import { workersPage } from "./pages/workers.js";
import { place } from "./place.js";
import { followTheme, switchTheme } from "./theme.js";

const PAGES = [
  [/^\/$/, overviewPage, "Overview"],
  [/^\/runs$/, runsPage, "Runs"],
  [/^\/runs\/([^/]+)$/, runPage, "Run"],
  [/^\/runs\/([^/]+)\/tasks\/(.+)$/, taskPage, "Task"],
  [/^\/workers$/, workersPage, "Workers"],
  [/^\/workers\/([^/]+)$/, workerPage, "Worker"],
  [/^\/tests$/, testsPage, "Tests"],
  [/^\/tests\/(.+)$/, testPage, "Test"],
  [/^\/queue$/, queuePage, "Queue"],
  [/^\/alerts$/, alertsPage, "Alerts"],
];
const NAVIGATION = [["/", "Overview"], ["/runs", "Runs"], ["/workers", "Workers"], ["/tests", "Tests"], ["/queue", "Queue"], ["/alerts", "Alerts"]];

const RELATIVE_TIMES_MS = 5000;

let current = null;

function show() {
  const { path, filter } = place();
  // Also for another filter of the same page: a page changes its own without coming here.
  current?.page.close?.();
  const found = PAGES.map(([pattern, make, title]) => [pattern.exec(path), make, title]).find(([match]) => match);
  const main = document.querySelector("main");
  const [match, make, title] = found ?? [[], missingPage, "Not found"];
  const page = make(...match.slice(1).map(decode), filter);
  current = { page };
  replace(main, page.element);
  document.title = `${page.title ?? title} – Fleetest`;
  for (const link of document.querySelectorAll(".nav a")) {
    const target = link.getAttribute("href").slice(1);
    const isHere = target === "/" ? path === "/" : path === target || path.startsWith(`${target}/`);
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  window.scrollTo(0, 0);
  if (document.activeElement !== document.body) main.focus({ preventScroll: true });
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function missingPage() {
  const element = h("div", { class: "panel" }, h("div", { class: "empty" }, h("strong", {}, "There is no such page"), h("a", { href: "#/" }, "Go to the overview")));
  return { element };
}

function frame() {
  const theme = h("button", { type: "button", class: "quiet", onclick: switchTheme, "aria-label": "Switch between light and dark" }, "◐");
  const state = h("span", { class: "link-state waiting", role: "status" }, "Connecting");
  const alerts = h("span", { class: "tag", hidden: true });
  const banner = h("div", { class: "banner", role: "alert", hidden: true });
  const leave = h("button", { type: "button", class: "quiet", onclick: logOut }, "Log out");
  const navigation = h(
    "ul",
    { class: "nav" },
    NAVIGATION.map(([target, title]) => h("li", {}, h("a", { href: `#${target}` }, title, target === "/alerts" && alerts))),
  );
  replace(
    document.body,
    h("a", { class: "skip", href: "#main", onclick: skip }, "Skip to the page"),
    h("header", { class: "top" }, h("div", { class: "top-inner" }, h("a", { class: "brand", href: "#/" }, mark(), "Fleetest"), h("nav", { "aria-label": "Pages" }, navigation), h("div", { class: "top-end" }, state, theme, leave)), banner),
    h("main", { id: "main", tabindex: "-1" }),
  );
  live.listen("connection", () => {
    const texts = { open: ["Live", ""], waiting: ["Connecting", "waiting"], lost: ["Not connected", "lost"] };
    const [text, kind] = texts[live.connection];
    setText(state, text);
    setClass(state, `link-state ${kind}`.trim());
    banner.hidden = live.connection !== "lost";
    setText(banner, "The connection to the coordinator is lost. What you see may be old; this page reconnects by itself.");
  });
  live.listen("status", () => {
    const open = live.status?.alerts?.open ?? 0;
    alerts.hidden = open === 0;
    setText(alerts, open);
    alerts.setAttribute("aria-label", `${open} open`);
  });
}

function skip(event) {
  event.preventDefault();
  document.querySelector("main").focus();
}

function mark() {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  for (const [y, width, name] of [[3, 18, "accent"], [10, 13, "good"], [17, 8, "accent"]]) {
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [key, value] of [["x", 3], ["y", y], ["width", width], ["height", 4.5], ["rx", 1.5], ["fill", `var(--${name})`]]) bar.setAttribute(key, value);
    svg.append(bar);
  }
  return svg;
}

async function logOut() {
  await fetch("/logout", { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" }).catch(() => null);
  leaveForLogin();
}

followTheme();
frame();
live.start();
window.addEventListener("hashchange", show);
setInterval(() => document.hidden || refreshRelativeTimes(), RELATIVE_TIMES_MS);
show();
