// A plotly figure. The library travels once a page, compressed, and only when a figure asks for it; until then, and where no
// kernel answers, the sketch stands in its place.
const PATIENCE = 15000; // milliseconds after which a kernel that was asked for the library counts as gone

function library(model) {
  const held = globalThis.workbenchPlotly;
  if (held && (held.done || Date.now() - held.asked < PATIENCE)) return held.promise;
  const fresh = { asked: Date.now(), done: false };
  fresh.promise = new Promise((resolve) => {
    const answer = async (message, buffers) => {
      if (message?.kind !== "plotly") return;
      model.off("msg:custom", answer);
      const bytes = new Blob(buffers).stream().pipeThrough(new DecompressionStream("gzip"));
      const address = URL.createObjectURL(new Blob([await new Response(bytes).text()], { type: "text/javascript" }));
      const before = globalThis.Plotly;
      await import(address);
      URL.revokeObjectURL(address);
      const loaded = globalThis.Plotly;
      globalThis.Plotly = before; // another plotly on the page keeps its name
      fresh.done = true;
      resolve(loaded);
    };
    model.on("msg:custom", answer);
    model.send({ kind: "plotly" });
  });
  globalThis.workbenchPlotly = fresh;
  return fresh.promise;
}

function render({ model, el }) {
  const box = document.createElement("div");
  box.className = "wb-figure";
  box.setAttribute("role", "img");
  el.append(box);
  let Plotly = null, gone = false, due = false;
  const draw = () => {
    due = false;
    if (gone) return;
    const { data, layout } = model.get("content");
    box.setAttribute("aria-label", layout?.title?.text ?? "figure");
    box.style.minHeight = `${layout?.height ?? 0}px`;
    if (!Plotly) return void (box.innerHTML = model.get("sketch"));
    const here = model.get("here");
    const traces = here.x ? [...data, here] : data;
    Plotly.react(box, structuredClone(traces), structuredClone(layout), { displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] });
  };
  const soon = () => {
    if (!due) queueMicrotask(draw);
    due = true;
  };
  model.on("change:content change:here", soon);
  const resized = new ResizeObserver(() => Plotly && box.clientWidth && Plotly.Plots.resize(box));
  draw();
  library(model).then((loaded) => {
    if (gone) return;
    box.replaceChildren();
    Plotly = loaded;
    draw();
    resized.observe(box);
  });
  return () => {
    gone = true;
    resized.disconnect();
    model.off("change:content change:here", soon);
    if (Plotly) Plotly.purge(box);
  };
}

export default { render };
