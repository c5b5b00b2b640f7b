// The token that a service may require: from the address of the page or typed in, kept in this page only.

import {$} from "./page.js";

export function takeToken(service) {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  service.token = token;
  // out of the address, which ends up in the history, in bookmarks and on shared screens; a fragment is never sent
  history.replaceState(null, "", location.pathname + location.search);
}

let dialogClosed = null; // a promise while the dialog is open: requests that need the token meanwhile wait for the same

export function askToken(service) {
  dialogClosed ??= new Promise((resolve) => {
    if (service.token) $("token-text").textContent = "The service did not accept this token.";
    $("token-dialog").showModal();
    $("token-form").onsubmit = (event) => {
      event.preventDefault();
      service.token = $("token").value.trim();
      $("token").value = "";
      dialogClosed = null;
      $("token-dialog").close();
      resolve();
    };
  });
  return dialogClosed;
}

// Escape would leave these requests waiting for ever
$("token-dialog").addEventListener("close", () => dialogClosed && $("token-dialog").showModal());
