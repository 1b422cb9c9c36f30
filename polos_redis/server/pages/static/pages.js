// What the pages do beyond HTML: times in the reader's zone, one click is one decision, and staying current.
"use strict";

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
const short = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });
const exact = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short" });

function about(seconds) {
  for (const [size, unit] of [[86400, "day"], [3600, "hour"], [60, "minute"]]) {
    if (seconds >= size) {
      const count = Math.floor(seconds / size);
      return `${count.toLocaleString("en")} ${unit}${count === 1 ? "" : "s"}`;
    }
  }
  return "less than a minute";
}

function until(seconds) {
  if (seconds < 60) return about(seconds);
  const minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60), days = Math.floor(hours / 24);
  const parts = days ? [[days, "d"], [hours % 24, "h"]] : hours ? [[hours, "h"], [minutes % 60, "min"]] : [[minutes, "min"]];
  return parts.filter(([count]) => count).map(([count, unit]) => `${count.toLocaleString("en")} ${unit}`).join(" ");
}

function tellTimes(root) {
  const now = Date.now();
  for (const time of root.querySelectorAll("time[data-told]")) {
    const moment = new Date(time.dateTime);
    const passed = (now - moment) / 1000;
    let text;
    if (time.dataset.told === "left" && passed < 0) text = `in ${until(-passed)}`;
    else if (time.dataset.told === "ago" || time.dataset.told === "left") text = passed < 60 ? "just now" : `${about(passed)} ago`;
    else text = (time.dataset.told === "seconds" ? exact : short).format(moment);
    if (time.textContent !== text) time.textContent = text;
    time.title = exact.format(moment);
  }
}

// --- forms ------------------------------------------------------------------------------

// Times without a zone are typed in the reader's own, unless the form was typed into before.
function useZone(form) {
  const field = form.elements.namedItem("zone");
  if (!field || field.value !== "UTC" || zone === "UTC") return;
  field.value = zone;
  for (const input of form.querySelectorAll("input[type=datetime-local]")) {
    if (!input.value) continue;
    const moment = new Date(`${input.value}Z`);
    const local = new Date(moment.getTime() - moment.getTimezoneOffset() * 60000);
    input.value = local.toISOString().replace(/(:00)?\.000Z$|Z$/, "");
  }
  for (const note of form.querySelectorAll("[data-zone]")) note.textContent = `Time zone: ${zone}`;
}

function sendOnce(event) {
  const form = event.target;
  if (!form.matches("[data-once]")) return;
  if (form.dataset.confirm && !window.confirm(form.dataset.confirm)) {
    event.preventDefault();
    return;
  }
  if (form.dataset.sent) {
    event.preventDefault();
    return;
  }
  form.dataset.sent = "yes";
  form.setAttribute("aria-busy", "true");
  // Only afterwards: a button that is disabled now would not be sent along.
  setTimeout(() => form.querySelectorAll("button").forEach((button) => { button.disabled = true; }));
}

// Back from the next page, the browser shows the form as it was left.
window.addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  for (const form of document.querySelectorAll("form[data-sent]")) window.location.reload();
});

// --- staying current --------------------------------------------------------------------

// Make one element like another and touch nothing that is the same: what is open stays open, focus stays.
function keyOf(node) {
  return node.dataset?.key || node.getAttribute?.("aria-labelledby") || node.id || "";
}

function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh.cloneNode(true));
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.nodeValue = fresh.nodeValue;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value && name !== "autofocus") old.setAttribute(name, value);
  }
  const keyed = new Map([...old.children].filter(keyOf).map((one) => [keyOf(one), one]));
  let at = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const same = keyed.get(keyOf(child));
    if (same && same !== at) old.insertBefore(same, at);
    const mine = same ?? (at && !keyOf(at) && !keyOf(child) ? at : null);
    if (!mine) {
      old.insertBefore(child.cloneNode(true), at);
      continue;
    }
    at = mine.nextSibling;
    morph(mine, child);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function announce(text) {
  const place = document.getElementById("announcer");
  place.textContent = text;
  clearTimeout(announce.timer);
  announce.timer = setTimeout(() => { place.textContent = ""; }, 6000);
}

function told(root) {
  return root.querySelector("[data-announce]")?.textContent.trim().replace(/\s+/g, " ") ?? "";
}

function stayCurrent(part) {
  let busy = false, again = false, stream = null, timer = null, earliest = 0;
  const every = Number(part.dataset.every || 10) * 1000;

  async function look() {
    if (busy) { again = true; return; }
    busy = true;
    clearTimeout(timer);
    timer = null;
    const began = performance.now();
    try {
      const answer = await fetch(window.location.href, { headers: { Accept: "text/html" }, credentials: "same-origin" });
      if (!answer.ok || answer.redirected) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = part.id ? page.getElementById(part.id) : page.querySelector("[data-live]");
      if (fresh) take(fresh);
    } catch {
      // the server is away: the next look will do
    } finally {
      busy = false;
      const now = performance.now();
      earliest = now + Math.max(1000, 10 * (now - began));
      if (again) { again = false; soon(); }
    }
  }

  // After an event. Many make one look, and looking is a tenth of the time: a large page is looked at less often.
  function soon() {
    if (busy) again = true;
    else timer ??= setTimeout(look, Math.max(120, earliest - performance.now()));
  }

  function take(fresh) {
    tellTimes(fresh);
    if (part.dataset.state !== undefined) {  // a form: leave it alone until there is news
      if (part.dataset.state === fresh.dataset.state || part.querySelector("form[data-sent]")) return;
      const form = part.querySelector("form.answer"), open = fresh.querySelector("form.answer");
      if (form && open) {
        if (!part.querySelector(".news")) {
          const note = document.createElement("p");
          note.className = "notice news";
          note.append("There is news on this page. ");
          const link = document.createElement("a");
          link.href = window.location.href;
          link.textContent = "Reload it";
          note.append(link, "; what you have typed is lost then.");
          form.prepend(note);
        }
        announce("There is news on this page.");
        part.dataset.state = fresh.dataset.state;
        return;
      }
      morph(part, fresh);
      announce(part.querySelector(".outcome h2")?.textContent ?? "There is news on this page.");
      return;
    }
    const before = told(part);
    morph(part, fresh);
    const after = told(part);
    const counted = (text) => text.replace(/,.*$/, "");  // not each minute of "the oldest asked ..."
    if (counted(after) !== counted(before)) announce(after);
    follow();
  }

  function follow() {
    const url = part.dataset.events;
    if (!url || stream || part.dataset.over) {
      if (stream && part.dataset.over) { stream.close(); stream = null; }
      return;
    }
    stream = new EventSource(url);
    stream.onmessage = soon;
    stream.onopen = soon;
    stream.onerror = () => { stream?.close(); stream = null; };  // polling goes on, and tries again
  }

  setInterval(() => { if (!document.hidden && !part.dataset.over && performance.now() >= earliest) look(); }, every);
  document.addEventListener("visibilitychange", () => { if (!document.hidden && !part.dataset.over) look(); });
  follow();
}

tellTimes(document);
setInterval(() => tellTimes(document), 20000);
document.addEventListener("submit", sendOnce);
for (const form of document.forms) useZone(form);
for (const part of document.querySelectorAll("[data-live]")) stayCurrent(part);
