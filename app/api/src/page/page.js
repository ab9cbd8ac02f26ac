"use strict";

const SECONDS_SHOWN = 60;
const EVENTS_SHOWN = 50;
const SILENT_AFTER_MS = 5000;
const AGAIN_AFTER_MS = 2000;
const ANSWER_WITHIN_MS = 15000;

const at = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const count = (n) => (n < 100000 ? whole.format(n) : short.format(n));
const clock = (text) => new Date(text).toLocaleTimeString([], { hourCycle: "h23" });

function write(id, text) {
  const node = at(id);
  if (node.textContent !== text) node.textContent = text;
}

function element(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function duration(ms) {
  if (ms === null) return ["–", ""];
  if (ms >= 1000) return [(ms / 1000).toFixed(1), "s"];
  return [ms >= 10 ? whole.format(ms) : ms.toFixed(ms >= 1 ? 1 : 2), "ms"];
}

function figure(id, value, unit) {
  at(id).replaceChildren(value, ...(unit ? [" ", element("small", {}, unit)] : []));
}

// A line of the last minute, in its own scale; broken where there is nothing to show.
function line(id, values) {
  const top = Math.max(...values.map((value) => value ?? 0), 1e-9);
  const step = 240 / (SECONDS_SHOWN - 1);
  const from = SECONDS_SHOWN - values.length;
  const runs = [];
  let run = null;
  values.forEach((value, n) => {
    if (value === null) {
      run = null;
      return;
    }
    if (!run) runs.push(run = []);
    run.push([((from + n) * step).toFixed(1), (46 - 43 * value / top).toFixed(1)]);
  });
  const [area, stroke] = at(id).children;
  stroke.setAttribute("d", runs.map((points) => `M${points.join("L")}`).join(""));
  area.setAttribute("d", runs.map((points) => `M${points[0][0]},48L${points.join("L")}L${points.at(-1)[0]},48Z`).join(""));
}

function status(state, text) {
  at("status").dataset.state = state;
  write("status", text);
}

const rates = [];
const latencies = [];

function keep(values, value) {
  values.push(value);
  if (values.length > SECONDS_SHOWN) values.shift();
}

function show(live) {
  write("about", `${live.version}, ${live.store} store, up\u00a0${since(live.uptime_s)}`);
  const failed = live.not_ready.map((check) => `${check.field}: ${check.reason}`);
  if (failed.length) status("bad", `not ready, ${failed.join("; ")}`);
  else if (!live.domains) status("bad", "the store does not answer");
  else if (live.behind) status("bad", "the store is behind: events are kept for it");
  else status("good", "serving");

  const rate = live.per_s;
  if (rate) {
    const taken = rate.counted + rate.duplicate + rate.spooled;
    keep(rates, taken);
    figure("rate", count(taken));
    const others = ["duplicate", "spooled", "refused", "failed"].filter((name) => rate[name] >= 0.5);
    write("rate-detail", others.length ? others.map((name) => `${count(rate[name])} ${name}`).join(", ") : `${count(rate.requests)} requests a second`);
    line("rate-line", rates);
    keep(latencies, live.latency_ms ? live.latency_ms.p99 : null);
    const [value, unit] = duration(live.latency_ms ? live.latency_ms.p99 : null);
    figure("latency", value, unit);
    write("latency-detail", live.latency_ms ? `99 of 100 within, half within ${duration(live.latency_ms.p50).join("\u00a0")}` : "no events");
    line("latency-line", latencies);
  }

  const queue = live.queue;
  figure("queue", count(queue.depth), "requests");
  at("queue-bar").style.width = `${queue.capacity ? Math.min(100, 100 * queue.depth / queue.capacity) : 0}%`;
  write("queue-detail", (queue.capacity ? `room for ${count(queue.capacity)}` : "this store writes at once")
    + (live.spooled ? `, ${count(live.spooled)} events wait for the store` : ""));

  if (live.domains) {
    const all = live.domains;
    figure("domains", count(all.total));
    for (const [id, n] of [["catch-all", all.catch_all], ["not-catch-all", all.not_catch_all], ["unknown", all.unknown]]) {
      write(`n-${id}`, count(n));
      at(`part-${id}`).style.width = `${all.total ? 100 * n / all.total : 0}%`;
    }
  }
  changes(live.verdict_changes);
  write("as-of", `as of ${clock(live.as_of)}`);
}

function since(seconds) {
  if (seconds < 60) return `${seconds}\u00a0s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}\u00a0min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)}\u00a0h`;
  return `${Math.floor(seconds / 86400)}\u00a0days`;
}

let newest = "";

function changes(all) {
  const now = JSON.stringify(all[0] ?? "");
  if (!all.length || now === newest) return;
  newest = now;
  at("changes").replaceChildren(...all.map((change) => element("li", {},
    element("span", { class: "what", title: change.domain }, change.domain),
    element("span", { "data-verdict": change.verdict }, change.verdict),
    element("time", { datetime: change.at }, clock(change.at)))));
}

// Follows a stream while the page is shown: a browser has few connections for all its tabs. One that says
// nothing for a while is as good as gone; each sends something every second.
function follow(path, listeners, lost) {
  let source = null;
  let timer = 0;
  const close = () => {
    clearTimeout(timer);
    source?.close();
    source = null;
  };
  const again = (reason) => {
    close();
    lost(reason);
    timer = setTimeout(open, AGAIN_AFTER_MS);
  };
  const wait = () => {
    clearTimeout(timer);
    timer = setTimeout(() => again("the server says nothing, trying again"), SILENT_AFTER_MS);
  };
  function open() {
    close();
    source = new EventSource(path);
    wait();
    for (const [name, listen] of Object.entries(listeners)) {
      source.addEventListener(name, (event) => {
        wait();
        listen(JSON.parse(event.data));
      });
    }
    source.onerror = () => again("no connection, trying again");
  }
  const shown = () => (document.hidden ? close() : open());
  document.addEventListener("visibilitychange", shown);
  shown();
  return () => {
    document.removeEventListener("visibilitychange", shown);
    close();
  };
}

follow("/v1/stats/live", { stats: show }, (reason) => status("bad", reason));

// Look-up and events.

async function ask(path, options) {
  try {
    const answer = await fetch(path, { ...options, signal: AbortSignal.timeout(ANSWER_WITHIN_MS) });
    if (answer.ok) return { value: answer.status === 204 || answer.status === 202 ? answer.status : await answer.json() };
    const problem = await answer.json().catch(() => ({}));
    const reasons = (problem.errors ?? []).map((error) => error.reason).filter(Boolean);
    return { error: reasons.length ? reasons.join("; ") : problem.detail ?? problem.title ?? `The server answers ${answer.status}.` };
  } catch {
    return { error: "The server does not answer." };
  }
}

function why(domain) {
  const { verdict, delivered, bounced } = domain;
  if (verdict === "not catch-all") return `${count(bounced)} bounced, ${count(delivered)} delivered. One bounce is enough: somebody's mail was refused.`;
  if (verdict === "catch-all") return `${count(delivered)} delivered and not one bounce: it accepts anything.`;
  if (delivered === 0) return "No event was ever recorded for it.";
  return `${count(delivered)} delivered and not one bounce, which is too few to tell.`;
}

const domain = at("domain");

function mark(wrong) {
  if (wrong) domain.setAttribute("aria-invalid", "true");
  else domain.removeAttribute("aria-invalid");
}

let asked = 0;

async function lookUp(freshly) {
  const name = domain.value.trim();
  const number = ++asked;
  const found = await ask(`/v1/domains/${encodeURIComponent(name)}`, freshly ? { cache: "no-cache" } : {});
  if (number !== asked) return;
  mark(found.error);
  if (found.error) {
    at("answer").replaceChildren(element("p", { class: "error" }, found.error));
    return;
  }
  const known = found.value;
  const seen = known.first_seen ? `First seen ${new Date(known.first_seen).toLocaleString()}, last ${new Date(known.last_seen).toLocaleString()}.` : "";
  at("answer").replaceChildren(
    element("p", { class: "name" }, known.domain),
    element("p", { class: "verdict", "data-verdict": known.verdict }, known.verdict),
    element("p", {}, why(known)),
    element("p", { class: "detail" }, seen + (known.behind ? " Events wait that this does not show." : "")));
}

at("look-up").addEventListener("submit", (event) => {
  event.preventDefault();
  lookUp(false);
});

let sending = false;

at("try").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (sending || !domain.reportValidity()) return;
  const kind = event.submitter.value;
  const name = domain.value.trim();
  // Under a key: should the browser send it again, it counts once.
  const headers = { "Idempotency-Key": `"${crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`}"` };
  sending = true;
  const sent = await ask(`/v1/events/${encodeURIComponent(name)}/${kind}`, { method: "PUT", headers });
  sending = false;
  at("tried").className = sent.error ? "error" : "";
  write("tried", sent.error ?? (sent.value === 202 ? `One ${kind} for ${name} is durable, and counts once the store is back.` : `One ${kind} for ${name} is counted.`));
  mark(sent.error);
  if (!sent.error) lookUp(true);
});

// The tail.

let stop = null;
let farewell = "";

function told(text) {
  write("tail-detail", text || "\u00a0");
}

function arrived(event) {
  const list = at("tail");
  list.querySelector(".empty")?.remove();
  list.prepend(element("li", {},
    element("span", { class: "what", title: event.domain }, event.domain),
    element("span", { class: event.bounced ? "bounced" : "" }, described(event)),
    element("span", { class: "outcome" }, event.outcome),
    element("time", { datetime: event.at }, clock(event.at))));
  while (list.children.length > EVENTS_SHOWN) list.lastElementChild.remove();
}

function described({ delivered, bounced }) {
  const parts = [];
  if (delivered) parts.push(delivered > 1 ? `${count(delivered)} delivered` : "delivered");
  if (bounced) parts.push(bounced > 1 ? `${count(bounced)} bounced` : "bounced");
  return parts.join(", ");
}

at("tail-switch").addEventListener("click", () => {
  if (stop) {
    stop();
    stop = null;
    told("");
  } else {
    told("waiting for events");
    stop = follow("/v1/events/tail?per_s=10", {
      event: arrived,
      skipped: ({ events }) => told(events ? `${count(events)} more in the last second, not shown` : ""),
      dropped: ({ detail }) => { farewell = detail; },
    }, (reason) => {
      told(farewell || reason);
      farewell = "";
    });
  }
  at("tail-switch").classList.toggle("on", Boolean(stop));
  write("tail-switch", stop ? "Stop" : "Watch");
});
