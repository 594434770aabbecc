// The viewer's page. One WebSocket carries everything: pictures come in as binary messages, news as JSON; events and
// prompts go out as JSON. The page confirms each picture it has drawn, and the server sends no more than two ahead of
// that: a slow page sees fewer frames, never old ones.
"use strict";

const $ = (id) => document.getElementById(id);
const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};
const MOST_RECEIPTS = 60;

// ---- the connection ------------------------------------------------------------------------------------------------

let socket = null;
let retryMs = 250;

function connect() {
  const address = new URL("live", location.href);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { retryMs = 250; };
  socket.onmessage = ({ data }) => {
    if (typeof data === "string") hear(JSON.parse(data));
    else receivePicture(data);
  };
  socket.onclose = () => {
    showStatus({ state: "disconnected", reason: "The viewer does not answer. Trying again by itself." });
    receipts.loseOpen();
    setTimeout(connect, retryMs);
    retryMs = Math.min(retryMs * 2, 4000);
  };
}

function send(message) {
  if (socket.readyState !== WebSocket.OPEN) return false;
  socket.send(JSON.stringify(message));
  return true;
}

function hear(message) {
  switch (message.type) {
    case "world": showWorld(message); break;
    case "status": showStatus(message); break;
    case "receipt": receipts.update(message); break;
    case "input": receipts.addForeign(message); break;
  }
}

// ---- the picture ---------------------------------------------------------------------------------------------------

const canvas = $("picture");
const pen = canvas.getContext("2d", { alpha: false });
const glowPen = $("glow").getContext("2d", { alpha: false });
const few = Object.assign(make("canvas"), { width: 8, height: 5 });   // the picture's colours, before they are spread
const fewPen = few.getContext("2d", { alpha: false });
glowPen.imageSmoothingQuality = fewPen.imageSmoothingQuality = "high";
const drawnAt = [];                // times of the last frames drawn, ms
let waiting = null;                // {header, bitmap}: decoded, to be drawn at the next repaint
let newestDecoded = 0;             // frame number
let glowAt = 0;
let sharp = localStorage.getItem("everscene.sharp") !== "no";

// [u32 little-endian: length of header][header: JSON][JPEG]
async function receivePicture(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const file = new Blob([new Uint8Array(buffer, 4 + length)], { type: "image/jpeg" });
  const bitmap = await createImageBitmap(file);
  if (header.serial < newestDecoded) {
    bitmap.close();
    send({ type: "shown", serial: header.serial, drawn: false });
    return;
  }
  newestDecoded = header.serial;
  const scheduled = waiting !== null;
  if (scheduled) {
    send({ type: "shown", serial: waiting.header.serial, drawn: false });
    waiting.bitmap.close();
  }
  waiting = { header, bitmap };
  if (!scheduled) requestAnimationFrame(draw);
}

function draw(now) {
  const { header, bitmap } = waiting;
  waiting = null;
  fitCanvas(bitmap.width, bitmap.height);
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  if (now - glowAt > 250) {
    fewPen.drawImage(bitmap, 0, 0, few.width, few.height);
    glowPen.drawImage(few, 0, 0, 64, 36);
    glowAt = now;
  }
  bitmap.close();
  send({ type: "shown", serial: header.serial, drawn: true });
  canvas.dataset.frame = header.frame;
  showPrompt(header.prompt);
  receipts.reached(header.order, header.frame);
  drawnAt.push(now);
}

// Sharp: the canvas is a whole multiple of the frame, so all pixels are squares of one size, and the browser only
// scales down. Smooth: the canvas has the size that is shown (up to 4 times the frame's), interpolated bicubically.
function fitCanvas(width, height) {
  const shown = canvas.clientWidth * devicePixelRatio / width;
  const times = sharp ? Math.min(Math.max(1, Math.ceil(shown)), 8) : Math.min(Math.max(1, shown), 4);
  const [fitWidth, fitHeight] = [Math.round(width * times), Math.round(height * times)];
  if (canvas.width !== fitWidth || canvas.height !== fitHeight) {
    canvas.width = fitWidth;
    canvas.height = fitHeight;
  }
  pen.imageSmoothingEnabled = !sharp;
  pen.imageSmoothingQuality = "high";
}

function setSharp(on) {
  sharp = on;
  localStorage.setItem("everscene.sharp", on ? "yes" : "no");
  $("sharp").setAttribute("aria-pressed", String(on));
}

function showPrompt(text) {
  const caption = $("prompt-now").firstChild;
  if (caption.textContent === text) return;
  const first = caption.textContent === "";
  caption.textContent = text;
  caption.title = text;
  if (!first) caption.animate([{ color: "#e9b872" }, {}], { duration: 1600, easing: "ease-out" });
}

// ---- the stream's state and figures --------------------------------------------------------------------------------

const STATE_TEXT = {
  connecting: "connecting", starting: "starting", live: "live", slow: "slow", stalled: "held",
  restarting: "restarting", paused: "paused", closing: "closing", disconnected: "disconnected",
};
const NEEDS_A_WORD = new Set(["starting", "stalled", "restarting", "paused", "closing", "disconnected"]);

function showStatus({ state, reason, fps, latency_ms: latency, seen_ms: seen, stages_ms: stages }) {
  document.body.dataset.state = state;
  $("state-text").textContent = STATE_TEXT[state] ?? state;
  $("state").title = reason || "";
  $("veil").hidden = !NEEDS_A_WORD.has(state);
  $("veil").textContent = reason || STATE_TEXT[state] || state;
  $("time").querySelector("button").textContent = state === "paused" ? "Resume" : "Pause";
  if (state === "slow" && fps) $("state-text").textContent = `slow, ${fps.toFixed(1)} a second`;
  if (latency && latency.n > 0) {
    $("p50").textContent = milliseconds(latency.p50);
    $("p95").textContent = milliseconds(latency.p95);
  }
  if (stages && $("times").open) showTimes({ "event to frame": latency, "event to seen": seen, ...stages });
}

function showTimes(times) {
  const rows = Object.entries(times).filter(([, time]) => time.n > 0).map(([name, time]) => {
    const row = make("tr");
    const head = make("th", "", name);
    head.scope = "row";
    row.append(head, ...[time.p50, time.p95, time.max].map((value) => make("td", "", value.toFixed(1))));
    return row;
  });
  $("times").querySelector("tbody").replaceChildren(...rows);
}

function showFps() {
  const now = performance.now();
  while (drawnAt.length && drawnAt[0] < now - 2000) drawnAt.shift();
  const span = drawnAt.length > 1 ? drawnAt.at(-1) - drawnAt[0] : 0;
  $("fps").textContent = span > 0 ? (1000 * (drawnAt.length - 1) / span).toFixed(1) : "0";
}

const milliseconds = (value) => value < 10000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`;

// ---- the world: model, scene, buttons ------------------------------------------------------------------------------

const shortcuts = new Map();       // key → the button it presses
let sceneShown = "";

function showWorld({ model, width, height, fps, steps, device, scene, prompt }) {
  $("model").textContent = `${model} · ${width} × ${height} · ${fps} fps · ${steps} steps · ${device}`;
  document.documentElement.style.setProperty("--ratio", `${width} / ${height}`);
  document.documentElement.style.setProperty("--wide", width / height);
  newestDecoded = 0;
  receipts.foreign.clear();
  if (prompt && $("prompt-now").textContent === "") showPrompt(prompt);
  const described = JSON.stringify(scene);
  if (described !== sceneShown) showScene(scene);
  sceneShown = described;
}

function showScene(scene) {
  shortcuts.clear();
  $("events").replaceChildren();
  const groups = Map.groupBy ? Map.groupBy(scene.events, (event) => event.group) : groupByHand(scene.events);
  $("events-title").classList.toggle("unseen", groups.size > 1);
  for (const [name, events] of groups) {
    const row = make("div", "group");
    row.setAttribute("role", "group");
    if (groups.size > 1) {
      row.setAttribute("aria-label", name);
      row.append(make("h3", "", name));
    }
    const cells = make("div", "cells");
    cells.style.setProperty("--columns", events.length === 2 || events.length === 4 ? 2 : 3);
    for (const event of events) cells.append(eventCell(event));
    row.append(cells);
    $("events").append(row);
  }
}

function groupByHand(events) {
  const groups = new Map();
  for (const event of events) groups.set(event.group, [...(groups.get(event.group) ?? []), event]);
  return groups;
}

function eventCell(event) {
  const cell = make("div", "event");
  const button = make("button");
  button.type = "button";
  button.dataset.event = event.name;
  button.append(make("span", "", event.label));
  const key = freeKey(event.name);
  if (key) {
    shortcuts.set(key, button);
    button.setAttribute("aria-keyshortcuts", key);
    const hint = make("kbd", "", key);
    hint.setAttribute("aria-hidden", "true");
    button.append(hint);
  }
  cell.append(button);
  const inputs = event.params.map((param) => paramInput(event, param));
  for (const input of inputs) cell.append(input.element);
  button.addEventListener("click", () => {
    const params = Object.fromEntries(inputs.map((input) => [input.name, input.value()]));
    receipts.send({ type: "event", name: event.name, params }, event.label, shortParams(params), cell);
  });
  return cell;
}

// The first letter of the name that is still free, else a digit.
function freeKey(name) {
  return [...name.toLowerCase(), ..."123456789"].find((key) => /^[a-z1-9]$/.test(key) && !shortcuts.has(key));
}

function paramInput(event, param) {
  const label = `${event.label}: ${param.label || param.name}`;
  let element;
  let value = () => element.value;
  if (param.type === "number") {
    element = make("input");
    element.type = "range";
    element.min = param.min;
    element.max = param.max;
    element.step = (param.max - param.min) / 100;
    element.value = param.default;
    value = () => Number(element.value);
    const paint = () => {
      const share = (value() - param.min) / (param.max - param.min);
      element.style.setProperty("--at", `${100 * share}%`);
      element.title = `${param.label || param.name} ${shorten(value())}`;
    };
    element.addEventListener("input", paint);
    paint();
  } else if (param.type === "choice") {
    element = make("select");
    for (const choice of param.choices) element.append(new Option(choice, choice, false, choice === param.default));
  } else if (param.type === "flag") {
    element = make("input");
    element.type = "checkbox";
    element.checked = param.default;
    value = () => element.checked;
  } else {
    element = make("input");
    element.type = "text";
    element.maxLength = param.max_length;
    element.value = param.default;
  }
  element.setAttribute("aria-label", label);
  return { name: param.name, element, value };
}

const shorten = (value) => typeof value === "number" ? String(Number(value.toFixed(2))) : String(value);
const shortParams = (params) => Object.values(params ?? {}).map(shorten).join(", ");
const shortSlots = (slots) => Object.entries(slots ?? {}).map(([name, words]) => `${name}: ${words}`).join(", ");

// ---- receipts ------------------------------------------------------------------------------------------------------

const receipts = {
  list: $("receipts"),
  open: new Map(),                 // id → {row, cell, mine}
  foreign: new Map(),              // order → row: other clients' inputs that were not seen in a frame
  nextId: 1,

  addRow(what, detail) {
    const row = make("li");
    const name = make("span", "what", what);
    if (detail) name.append(" ", make("em", "", detail));
    row.append(name, make("span", "became", "sent"));
    this.list.prepend(row);
    while (this.list.children.length > MOST_RECEIPTS) this.list.lastChild.remove();
    return row;
  },

  send(message, what, detail, cell) {
    const id = this.nextId++;
    const row = this.addRow(what, detail);
    row.dataset.id = id;
    if (!send({ ...message, id })) {
      this.finish(row, "lost", "not sent", "The viewer does not answer at the moment.");
      return;
    }
    this.open.set(id, { row, cell, mine: message });
    cell?.classList.remove("refused");
    cell?.classList.add("sent");
  },

  update({ id, state, frame, latency_ms: latency, reason }) {
    const entry = this.open.get(id);
    if (!entry) return;
    const { row, cell, mine } = entry;
    if (state === "accepted") {
      row.lastChild.textContent = "accepted";
      if (mine.type === "prompt") acceptPrompt(mine.text);
      return;
    }
    this.open.delete(id);
    cell?.classList.remove("sent");
    cell?.classList.toggle("refused", state === "rejected");
    if (state === "applied") this.finish(row, "applied", milliseconds(latency), "", `first frame ${frame}`);
    else if (state === "done") this.finish(row, "applied", "done", "");
    else if (state === "rejected") this.finish(row, "rejected", "rejected", mine.type === "prompt" ? "" : reason, reason);
    else this.finish(row, state, state === "lost" ? "no receipt" : state, reason);
    if (state === "rejected" && mine.type === "prompt") refusePrompt(mine.text, reason);
  },

  finish(row, state, became, why, title = "") {
    row.className = state;
    row.children[1].textContent = became;
    row.title = title;
    if (why) row.append(make("span", "why", why));
  },

  // Of what others sent the page knows that it was accepted, and of the latest input under a frame that it was applied.
  addForeign({ client, event, params, prompt, slots, order }) {
    const row = this.addRow(`${client}: ${event ?? prompt ?? shortSlots(slots)}`, shortParams(params));
    row.lastChild.textContent = "accepted";
    this.foreign.set(order, row);
    if (this.foreign.size > MOST_RECEIPTS) this.foreign.delete(this.foreign.keys().next().value);
  },

  reached(order, frame) {
    const row = this.foreign.get(order);
    if (row) this.finish(row, "applied", `frame ${frame}`, "", "first frame under it that was drawn here");
    this.foreign.delete(order);
  },

  loseOpen() {
    for (const { row, cell } of this.open.values()) {
      cell?.classList.remove("sent");
      this.finish(row, "lost", "no receipt", "The connection went before it came.");
    }
    this.open.clear();
  },
};

// ---- the prompt box ------------------------------------------------------------------------------------------------

const box = $("prompt");

function acceptPrompt(text) {
  if (box.value.trim() === text) box.value = "";
}

function refusePrompt(text, reason) {
  if (box.value.trim() === "") box.value = text;   // so that it can be put right
  box.setAttribute("aria-invalid", "true");
  $("refusal").textContent = reason;
  $("refusal").hidden = false;
}

function forgetRefusal() {
  box.removeAttribute("aria-invalid");
  $("refusal").hidden = true;
}

$("prompt-form").addEventListener("submit", (submit) => {
  submit.preventDefault();
  const text = box.value.trim();
  if (text) receipts.send({ type: "prompt", text }, text, "", null);
});
box.addEventListener("input", forgetRefusal);

// ---- the world as a whole: pause, back, keep, recall ------------------------------------------------------------

const KEPT = "viewer";             // name of the one snapshot that the page keeps
const COMMANDS = {
  pause: () => document.body.dataset.state === "paused" ? ["resume", {}] : ["pause", {}],
  rewind: () => ["rewind", { seconds: 5 }],
  snapshot: () => ["snapshot", { name: KEPT }],
  restore: () => ["restore", { name: KEPT }],
};

for (const button of $("time").querySelectorAll("button")) {
  button.addEventListener("click", () => {
    const [name, args] = COMMANDS[button.dataset.command]();
    receipts.send({ type: "command", name, args }, button.textContent, "", button.parentElement);
  });
}

// ---- keys and tools ------------------------------------------------------------------------------------------------

document.addEventListener("keydown", (press) => {
  const typing = press.target.matches('input:not([type="range"], [type="checkbox"]), select, textarea');
  if (press.key === "Escape" && typing) press.target.blur();
  if (typing || press.ctrlKey || press.metaKey || press.altKey || press.repeat) return;
  if (press.key === "/") {
    press.preventDefault();
    box.focus();
  } else if (shortcuts.has(press.key)) {
    shortcuts.get(press.key).click();
  }
});

$("sharp").addEventListener("click", () => setSharp(!sharp));
function toggleFullscreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else $("frame").requestFullscreen();
}
$("wide").addEventListener("click", toggleFullscreen);
canvas.addEventListener("dblclick", toggleFullscreen);

setSharp(sharp);
setInterval(showFps, 500);
connect();
