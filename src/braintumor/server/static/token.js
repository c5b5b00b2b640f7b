// The token that a service may ask for: from the address of the page, or typed; kept in the page only.

import {$} from "./page.js";

export function takeToken(service) {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!found) return;
  service.token = found;
  history.replaceState(null, "", location.pathname + location.search);
}

let asked = null;

export function askToken(service) {
  asked ??= new Promise((resolve) => {
    if (service.token) $("token-text").textContent = "The service did not accept this token.";
    $("token-dialog").showModal();
    $("token-form").onsubmit = (event) => {
      event.preventDefault();
      service.token = $("token").value.trim();
      $("token").value = "";
      asked = null;
      $("token-dialog").close();
      resolve();
    };
  });
  return asked;
}

$("token-dialog").addEventListener("close", () => asked && $("token-dialog").showModal());
