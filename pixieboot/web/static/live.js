// The live stream: tells htmx that something changed (at most four times a second), and writes new lines of the log as text.
"use strict";
(function () {
  const state = document.getElementById("live");
  const log = document.getElementById("log");
  const boots = document.getElementById("boots");
  const macs = boots && boots.dataset.macs ? boots.dataset.macs.split(" ") : null;
  let waiting = false;

  function changed() {
    if (waiting) return;
    waiting = true;
    setTimeout(function () {
      waiting = false;
      document.body.dispatchEvent(new CustomEvent("pixieboot"));
    }, 250);
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

  const source = new EventSource("/api/v1/events");
  source.onopen = function () { state.textContent = "live"; state.classList.add("on"); changed(); };
  source.onerror = function () { state.textContent = "not live"; state.classList.remove("on"); };
  source.onmessage = function (message) {
    const event = JSON.parse(message.data);
    if (log) line(event);
    if (!macs || macs.includes(event.mac)) changed();
  };
  window.addEventListener("pagehide", function () { source.close(); });
})();
