// Draws the map of one head from bit-packed decisions; a click or the arrow keys choose a pair.
"use strict";
// root holds the markup of maps.html; data is of one trace; start says where to begin.
const drawMap = async (root, data, start = {}) => {
  const part = (name) => root.querySelector(`.${name}`);
  const canvas = part("map");
  const { tokens, words } = data, N = tokens.length;
  const [bq, bk] = data.block, M = Math.ceil(N / bq), S = Math.ceil(N / bk), rowBytes = Math.ceil(S / 8);
  const L = data.density.length, H = data.density[0].length;
  const kept = new Set(data.kept), GATE = 2, BELOW = 1, DENSE = 5;
  let layer = start.layer ?? 0, head = start.head ?? 0, q = start.query ?? N - 1;
  let k = start.key ?? Math.max(0, data.first[data.plan[layer]][q]);

  const opened = new Map();
  const open = async (packed) => {
    if (!opened.has(packed)) {
      const bytes = Uint8Array.from(atob(packed), (sign) => sign.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
      opened.set(packed, new Uint8Array(await new Response(stream).arrayBuffer()));
    }
    return opened.get(packed);
  };
  const decisions = async (atLayer, atHead) => {
    const kind = data.plan[atLayer], first = data.first[kind], last = data.last[kind];
    if (!data.keep) return (a, b) => (b >= first[a] && b <= last[a] ? DENSE : 0);
    const keep = await open(data.keep[atLayer]), forced = await open(data.forced[kind]);
    const forcedHead = data.forcedHeads > 1 ? atHead : 0;
    return (a, b) => {
      if (b < first[a] || b > last[a]) return 0;
      const m = Math.floor(a / bq), s = Math.floor(b / bk);
      const code = forced[(forcedHead * M + m) * S + s];
      if (code) return code;
      return (keep[(atHead * M + m) * rowBytes + (s >> 3)] >> (7 - (s & 7))) & 1 ? GATE : BELOW;
    };
  };

  const named = (token) => token.replace(/[Ġ▁]/g, "␣").replace(/[ĊĉÂ]|\n/g, "↵");
  const colour = (name) => {
    const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const full = hex.length === 4 ? hex.replace(/[0-9a-f]/gi, "$&$&") : hex;
    return [1, 3, 5].map((from) => parseInt(full.slice(from, from + 2), 16));
  };
  const strip = part("strip"), grid = part("grid");
  const most = data.received ? Math.max(...data.received) : 1;
  const buttons = tokens.map((token, at) => {
    const button = document.createElement("button");
    button.textContent = named(token);
    button.setAttribute("role", "option");
    const share = data.received ? data.received[at] / most : 0;
    button.style.background = `rgba(var(--received), ${Math.sqrt(share) * 0.8})`;
    button.onclick = () => { q = at; k = Math.min(k, at); show(); };
    strip.appendChild(button);
    return button;
  });
  grid.style.gridTemplateColumns = `repeat(${H}, 16px)`;
  const cells = data.density.flatMap((heads, atLayer) => heads.map((density, atHead) => {
    const cell = document.createElement("button");
    cell.style.opacity = 0.08 + 0.92 * density;
    cell.title = words.cell.replace("{layer}", atLayer).replace("{head}", atHead)
      .replace("{share}", (100 * density).toFixed(1));
    cell.setAttribute("aria-label", cell.title);
    cell.onclick = () => { layer = atLayer; head = atHead; show(); };
    grid.appendChild(cell);
    return cell;
  }));

  const show = async () => {
    const mine = [layer, head, q, k].join();
    const code = await decisions(layer, head);
    if (mine !== [layer, head, q, k].join()) return;
    const side = Math.min(N, 720), sheet = new OffscreenCanvas(side, side);
    const picture = new ImageData(side, side);
    const colours = [colour("--dropped"), colour("--always"), colour("--kept")];
    const rank = new Int8Array(side * side).fill(-1);
    for (let a = 0; a < N; a++) {
      const row = Math.floor((a * side) / N) * side;
      for (let b = 0; b < N; b++) {
        const reason = code(a, b);
        if (!reason) continue;
        const at = row + Math.floor((b * side) / N);
        const level = kept.has(reason) ? (reason === GATE || reason === DENSE ? 2 : 1) : 0;
        if (level > rank[at]) rank[at] = level;
      }
    }
    rank.forEach((level, at) => {
      if (level >= 0) picture.data.set([...colours[level], 255], 4 * at);
    });
    sheet.getContext("2d").putImageData(picture, 0, 0);
    // Small maps are drawn larger, so that the frame of the chosen pair is a thin line.
    const width = side * Math.max(1, Math.floor(720 / side)), pen = canvas.getContext("2d");
    canvas.width = canvas.height = width;
    pen.imageSmoothingEnabled = false;
    pen.drawImage(sheet, 0, 0, width, width);
    const cell = width / N, reach = Math.max(cell, width / 40);
    pen.strokeStyle = getComputedStyle(document.body).color;
    pen.lineWidth = Math.max(1, width / 300);
    pen.strokeRect((k + 0.5) * cell - reach / 2, (q + 0.5) * cell - reach / 2, reach, reach);
    canvas.style.imageRendering = N <= 720 ? "pixelated" : "auto";
    cells.forEach((one, at) => one.classList.toggle("chosen", at === layer * H + head));
    buttons.forEach((button, at) => {
      button.classList.toggle("chosen", at === q);
      button.classList.toggle("read", kept.has(code(q, at)));
      button.classList.toggle("gone", data.alive !== null && !data.alive[layer][at]);
    });
    part("which").textContent = words.which.replace("{layer}", layer)
      .replace("{head}", head).replace("{share}", (100 * data.density[layer][head]).toFixed(1));
    const fields = { "{query}": named(tokens[q]), "{q}": q, "{key}": named(tokens[k]), "{k}": k };
    const sentence = words.pair.replace(/\{(query|q|key|k)\}/g, (field) => fields[field]);
    part("pair").textContent = `${sentence} ${data.reasons[code(q, k)]}`;
    root.dataset.ready = [layer, head, q, k].join();
  };
  const clamp = (at) => Math.max(0, Math.min(N - 1, at));
  canvas.onclick = (event) => {
    const box = canvas.getBoundingClientRect();
    q = clamp(Math.floor(((event.clientY - box.top) / box.height) * N));
    k = clamp(Math.floor(((event.clientX - box.left) / box.width) * N));
    show();
  };
  canvas.onkeydown = (event) => {
    const way = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!way) return;
    event.preventDefault();
    q = clamp(q + way[0]);
    k = clamp(k + way[1]);
    show();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  await show();
};
