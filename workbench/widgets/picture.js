// A PNG from the kernel that says what it shows, where it was clicked, and which sample is chosen.
function render({ model, el }) {
  const frame = document.createElement("div"), image = document.createElement("img"), mark = document.createElement("div");
  frame.className = "wb-picture";
  mark.className = "wb-mark";
  frame.append(image, mark);
  el.append(frame);
  let shown = null;
  const draw = () => {
    const address = URL.createObjectURL(new Blob([model.get("value")], { type: "image/png" })), before = shown;
    image.onload = () => before && URL.revokeObjectURL(before);
    image.src = shown = address;
  };
  const label = () => (image.alt = model.get("alt"));
  const choose = () => {
    const place = model.get("mark");
    mark.hidden = place.length !== 4;
    ["left", "top", "width", "height"].forEach((side, k) => (mark.style[side] = `${100 * place[k]}%`));
    mark.classList.toggle("wb-round", model.get("ring"));
  };
  image.addEventListener("click", (event) => {
    const box = image.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * image.naturalWidth;
    const y = ((event.clientY - box.top) / box.height) * image.naturalHeight;
    model.send({ kind: "click", x, y });
  });
  model.on("change:value", draw);
  model.on("change:alt", label);
  model.on("change:mark", choose);
  draw();
  label();
  choose();
  return () => shown && URL.revokeObjectURL(shown);
}

export default { render };
