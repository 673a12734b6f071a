// The live page: what changed is fetched and drawn anew, a moment after the first word of it; new lines of the log are written as text.
"use strict";
(function () {
  const SOON = 60; // milliseconds in which the events of one packet, or of many machines, are gathered
  const MANY = 80; // machines that changed at once: then the whole list is drawn
  const state = document.getElementById("live");
  const log = document.getElementById("log");
  const list = document.getElementById("machines");
  const boots = document.getElementById("boots");
  const own = boots && boots.dataset.macs ? boots.dataset.macs.split(" ") : [];
  let waiting = 0, busy = false;
  const changed = new Set();

  function whole() {
    document.body.dispatchEvent(new CustomEvent("pixieboot"));
  }

  function rowsOf(macs) {
    return Array.from(list.querySelectorAll("tr[data-macs]")).filter(function (row) {
      return row.dataset.macs.split(" ").some(function (mac) { return macs.has(mac); });
    });
  }

  async function draw() {
    waiting = 0;
    const macs = new Set(changed);
    changed.clear();
    if (boots) return own.some(function (mac) { return macs.has(mac); }) ? whole() : undefined;
    if (!list || !macs.size) return;
    const known = new Set(rowsOf(macs).flatMap(function (row) { return row.dataset.macs.split(" "); }));
    const filtered = document.getElementById("find").value !== "";
    const news = Array.from(macs).some(function (mac) { return !known.has(mac); });
    if (macs.size > MANY || (news && !filtered)) return whole();
    busy = true;
    try {
      const answer = await fetch("/ui/rows?macs=" + encodeURIComponent(Array.from(known).join(" ")));
      if (!answer.ok) return;
      const drawn = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const row of drawn.querySelectorAll("tr[id]")) {
        const old = document.getElementById(row.id);
        if (!old) continue;
        const focused = old.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
        old.replaceWith(document.adoptNode(row));
        if (focused) { const link = row.querySelector("a[href]"); if (link) link.focus(); }
      }
    } finally {
      busy = false;
      if (changed.size) soon();
    }
  }

  function soon() {
    if (!waiting && !busy) waiting = setTimeout(draw, SOON);
  }

  function line(event) {
    const row = document.createElement("li");
    row.className = event.level;
    const time = document.createElement("time");
    time.textContent = new Date(event.at * 1000).toTimeString().slice(0, 8);
    const who = document.createElement("b");
    who.textContent = event.mac || "-";
    const words = [event.service, event.kind];
    for (const key of Object.keys(event.detail)) {
      const value = event.detail[key];
      if (value !== null && value !== "") words.push(key + "=" + value);
    }
    row.append(time, " ", who, " ", words.join(" "));
    log.prepend(row);
    while (log.children.length > 500) log.lastElementChild.remove();
  }

  function passed(seconds) {
    const whole = Math.max(0, Math.round(seconds));
    if (whole < 120) return whole + " s";
    return whole < 7200 ? Math.floor(whole / 60) + " min " + (whole % 60) + " s"
      : Math.floor(whole / 3600) + " h " + Math.floor(whole % 3600 / 60) + " min";
  }

  // Time goes by without a word from the server, downloads and boots under way do not.
  setInterval(function () {
    if (document.hidden) return;
    for (const time of document.querySelectorAll("time[data-at]")) {
      time.textContent = passed(Date.now() / 1000 - time.dataset.at) + " ago";
    }
  }, 5000);
  setInterval(function () {
    if (document.hidden) return;
    if (boots && boots.querySelector("progress, .verdict.going")) whole();
    if (!list) return;
    for (const row of list.querySelectorAll("tr.moving")) row.dataset.macs.split(" ").forEach(function (mac) { changed.add(mac); });
    if (changed.size) soon();
  }, 1000);

  // What is drawn anew stays as the reader left it: open, closed, focused.
  let open = null, focused = null;
  document.body.addEventListener("htmx:beforeSwap", function () {
    const active = document.activeElement;
    focused = active && active.id;
    open = new Map(Array.from(document.querySelectorAll("details[id]"), function (each) { return [each.id, each.open]; }));
  });
  document.body.addEventListener("htmx:afterSettle", function () {
    if (!open) return;
    for (const [id, was] of open) { const each = document.getElementById(id); if (each) each.open = was; }
    if (focused && document.activeElement === document.body) { const each = document.getElementById(focused); if (each) each.focus(); }
  });
  // A form that somebody fills in is not drawn over.
  document.body.addEventListener("htmx:beforeRequest", function (event) {
    const active = document.activeElement;
    if (event.detail.requestConfig.verb === "get" && active && active.tagName === "SELECT" && boots && boots.contains(active)) event.preventDefault();
  });

  const source = new EventSource("/api/v1/events");
  let first = true;
  source.onopen = function () {
    state.textContent = "live"; state.classList.add("on");
    if (!first) whole();
    first = false;
  };
  source.onerror = function () { state.textContent = "not live"; state.classList.remove("on"); };
  source.onmessage = function (message) {
    const event = JSON.parse(message.data);
    if (log) line(event);
    if (event.service === "registry" && event.kind === "loaded") { if (list || boots) whole(); return; }
    if (event.mac) { changed.add(event.mac); soon(); }
  };
  window.addEventListener("pagehide", function () { source.close(); });
})();
