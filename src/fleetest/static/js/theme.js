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
