// Runs in the measured page before its own code: times painting and acting.

window.longest = 0;
new PerformanceObserver((list) => {
  for (const task of list.getEntries()) window.longest = Math.max(window.longest, task.duration);
}).observe({ type: "longtask" });

const frame = () => new Promise((done) => requestAnimationFrame(done));
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const type = (text) => (element) => {
  element.value = text;
  element.dispatchEvent(new Event("input"));
};
const zoom = (canvas) => {
  const box = canvas.getBoundingClientRect();
  const at = { clientX: box.left + 500, clientY: box.top + 80 };
  canvas.dispatchEvent(new WheelEvent("wheel", { ...at, deltaY: -100, ctrlKey: true, cancelable: true }));
};
const scroll = (by) => (element) => { element.scrollTop += by; };

const ACTIONS = {
  overview: [["switch the theme", "button[aria-label^='Switch']", (element) => element.click()]],
  run: [
    ["zoom the timeline", ".timeline canvas", zoom],
    ["scroll the timeline", ".timeline-view", scroll(2000)],
    ["filter", "input[aria-label='Filter tests by name']", type("part_0007")],
    ["clear the filter", "input[aria-label='Filter tests by name']", type("")],
    ["sort", "th button", (element) => element.click()],
    ["scroll the table", ".table-wrap.tall", scroll(12000)],
  ],
  workers: [
    ["filter", "input[aria-label='Filter workers']", type("sim00")],
    ["clear the filter", "input[aria-label='Filter workers']", type("")],
    ["sort", "th button", (element) => element.click()],
    ["scroll", ".table-wrap.tall", scroll(9000)],
  ],
};

const drawnBars = () => {
  const label = document.querySelector(".timeline canvas")?.getAttribute("aria-label") ?? "";
  return Number((/[\d,]+/.exec(label)?.[0] ?? "0").replaceAll(",", ""));
};
const IS_THERE = {
  overview: (least) => document.querySelectorAll(".worker-cell").length >= least,
  run: (least) => drawnBars() >= least,
  workers: () => document.querySelectorAll("tbody tr").length > 10,
};

/** Goes to a page; milliseconds from the last byte of its data to the frame that shows them. */
window.painted = async (name, hash, data, least) => {
  performance.clearResourceTimings();
  performance.setResourceTimingBufferSize(5000);
  const left = performance.now();
  location.hash = hash;
  while (!IS_THERE[name](least)) await frame();
  await frame();
  await pause(0);
  const shown = performance.now();
  const told = performance.getEntriesByType("resource").filter((entry) => entry.name.includes(data));
  const ends = told.map((entry) => entry.responseEnd).filter((at) => at < shown);
  return { paint: shown - (ends.length ? Math.max(...ends) : left), all: shown - left };
};

/** Every action of a page three times: [name, milliseconds to the second frame after it, longest task]. */
window.acted = async (name) => {
  const found = [];
  for (const [title, selector, act] of ACTIONS[name]) {
    const times = [];
    let longest = 0;
    for (let round = 0; round < 3; round += 1) {
      window.longest = 0;
      const began = performance.now();
      act(document.querySelector(selector));
      await frame();
      await frame();
      times.push(performance.now() - began);
      await pause(400);
      longest = Math.max(longest, window.longest);
    }
    found.push([title, times.sort((one, other) => one - other)[1], longest]);
  }
  return found;
};
