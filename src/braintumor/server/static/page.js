// Shared by the other modules: elements by id, announcements for screen readers, light and dark colours.

const QUIET_BEFORE = 150; // milliseconds without another announcement: someone who leafs through slices hears the last

export const $ = (id) => document.getElementById(id);
export const clamp = (value, least, most) => Math.min(most, Math.max(least, value));

let timer = 0;

export function announce(text) {
  clearTimeout(timer);
  $("announce").textContent = text;
}

export function announceSoon(text) {
  clearTimeout(timer);
  timer = setTimeout(announce, QUIET_BEFORE, text);
}

export function switchTheme() {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
}

const darkScheme = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : darkScheme.matches);

function nameTheme() {
  $("theme").textContent = isDark() ? "Light" : "Dark";
  $("theme").setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
}

darkScheme.addEventListener("change", nameTheme);
nameTheme();
