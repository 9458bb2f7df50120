// Draws the picture, the window and the chosen pair; sends {q, k} when the window has moved.

export default function ({ parentElement, data, setTriggerValue }) {
  let canvas = parentElement.querySelector("canvas");
  if (!canvas) {
    canvas = document.createElement("canvas");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    parentElement.appendChild(canvas);
  }
  canvas.setAttribute("aria-label", data.label);
  canvas.title = data.label;

  const { tokens, colour } = data;
  let [q0, k0, size] = data.frame;
  const start = [q0, k0];

  const draw = () => {
    const side = Math.round(canvas.clientWidth * (window.devicePixelRatio || 1));
    if (!side || !image.complete) return;
    canvas.width = canvas.height = side;
    const cell = side / tokens;
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = image.width > side;
    pen.drawImage(image, 0, 0, side, side);
    pen.strokeStyle = colour;
    if (size < tokens) {
      pen.lineWidth = 2 * (window.devicePixelRatio || 1);
      pen.strokeRect(k0 * cell, q0 * cell, size * cell, size * cell);
    }
    if (q0 === start[0] && k0 === start[1]) {
      const [q, k] = data.chosen;
      pen.lineWidth = 1.5 * (window.devicePixelRatio || 1);
      const reach = Math.max(cell, 5 * (window.devicePixelRatio || 1));
      pen.strokeRect((k + 0.5) * cell - reach / 2, (q + 0.5) * cell - reach / 2, reach, reach);
    }
  };

  const image = new Image();
  image.onload = draw;
  image.src = data.png;
  const watcher = new ResizeObserver(draw);
  watcher.observe(canvas);

  const clamp = (at) => Math.max(0, Math.min(tokens - size, at));
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const place = (part) => Math.max(0, Math.min(tokens - 1, Math.floor(part * tokens)));
    return {
      q: place((event.clientY - box.top) / box.height),
      k: place((event.clientX - box.left) / box.width),
    };
  };
  const moveTo = ({ q, k }) => {
    q0 = clamp(q - Math.floor(size / 2));
    k0 = clamp(k - Math.floor(size / 2));
    draw();
  };
  const send = (pair) => setTriggerValue("pair", { ...pair, at: Date.now() });

  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    moveTo(at(event));
  };
  canvas.onpointermove = (event) => {
    if (event.buttons) moveTo(at(event));
  };
  canvas.onpointerup = (event) => send(at(event));
  canvas.onkeydown = (event) => {
    const step = Math.max(1, Math.floor(size / 2));
    const way = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!way) return;
    event.preventDefault();
    q0 = clamp(q0 + way[0] * step);
    k0 = clamp(k0 + way[1] * step);
    draw();
    send({ q: q0 + Math.floor(size / 2), k: k0 + Math.floor(size / 2) });
  };

  return () => watcher.disconnect();
}
