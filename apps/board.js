// The axis of the Schedules tab: every overlaid schedule as a line, and the hand-drawn one as points that can be dragged or moved
// with the arrow keys. The server sends times; the page draws them, and tells the server where the points are.
(() => {
  "use strict";
  const NS = "http://www.w3.org/2000/svg", HEIGHT = 330, LEFT = 52, RIGHT = 14, TOP = 12, BOTTOM = 42, GAP = 0.0005, PAUSE = 70;
  const tag = (name, values = {}, text = "") => {
    const made = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(values)) made.setAttribute(key, value);
    made.textContent = text;
    return made;
  };
  const minus = (x, digits) => x.toFixed(digits).replace("-", "\u2212");

  function mount(element, props, watch, trigger) {
    const svg = element.querySelector("svg"), legend = element.querySelector(".legend"), told = element.querySelector("output");
    const board = { said: null, axis: "t", hand: null, held: null, sent: 0, late: null, width: 0, due: null, waits: 0, number: 0 };
    const read = (xs, ys, x) => { // the polygon through (xs, ys), xs rising
      let k = 1;
      while (k < xs.length - 1 && xs[k] < x) k++;
      const share = (x - xs[k - 1]) / (xs[k] - xs[k - 1] || 1);
      return ys[k - 1] + Math.max(0, Math.min(1, share)) * (ys[k] - ys[k - 1]);
    };
    const snr = (t) => read(board.said.grid.t, board.said.grid.snr, t);
    const timeOf = (value) => read([...board.said.grid.snr].reverse(), [...board.said.grid.t].reverse(), value);
    const values = (times) => {
      if (board.axis === "t") return times.map((t, k) => [k, t]);
      if (board.axis === "snr") return times.map((t, k) => [k, snr(t)]);
      return times.slice(1).map((t, k) => [k + 1, times[k] - t]);
    };
    const lines = () => board.said.lines.map((line) => (line.hand && board.hand ? { ...line, t: board.hand } : line));

    function scale() {
      const all = lines(), most = Math.max(1, ...all.map((line) => line.t.length - 1));
      const limit = board.said.limit;
      const largest = Math.max(0.05, ...all.flatMap((line) => values(line.t).map((pair) => pair[1])));
      const [low, high] = board.axis === "t" ? [0, 1] : board.axis === "snr" ? [-limit, limit] : [0, largest * 1.05];
      const wide = board.width - LEFT - RIGHT, tall = HEIGHT - TOP - BOTTOM;
      return { most, low, high, x: (k) => LEFT + (wide * k) / most, y: (v) => TOP + (tall * (high - v)) / (high - low), back: (y) => high - ((y - TOP) * (high - low)) / tall };
    }

    function draw() {
      if (!board.said || element.clientWidth < 100) return; // hidden, or not laid out yet
      board.width = element.clientWidth - 22;
      svg.setAttribute("viewBox", `0 0 ${board.width} ${HEIGHT}`);
      svg.setAttribute("height", HEIGHT);
      const at = scale(), focused = document.activeElement?.getAttribute?.("data-point");
      const parts = [];
      for (let k = 0; k <= 4; k++) {
        const v = at.low + ((at.high - at.low) * k) / 4;
        const word = board.axis === "snr" && Math.abs(v) >= board.said.limit ? (v < 0 ? "\u2212\u221e" : "\u221e") : minus(v, board.axis === "snr" ? 0 : 2);
        parts.push(tag("line", { x1: LEFT, x2: board.width - RIGHT, y1: at.y(v), y2: at.y(v), class: "grid" }), tag("text", { x: LEFT - 7, y: at.y(v) + 4, "text-anchor": "end" }, word));
      }
      const every = Math.ceil(at.most / Math.max(4, Math.min(20, board.width / 45)));
      for (let k = 0; k <= at.most; k += every) parts.push(tag("text", { x: at.x(k), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, k));
      parts.push(tag("text", { x: (LEFT + board.width - RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, "step"));
      const name = { t: "time t (1 noise, 0 data)", snr: "half log-SNR (nats)", size: "step size in t" }[board.axis];
      parts.push(tag("text", { x: 13, y: (TOP + HEIGHT - BOTTOM) / 2, "text-anchor": "middle", transform: `rotate(-90 13 ${(TOP + HEIGHT - BOTTOM) / 2})` }, name));
      const ordered = [...lines()].sort((a, b) => Number(a.hand || 0) - Number(b.hand || 0)); // the points to hold lie on top
      for (const line of ordered) {
        const points = values(line.t).map(([k, v]) => [at.x(k), at.y(v)]);
        parts.push(tag("polyline", { points: points.map((p) => p.join(",")).join(" "), stroke: line.color, class: `curve${line.chosen ? " chosen" : ""}`, "stroke-dasharray": line.dash || "none" }));
        const dragged = line.hand && board.axis !== "size";
        points.forEach(([x, y], k) => {
          const held = dragged && k > 0 && k < line.t.length - 1;
          const dot = tag("circle", { cx: x, cy: y, r: held ? 7 : line.chosen ? 3.5 : 2.5, fill: line.color, class: held ? "held" : "" });
          if (held) {
            const aria = { role: "slider", tabindex: 0, "data-point": k, "aria-label": `Time of step ${k}, by hand`, "aria-valuemin": 0, "aria-valuemax": 1, "aria-valuenow": line.t[k].toFixed(4), "aria-orientation": "vertical" };
            for (const [key, value] of Object.entries(aria)) dot.setAttribute(key, value);
          }
          dot.append(tag("title", {}, `${line.name}, step ${board.axis === "size" ? k + 1 : k}: t = ${minus(line.t[board.axis === "size" ? k + 1 : k], 4)}`));
          parts.push(dot);
        });
      }
      svg.replaceChildren(...parts);
      if (focused !== null && focused !== undefined) svg.querySelector(`[data-point="${focused}"]`)?.focus({ preventScroll: true });
      legend.replaceChildren(...lines().map((line) => {
        const item = Object.assign(document.createElement("span"), { className: line.chosen ? "chosen" : "" }), mark = document.createElement("i");
        mark.style.borderTop = `3px ${line.dash ? "dashed" : "solid"} ${line.color}`;
        item.append(mark, line.name);
        return item;
      }));
      const seen = lines().map((line) => `${line.name}: ${line.t.map((t) => t.toFixed(3)).join(", ")}`).join("; ");
      svg.setAttribute("aria-label", `Schedules on one axis. ${seen}`);
    }

    function move(k, t, done) {
      const times = board.hand, old = times[k];
      times[k] = Math.max(times[k + 1] + GAP, Math.min(times[k - 1] - GAP, t));
      told.textContent = `step ${k}: t = ${minus(times[k], 4)}, half log-SNR ${minus(snr(times[k]), 2)}`;
      if (old !== times[k]) draw();
      tell(done);
    }

    // The next message waits for the answer to the last one, so that what is drawn keeps up with what is slow to compute.
    function tell(done) {
      board.due = { done: done || (board.due?.done && board.held === null) };
      clearTimeout(board.late);
      const now = performance.now(), busy = board.waits && now < board.sent + 4000;
      board.late = setTimeout(send, busy ? board.sent + 4000 - now : done ? 0 : Math.max(0, board.sent + PAUSE - now));
    }

    function send() {
      if (!board.due || !board.hand) return;
      clearTimeout(board.late);
      board.sent = performance.now();
      board.waits = ++board.number;
      trigger("select", { times: board.hand.map((t) => Number(t.toFixed(4))), done: board.due.done, n: board.number });
      board.due = null;
    }

    const place = (event) => {
      const box = svg.getBoundingClientRect(), value = scale().back(((event.clientY - box.top) / box.height) * HEIGHT);
      return board.axis === "t" ? value : timeOf(value);
    };
    svg.addEventListener("pointerdown", (event) => {
      const point = event.target.closest("[data-point]");
      if (!point) return;
      board.held = Number(point.dataset.point);
      svg.setPointerCapture(event.pointerId);
      point.focus({ preventScroll: true });
      event.preventDefault();
    });
    svg.addEventListener("pointermove", (event) => { if (board.held !== null) move(board.held, place(event), false); });
    const release = () => {
      if (board.held === null) return;
      board.held = null;
      tell(true);
    };
    svg.addEventListener("pointerup", release);
    svg.addEventListener("pointercancel", release);
    svg.addEventListener("keydown", (event) => {
      const k = event.target.dataset?.point, up = { ArrowUp: 1, ArrowRight: 1, PageUp: 10, ArrowDown: -1, ArrowLeft: -1, PageDown: -10 }[event.key];
      if (k === undefined || !up) return;
      event.preventDefault();
      event.stopPropagation();
      move(Number(k), board.hand[k] + 0.005 * up * (event.shiftKey ? 0.1 : 1), false);
      clearTimeout(board.rest);
      board.rest = setTimeout(() => tell(true), 250);
    });
    for (const button of element.querySelectorAll("button[data-axis]")) {
      button.addEventListener("click", () => {
        board.axis = button.dataset.axis;
        for (const each of element.querySelectorAll("button[data-axis]")) each.setAttribute("aria-pressed", String(each === button));
        element.querySelector(".hint").hidden = board.axis === "size";
        draw();
      });
    }

    function take(message) {
      if (!message?.lines) return;
      const before = board.said;
      board.said = { ...before, ...message };
      const own = message.lines.find((line) => line.hand);
      if (message.ack === board.waits) board.waits = 0;
      const waits = board.held !== null || board.due || (board.waits && performance.now() < board.sent + 4000); // the points here are newer
      if (!own || !board.hand || own.t.length !== board.hand.length || !waits) board.hand = own ? [...own.t] : null;
      draw();
      if (board.due && !board.waits) send();
    }
    new ResizeObserver(draw).observe(element);
    watch("value", () => take(props.value));
    take(props.value);
  }

  window.workbenchBoard = { mount };
})();
