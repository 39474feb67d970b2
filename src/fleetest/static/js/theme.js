// Light or dark: as the system has it, until somebody chooses.

const KEY = "fleetest-theme";

function wanted() {
  try {
    const kept = localStorage.getItem(KEY);
    if (kept === "dark" || kept === "light") return kept;
  } catch {
    // Storage may be forbidden; the system's choice holds then.
  }
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

export function followTheme() {
  const show = () => {
    document.documentElement.dataset.theme = wanted();
  };
  show();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
}

export function switchTheme() {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // It lasts until the page is closed.
  }
}

const painters = new Map();
let watching = null;

/** Calls `paint` when the theme changes, for as long as `element` is a part of the page. */
export function onTheme(element, paint) {
  watching ??= watch();
  // Pages come and go: whoever is no longer shown is forgotten when the next one comes.
  for (const known of painters.keys()) if (known.dataset.painted && !known.isConnected) painters.delete(known);
  painters.set(element, paint);
  requestAnimationFrame(() => { if (element.isConnected) element.dataset.painted = "yes"; });
}

function watch() {
  const observer = new MutationObserver(() => {
    for (const [element, paint] of painters) if (element.isConnected) paint();
  });
  observer.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  return observer;
}
