// Enhances the pages: shows times in the reader's zone, sends a form only once, and keeps pages up to date.
"use strict";

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
const short = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });
const exact = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short" });

function roughDuration(seconds) {
  for (const [size, unit] of [[86400, "day"], [3600, "hour"], [60, "minute"]]) {
    if (seconds >= size) {
      const count = Math.floor(seconds / size);
      return `${count.toLocaleString("en")} ${unit}${count === 1 ? "" : "s"}`;
    }
  }
  return "less than a minute";
}

function remaining(seconds) {
  if (seconds < 60) return roughDuration(seconds);
  const minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60), days = Math.floor(hours / 24);
  const parts = days ? [[days, "d"], [hours % 24, "h"]] : hours ? [[hours, "h"], [minutes % 60, "min"]] : [[minutes, "min"]];
  return parts.filter(([count]) => count).map(([count, unit]) => `${count.toLocaleString("en")} ${unit}`).join(" ");
}

function showTimes(root) {
  const now = Date.now();
  for (const time of root.querySelectorAll("time[data-style]")) {
    const date = new Date(time.dateTime);
    const age = (now - date) / 1000;
    let text;
    if (time.dataset.style === "left" && age < 0) text = `in ${remaining(-age)}`;
    else if (time.dataset.style === "ago" || time.dataset.style === "left") text = age < 60 ? "just now" : `${roughDuration(age)} ago`;
    else text = (time.dataset.style === "seconds" ? exact : short).format(date);
    if (time.textContent !== text) time.textContent = text;
    time.title = exact.format(date);
  }
}

// --- forms ------------------------------------------------------------------------------

// Interprets times without a zone in the reader's zone, unless the form already has a zone. A time in the hour
// that the end of summer time repeats keeps its zone, as text: the picker can't tell which of the two is meant.
function useZone(form) {
  const field = form.elements.namedItem("zone");
  if (!field || field.value !== "UTC" || zone === "UTC") return;
  field.value = zone;
  for (const input of form.querySelectorAll("input[type=datetime-local]")) {
    if (!input.value) continue;
    const date = new Date(`${input.value}Z`);
    const local = new Date(date.getTime() - date.getTimezoneOffset() * 60000);
    const text = local.toISOString().replace(/(:00)?\.000Z$|Z$/, "");
    if (new Date(text).getTime() === date.getTime()) {
      input.value = text;
    } else {
      const utc = `${input.value}Z`;
      input.type = "text";
      input.value = utc;
    }
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
  // Later, because a button disabled now would not be submitted.
  setTimeout(() => form.querySelectorAll("button").forEach((button) => { button.disabled = true; }));
}

// The Back button restores a form as it was when it was sent.
window.addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  for (const form of document.querySelectorAll("form[data-sent]")) window.location.reload();
});

// --- live updates -----------------------------------------------------------------------

function keyOf(node) {
  return node.dataset?.key || node.getAttribute?.("aria-labelledby") || node.id || "";
}

// Makes one element like another, leaving equal parts alone, so that open details and focus survive.
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
  const announcer = document.getElementById("announcer");
  announcer.textContent = text;
  clearTimeout(announce.timer);
  announce.timer = setTimeout(() => { announcer.textContent = ""; }, 6000);
}

function announcementOf(root) {
  return root.querySelector("[data-announce]")?.textContent.trim().replace(/\s+/g, " ") ?? "";
}

function keepUpToDate(part) {
  let busy = false, pending = false, stream = null, timer = null, earliest = 0;
  const every = Number(part.dataset.every || 10) * 1000;

  async function refresh() {
    if (busy) { pending = true; return; }
    busy = true;
    clearTimeout(timer);
    timer = null;
    const start = performance.now();
    try {
      const answer = await fetch(window.location.href, { headers: { Accept: "text/html" }, credentials: "same-origin" });
      if (!answer.ok || answer.redirected) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = part.id ? page.getElementById(part.id) : page.querySelector("[data-live]");
      if (fresh) update(fresh);
    } catch {
      // the server is unreachable: the next refresh tries again
    } finally {
      busy = false;
      const now = performance.now();
      earliest = now + Math.max(1000, 10 * (now - start));
      if (pending) { pending = false; refreshSoon(); }
    }
  }

  // Refreshes after an event. Merges events, and spends at most a tenth of the time refreshing.
  function refreshSoon() {
    if (busy) pending = true;
    else timer ??= setTimeout(refresh, Math.max(120, earliest - performance.now()));
  }

  function update(fresh) {
    showTimes(fresh);
    if (part.dataset.state !== undefined) {  // a form: leave it alone until something has changed
      if (part.dataset.state === fresh.dataset.state || part.querySelector("form[data-sent]")) return;
      const form = part.querySelector("form.answer"), open = fresh.querySelector("form.answer");
      if (form && open) {
        if (!part.querySelector(".changed")) {
          const note = document.createElement("p");
          note.className = "notice changed";
          note.append("This page has changed. ");
          const link = document.createElement("a");
          link.href = window.location.href;
          link.textContent = "Reload";
          note.append(link, " to see the changes; what you have typed will be lost.");
          form.prepend(note);
        }
        announce("This page has changed.");
        part.dataset.state = fresh.dataset.state;
        return;
      }
      morph(part, fresh);
      announce(part.querySelector(".outcome h2")?.textContent ?? "This page has changed.");
      return;
    }
    const before = announcementOf(part);
    morph(part, fresh);
    const after = announcementOf(part);
    const counted = (text) => text.replace(/,.*$/, "");  // ignore the age in "the oldest requested ..."
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
    stream.onmessage = refreshSoon;
    stream.onopen = refreshSoon;
    stream.onerror = () => { stream?.close(); stream = null; };  // polling continues and reconnects
  }

  setInterval(() => { if (!document.hidden && !part.dataset.over && performance.now() >= earliest) refresh(); }, every);
  document.addEventListener("visibilitychange", () => { if (!document.hidden && !part.dataset.over) refresh(); });
  follow();
}

showTimes(document);
setInterval(() => showTimes(document), 20000);
document.addEventListener("submit", sendOnce);
for (const form of document.forms) useZone(form);
for (const part of document.querySelectorAll("[data-live]")) keepUpToDate(part);
