// Light or dark: the switch's choice where one was made, else the system's. Loaded first, so that no page flashes.
"use strict";
const theme = (() => {
  const KEY = "kdbench-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const listeners = [];

  // A browser may refuse storage to pages from disk; the choice then lasts as long as the page.
  let chosen = null;
  try { chosen = localStorage.getItem(KEY); } catch (error) { console.info("the theme is not remembered:", error.message); }

  const isDark = () => (chosen ? chosen === "dark" : system.matches);

  function apply() {
    const dark = isDark();
    document.documentElement.classList.toggle("dark", dark);
    document.documentElement.style.colorScheme = dark ? "dark" : "light";
    const button = document.getElementById("theme");
    if (button) button.setAttribute("aria-pressed", String(dark));
    for (const listener of listeners) listener(dark);
  }

  function toggle() {
    chosen = isDark() ? "light" : "dark";
    try { localStorage.setItem(KEY, chosen); } catch (error) { console.info("the theme is not remembered:", error.message); }
    apply();
  }

  system.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme").addEventListener("click", toggle);
    apply();
  });
  apply();
  return { isDark, onChange: (listener) => listeners.push(listener) };
})();
