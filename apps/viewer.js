// The pictures of the Compare tab. The server streams frames, one column at a time; the page keeps them, so that the step
// scrubber, the A/B slider, difference maps and pinned samples answer at once and cost the server nothing.
(() => {
  "use strict";
  const GAP = 2, PICTURE = 640, PATHS = 80, MOST_PINS = 12, UNIT = 4096, EDGE = 9;
  const W = { columns: [], mode: "target", align: "step", pos: 1, follow: true, chosen: null, field: false, reference: 0, pins: [], tool: null, over: null };
  const minus = (x, digits = 2) => x.toFixed(digits).replace("-", "\u2212");
  const time = (ms) => (ms >= 100 ? ms.toFixed(0) : String(Number(ms.toPrecision(ms < 0.1 ? 2 : 3))));
  const make = (tag, classes = "", text = "") => Object.assign(document.createElement(tag), { className: classes, textContent: text });
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

  // ---- columns -----------------------------------------------------------------------------------------------------

  function mount(k, element, props, watch, trigger) {
    const find = (name) => element.querySelector(name);
    const column = { k, element, trigger, canvas: find("canvas"), bar: find(".bar i"), where: find(".where"), ran: find(".ran"), blank: find(".empty"),
      said: null, run: null, frames: [], density: null };
    W.columns[k] = column;
    column.canvas.addEventListener("click", (event) => {
      const box = column.canvas.getBoundingClientRect();
      const j = sampleAt(column, ((event.clientX - box.left) / box.width) * column.canvas.width, ((event.clientY - box.top) / box.height) * column.canvas.height);
      if (j !== null) choose(column, j, true);
    });
    column.canvas.addEventListener("keydown", (event) => {
      const wide = column.said?.points ? 1 : layout(column.said).columns;
      const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -wide, ArrowDown: wide }[event.key];
      if (move && column.said) {
        const j = (W.chosen ?? 0) + (W.chosen === null ? 0 : move);
        choose(column, Math.max(0, Math.min(column.said.n - 1, j)), false);
      } else if (event.key === "Enter" && column.said) choose(column, W.chosen ?? 0, true);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    new ResizeObserver(refresh).observe(element); // columns come and go
    watch("value", () => take(column, props.value));
    take(column, props.value);
  }

  function take(column, message) {
    if (!message) return;
    if (message.stale) column.over = column.run; // what is still on its way from a run that has been stopped comes too late
    else if (message.run !== undefined && message.run === column.over) return;
    if (message.begin && message.run !== column.run) {
      column.run = message.run;
      column.said = message.begin;
      column.frames = [];
      column.density = null;
      if (message.begin.density) {
        column.density = new Image();
        column.density.onload = () => draw(column);
        column.density.src = message.begin.density;
      }
      if (W.chosen !== null && W.chosen >= message.begin.n) W.chosen = null;
    }
    const known = new Set(column.frames.map((frame) => frame.k));
    for (const frame of message.run === column.run ? message.frames || [] : []) {
      if (known.has(frame.k)) continue;
      known.add(frame.k);
      const convert = column.said.points ? (text) => new Int16Array(bytes(text).buffer) : bytes;
      column.frames.push({ ...frame, x: convert(frame.x), target: convert(frame.target), field: frame.field && convert(frame.field) });
    }
    column.frames.sort((a, b) => a.k - b.k);
    column.canvas.classList.toggle("stale", Boolean(message.stale)); // not the element: Gradio sets its classes
    column.blank.textContent = message.blank || "";
    column.canvas.hidden = !column.frames.length;
    column.blank.hidden = Boolean(column.frames.length);
    column.note = message.note || "";
    refresh();
  }

  const last = (column) => column.frames[column.frames.length - 1];

  function frameOf(column) {
    if (!column.frames.length) return null;
    if (W.follow || W.pos >= 1) return last(column);
    if (W.align === "step") {
      const wanted = Math.round(W.pos * column.said.steps);
      return column.frames.findLast((frame) => frame.k <= wanted) || column.frames[0];
    }
    const snr = -EDGE + 2 * EDGE * W.pos;
    return column.frames.findLast((frame) => Math.max(-EDGE, frame.snr) <= snr) || column.frames[0];
  }

  function layout(said) {
    const columns = Math.ceil(Math.sqrt(said.n)), [, height, width] = said.shape;
    const scale = Math.max(1, Math.floor((Math.floor(PICTURE / columns) - GAP) / width));
    return { columns, rows: Math.ceil(said.n / columns), scale, width: scale * width, height: scale * height };
  }

  function sampleAt(column, x, y) {
    if (!column.said || !column.frames.length) return null;
    if (!column.said.points) {
      const place = layout(column.said);
      const across = Math.floor(x / (place.width + GAP)), down = Math.floor(y / (place.height + GAP)), j = down * place.columns + across;
      return across < place.columns && j < column.said.n ? j : null;
    }
    const shown = frameOf(column).target;
    let best = null, least = Infinity;
    for (let j = 0; j < column.said.n; j++) {
      const away = Math.hypot(across(column, shown[2 * j]) - x, down(column, shown[2 * j + 1]) - y);
      if (away < least) [best, least] = [j, away];
    }
    return best;
  }

  const across = (column, value) => ((value / UNIT / column.said.extent + 1) / 2) * PICTURE;
  const down = (column, value) => ((1 - value / UNIT / column.said.extent) / 2) * PICTURE;

  // ---- drawing -----------------------------------------------------------------------------------------------------

  function draw(column) {
    const frame = frameOf(column);
    if (!frame) return;
    const other = W.columns[W.reference], against = other && other !== column && other.said && visible(other) && same(other.said, column.said) ? frameOf(other) : null;
    const difference = W.mode === "difference" && against;
    if (column.said.points) drawPoints(column, frame, difference ? against : null);
    else drawImages(column, frame, difference ? against : null);
    const done = frame.k >= column.said.steps, told = `${frame.nfe} evaluation${frame.nfe === 1 ? "" : "s"}`;
    column.bar.style.width = `${(100 * last(column).k) / column.said.steps}%`;
    column.bar.style.background = column.said.color;
    const cost = `${time((1000 * frame.seconds) / column.said.n)} ms a sample`;
    const compared = difference ? ` \u00b7 minus ${other.said.label}${column.said.points ? "" : ": orange brighter, blue darker"}` : W.mode === "difference" && column === other ? " \u00b7 the reference" : "";
    column.where.textContent = (done ? `done \u00b7 ${told} \u00b7 ${cost}` : `step ${frame.k} of ${column.said.steps} \u00b7 t = ${minus(frame.t)} \u00b7 ${told}`) + compared;
    column.ran.textContent = column.note ? `${column.note} ` : "";
    const chip = make("span", "chip");
    chip.style.background = column.said.color;
    column.ran.append(chip, column.said.says);
    column.canvas.setAttribute("aria-label", `${column.said.label}, ${column.said.n} samples, ${column.where.textContent}`);
  }

  const same = (a, b) => a.n === b.n && a.points === b.points && String(a.shape) === String(b.shape);

  function drawImages(column, frame, against, canvas = column.canvas) {
    const { said } = column, place = layout(said), [channels, height, width] = said.shape;
    const ink = canvas.getContext("2d"), pixels = pictureOf(frame), minusOf = against && pictureOf(against);
    resize(canvas, place.columns * (place.width + GAP), place.rows * (place.height + GAP));
    ink.imageSmoothingEnabled = false;
    ink.clearRect(0, 0, canvas.width, canvas.height);
    column.sheet ??= document.createElement("canvas");
    resize(column.sheet, width, height * said.n);
    const made = new ImageData(width, height * said.n), count = width * height * said.n;
    for (let p = 0, q = 0; p < count; p++, q += 4) {
      const from = p * channels;
      if (minusOf) {
        let sum = 0;
        for (let c = 0; c < channels; c++) sum += pixels[from + c] - minusOf[from + c];
        const gap = sum / channels / 255; // orange: brighter than the reference; blue: darker
        [made.data[q], made.data[q + 1], made.data[q + 2]] = gap > 0 ? [213, 94, 0] : [47, 127, 193];
        made.data[q + 3] = 255 * Math.min(1, Math.sqrt(Math.abs(gap)) * 1.1);
      } else {
        made.data[q] = pixels[from];
        made.data[q + 1] = pixels[from + (channels > 1 ? 1 : 0)];
        made.data[q + 2] = pixels[from + (channels > 1 ? 2 : 0)];
        made.data[q + 3] = 255;
      }
    }
    column.sheet.getContext("2d").putImageData(made, 0, 0);
    for (let j = 0; j < said.n; j++) {
      const [left, top] = corner(place, j);
      ink.drawImage(column.sheet, 0, j * height, width, height, left, top, place.width, place.height);
    }
    if (W.chosen !== null && W.chosen < said.n) {
      const [left, top] = corner(place, W.chosen);
      ink.lineWidth = 4;
      ink.strokeStyle = "#ffb000";
      ink.strokeRect(left + 2, top + 2, place.width - 4, place.height - 4);
    }
  }

  const pictureOf = (frame) => (W.mode === "state" ? frame.x : frame.target);
  const corner = (place, j) => [(j % place.columns) * (place.width + GAP), Math.floor(j / place.columns) * (place.height + GAP)];

  function resize(canvas, width, height) {
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  }

  function drawPoints(column, frame, against, canvas = column.canvas, only = null) {
    const { said } = column, ink = canvas.getContext("2d"), radius = only !== null ? 20 : said.n > 800 ? 2.4 : 3.4; // a pin is small
    resize(canvas, PICTURE, PICTURE);
    ink.clearRect(0, 0, PICTURE, PICTURE);
    if (column.density?.complete) ink.drawImage(column.density, 0, 0, PICTURE, PICTURE);
    const dot = (values, j, size) => {
      ink.beginPath();
      ink.arc(across(column, values[2 * j]), down(column, values[2 * j + 1]), size, 0, 2 * Math.PI);
      ink.fill();
    };
    const trail = (j) => {
      ink.beginPath();
      for (const passed of column.frames) {
        if (passed.k > frame.k) break;
        ink.lineTo(across(column, passed.x[2 * j]), down(column, passed.x[2 * j + 1]));
      }
      ink.stroke();
    };
    if (W.field && frame.field && only === null) drawField(ink, column, frame.field);
    ink.strokeStyle = said.color;
    ink.lineWidth = 1;
    ink.globalAlpha = 0.3;
    if (only === null && !against) for (let j = 0; j < Math.min(PATHS, said.n); j++) trail(j);
    if (against) {
      ink.globalAlpha = 0.55;
      for (let j = 0; j < said.n; j++) {
        ink.beginPath();
        ink.moveTo(across(column, against.target[2 * j]), down(column, against.target[2 * j + 1]));
        ink.lineTo(across(column, frame.target[2 * j]), down(column, frame.target[2 * j + 1]));
        ink.stroke();
      }
    }
    const shown = only === null ? [...Array(said.n).keys()] : [only];
    if (W.mode !== "target" || frame.k < said.steps) {
      ink.globalAlpha = 0.6;
      ink.fillStyle = "#7d8794";
      for (const j of shown) dot(against ? against.target : frame.x, j, radius * 0.8);
    }
    ink.globalAlpha = 0.9;
    ink.fillStyle = said.color;
    if (W.mode !== "state" || frame.k >= said.steps) for (const j of shown) dot(frame.target, j, radius);
    const chosen = only ?? W.chosen;
    ink.globalAlpha = 1;
    if (chosen !== null && chosen < said.n) {
      ink.lineWidth = only === null ? 3 : 12;
      ink.strokeStyle = ink.fillStyle = "#ffb000";
      trail(chosen);
      dot(W.mode === "state" ? frame.x : frame.target, chosen, radius + 3);
    }
  }

  function drawField(ink, column, ends) {
    ink.strokeStyle = "#7d8794";
    ink.globalAlpha = 0.85;
    ink.lineWidth = 1.6;
    for (let a = 0; a < ends.length; a += 4) {
      const [x0, y0, x1, y1] = [across(column, ends[a]), down(column, ends[a + 1]), across(column, ends[a + 2]), down(column, ends[a + 3])];
      const turn = Math.atan2(y1 - y0, x1 - x0), head = 7;
      ink.beginPath();
      ink.moveTo(x0, y0);
      ink.lineTo(x1, y1);
      for (const side of [-0.45, 0.45]) {
        ink.moveTo(x1, y1);
        ink.lineTo(x1 - head * Math.cos(turn + side), y1 - head * Math.sin(turn + side));
      }
      ink.stroke();
    }
  }

  // ---- scrubber, A/B, pins -----------------------------------------------------------------------------------------

  function mountTool(element) {
    const find = (name) => element.querySelector(name);
    const tool = (W.tool = { element, range: find("input[type=range]"), told: find("output"), align: find("select.align"), reference: find("select.reference"), play: find("button.play") });
    for (const button of element.querySelectorAll("button[data-mode]")) button.addEventListener("click", () => setMode(button.dataset.mode));
    tool.field = find("input.field");
    tool.field.addEventListener("change", () => { W.field = tool.field.checked; refresh(); });
    tool.range.addEventListener("input", () => scrub(tool.range.value / 1000));
    tool.align.addEventListener("change", () => { W.align = tool.align.value; refresh(); });
    tool.reference.addEventListener("change", () => { tool.reference.dataset.touched = "1"; W.reference = Number(tool.reference.value); refresh(); });
    tool.play.addEventListener("click", play);
    setMode(W.mode);
  }

  function setMode(mode) {
    W.mode = mode;
    for (const button of W.tool.element.querySelectorAll("button[data-mode]")) button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
    W.tool.element.classList.toggle("differing", mode === "difference");
    refresh();
  }

  function scrub(pos) {
    W.pos = Math.max(0, Math.min(1, pos));
    W.follow = W.pos >= 1;
    refresh();
  }

  const longest = () => Math.max(1, ...W.columns.filter((c) => c?.said && visible(c)).map((c) => c.said.steps));
  const visible = (column) => column.element.offsetParent !== null;
  const nudge = (steps) => scrub(Math.round(W.pos * longest() + steps) / longest());

  let playing = null;
  function play() {
    clearInterval(playing);
    if (W.pos >= 1) scrub(0);
    const pause = Math.max(60, Math.min(400, 2500 / longest()));
    playing = setInterval(() => { nudge(1); if (W.pos >= 1) clearInterval(playing); }, pause);
  }

  let waiting = false;
  function refresh() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      for (const column of W.columns) if (column) draw(column);
      drawTool();
      drawOver();
    });
  }

  function drawTool() {
    if (!W.tool) return;
    const steps = longest(), at = W.follow ? 1 : W.pos;
    W.tool.range.value = Math.round(1000 * at);
    const snr = -EDGE + 2 * EDGE * at;
    const word = W.align === "step" ? `step ${Math.round(at * steps)} of ${steps}` : at >= 1 ? "data" : at <= 0 ? "noise" : `half log-SNR ${minus(snr, 1)}`;
    W.tool.told.textContent = word;
    W.tool.range.setAttribute("aria-valuetext", word);
    W.tool.element.querySelector("label.field").hidden = !W.columns.some((c) => c?.said?.points && visible(c));
    for (const select of [W.tool.reference, ...(W.over ? [W.over.a, W.over.b] : [])]) offer(select);
  }

  function offer(select) {
    const drawn = W.columns.filter((c) => c?.said && visible(c)), wanted = drawn.map((c) => c.said.label).join("\n");
    if (select.dataset.offered === wanted) return;
    const before = (select.dataset.touched && select.value) || select.dataset.first || "0";
    select.replaceChildren(...drawn.map((c) => Object.assign(make("option", "", c.said.label), { value: c.k })));
    select.value = drawn.some((c) => String(c.k) === before) ? before : drawn.length ? drawn[0].k : "";
    select.dataset.offered = wanted;
    if (select === W.tool.reference && W.reference !== Number(select.value)) {
      W.reference = Number(select.value);
      refresh();
    }
  }

  function mountOver(element) {
    const find = (name) => element.querySelector(name);
    const over = (W.over = { element, canvas: find("canvas"), range: find("input[type=range]"), a: find("select.a"), b: find("select.b") });
    over.a.dataset.first = "0";
    over.b.dataset.first = "1";
    for (const control of [over.range, over.a, over.b]) control.addEventListener("input", () => { control.dataset.touched = "1"; drawOver(); });
    const drag = (event) => {
      const box = over.canvas.getBoundingClientRect();
      over.range.value = (1000 * (event.clientX - box.left)) / box.width;
      drawOver();
    };
    over.canvas.addEventListener("pointerdown", (event) => { over.canvas.setPointerCapture(event.pointerId); drag(event); });
    over.canvas.addEventListener("pointermove", (event) => { if (event.buttons) drag(event); });
    refresh();
  }

  function drawOver() {
    const over = W.over;
    if (!over || over.element.offsetParent === null) return;
    offer(over.a);
    offer(over.b);
    const [a, b] = [W.columns[Number(over.a.value)], W.columns[Number(over.b.value)]];
    if (!a?.frames.length || !b?.frames.length) return;
    const seen = (column) => { // the DT target itself while its column shows a difference
      if (W.mode !== "difference") return column.canvas;
      over.sheet ??= document.createElement("canvas");
      W.mode = "target";
      (column.said.points ? drawPoints : drawImages)(column, frameOf(column), null, over.sheet);
      W.mode = "difference";
      return over.sheet;
    };
    resize(over.canvas, a.canvas.width, a.canvas.height);
    const ink = over.canvas.getContext("2d"), { width, height } = over.canvas, split = (width * over.range.value) / 1000;
    ink.clearRect(0, 0, width, height);
    for (const [column, from, to] of [[a, 0, split], [b, split, width]]) {
      ink.save();
      ink.beginPath();
      ink.rect(from, 0, to - from, height);
      ink.clip();
      ink.drawImage(seen(column), 0, 0, width, height);
      ink.restore();
    }
    ink.fillStyle = "#ffb000";
    ink.fillRect(split - 1.5, 0, 3, height);
  }

  function choose(column, j, open) {
    W.chosen = j;
    refresh();
    if (open) column.trigger("select", { sample: j, column: column.k });
  }

  function pin() {
    const drawn = W.columns.filter((c) => c?.frames.length && visible(c));
    if (!drawn.length) return;
    const j = W.chosen ?? 0, first = drawn[0].said, group = make("figure", "pin"), row = make("div", "pin-row");
    for (const column of drawn.filter((c) => c.said.n > j)) {
      const cell = make("div", "pin-cell"), canvas = document.createElement("canvas");
      if (column.said.points) drawPoints(column, last(column), null, canvas, j);
      else {
        const [, height, width] = column.said.shape;
        draw(column);
        resize(canvas, width, height);
        const sheet = new ImageData(width, height), [channels] = column.said.shape, pixels = last(column).target, size = width * height;
        for (let p = 0; p < size; p++) {
          for (let c = 0; c < 3; c++) sheet.data[4 * p + c] = pixels[(j * size + p) * channels + (channels > 1 ? c : 0)];
          sheet.data[4 * p + 3] = 255;
        }
        canvas.getContext("2d").putImageData(sheet, 0, 0);
      }
      const says = `${column.said.label}, ${column.said.steps} step${column.said.steps === 1 ? "" : "s"}`;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", says);
      cell.title = column.said.says;
      cell.append(canvas, make("span", "", says));
      row.append(cell);
    }
    const drop = make("button", "drop", "\u00d7");
    drop.setAttribute("aria-label", `Remove pinned sample ${j} of seed ${first.seed}`);
    drop.addEventListener("click", () => { group.remove(); W.pins = W.pins.filter((other) => other !== group); showPins(); });
    const caption = make("figcaption", "", `Pinned: sample ${j}, seed ${first.seed}, class ${first.label_asked}`);
    caption.append(drop);
    group.append(caption, row);
    W.pins = [...W.pins.slice(-(MOST_PINS - 1)), group];
    showPins();
  }

  function showPins() {
    const place = document.querySelector("#pins .pins");
    if (place) place.replaceChildren(...W.pins);
  }

  // ---- page --------------------------------------------------------------------------------------------------------

  const press = (id) => { const found = document.getElementById(id); (found?.matches("button") ? found : found?.querySelector("button"))?.click(); };
  const KEYS = { g: () => press("generate"), s: () => press("stop"), n: () => press("next-seed"), b: () => press("previous-seed"), p: pin,
    d: () => setMode({ target: "state", state: "difference", difference: "target" }[W.mode]), " ": play,
    ArrowLeft: () => nudge(-1), ArrowRight: () => nudge(1), "?": () => document.getElementById("keys")?.showModal() };

  document.addEventListener("keydown", (event) => {
    if (document.getElementById("generate")?.offsetParent === null && event.key !== "?") return; // another tab is open
    const typing = event.target.closest?.("input:not([type=range], [type=radio], [type=checkbox]), textarea, select, [contenteditable], [role=listbox], dialog");
    const moves = event.key.length > 1 && event.target.closest?.("input, [role=tab]"); // arrows belong to what has the focus
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) return press("generate");
    const onButton = event.key === " " && event.target.closest?.("button, a, summary, input, [role=tab]");
    if (typing || moves || onButton || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
    event.preventDefault();
    KEYS[event.key]();
  });

  const KEY = "workbench-dark";
  function dark(on) {
    document.body.classList.toggle("dark", on);
    try { localStorage.setItem(KEY, on ? "1" : "0"); } catch { /* a private window keeps nothing */ }
  }
  function mountPage(element) {
    element.querySelector(".light-dark")?.addEventListener("click", () => dark(!document.body.classList.contains("dark")));
    element.querySelector(".show-keys")?.addEventListener("click", () => document.getElementById("keys").showModal());
    let kept = null;
    try { kept = localStorage.getItem(KEY); } catch { /* likewise */ }
    if (kept !== null && !new URLSearchParams(location.search).has("__theme")) dark(kept === "1");
  }

  // What a tab has drawn for other settings says so, until it draws again.
  const RESULTS = ["detail", "motion-said", "sweep-said", "which-said"];
  const renewed = new MutationObserver((changes) => { for (const change of changes) change.target.closest?.("[data-old]")?.removeAttribute("data-old"); });
  function age() {
    for (const id of RESULTS) {
      const place = document.getElementById(id);
      if (!place?.querySelector("h2, [data-done='1']")) continue;
      place.setAttribute("data-old", "");
      renewed.observe(place, { childList: true, subtree: true, characterData: true });
    }
  }

  let asked = null;
  function link(query) {
    if (asked !== null && query !== asked) age();
    asked = query;
    const theme = new URLSearchParams(location.search).get("__theme");
    if (query) history.replaceState(null, "", `${location.pathname}?${query}${theme ? `&__theme=${encodeURIComponent(theme)}` : ""}`);
  }

  window.workbench = { mount, mountTool, mountOver, mountPage, pin, link, state: W };
})();
