// What the other modules share: elements by their ids, what is read aloud, light and dark colours.

const SAID_AFTER = 150; // milliseconds without anything else to say

export const $ = (id) => document.getElementById(id);
export const clamp = (value, least, most) => Math.min(most, Math.max(least, value));

let saying = 0;

export function announce(text) {
  clearTimeout(saying);
  $("announce").textContent = text;
}

export function announceSoon(text) {
  clearTimeout(saying);
  saying = setTimeout(announce, SAID_AFTER, text);
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
