// The text by token, a bar per layer, a slider and a play button. The server hears nothing of what is played.

const STEP = 900; // ms per layer

export default function ({ parentElement, data }) {
  let root = parentElement.querySelector(".player");
  if (!root) {
    root = document.createElement("div");
    root.className = "player";
    root.innerHTML =
      '<p class="text"></p><div class="bars" role="img"></div>' +
      '<div class="controls"><button type="button" class="play"></button>' +
      '<input type="range" min="0" step="1"></div><p class="state" aria-live="polite"></p>';
    parentElement.appendChild(root);
  }
  const find = (name) => root.querySelector(name);
  const [text, bars, play, slider, state] = [".text", ".bars", ".play", "input", ".state"].map(find);
  const last = data.left.length - 1;
  root.style.setProperty("--kept", data.keptColour);
  root.style.setProperty("--dense", data.denseColour);
  root.style.setProperty("--gone", data.goneColour);

  const signature = JSON.stringify([data.tokens, data.gone, data.start]);
  if (root.signature !== signature) {
    root.signature = signature;
    clearInterval(root.timer);
    root.timer = null;
    root.layer = data.start;
    text.replaceChildren(
      ...data.tokens.map((token) => {
        const piece = document.createElement("span");
        piece.textContent = token;
        return piece;
      }),
    );
    const most = Math.max(...data.left);
    bars.replaceChildren(
      ...data.left.map((count, layer) => {
        const bar = document.createElement("span");
        bar.style.setProperty("--share", count / most);
        bar.onclick = () => show(layer, true);
        return bar;
      }),
    );
  }
  slider.max = last;
  slider.setAttribute("aria-label", data.words.layer);
  bars.setAttribute("aria-label", data.words.bars);

  function show(layer, stop) {
    if (stop && root.timer) toggle();
    root.layer = layer;
    slider.value = layer;
    let now = 0;
    [...text.children].forEach((piece, index) => {
      const first = data.gone[index];
      piece.className = first > layer ? "" : first === layer && layer > 0 ? "going" : "gone";
      if (piece.className === "going") now += 1;
    });
    [...bars.children].forEach((bar, index) => bar.classList.toggle("chosen", index === layer));
    const fields = { layer, left: data.left[layer], all: data.left[0], gone: now };
    state.textContent = data.words.state.replace(/\{(\w+)\}/g, (_, name) => fields[name]);
    slider.setAttribute("aria-valuetext", state.textContent);
  }

  function toggle() {
    if (root.timer) {
      clearInterval(root.timer);
      root.timer = null;
    } else {
      if (root.layer >= last) show(0);
      root.timer = setInterval(() => {
        if (!root.isConnected) return clearInterval(root.timer);
        root.advance();
      }, STEP);
    }
    play.textContent = root.timer ? data.words.pause : data.words.play;
  }

  root.advance = () => {
    show(root.layer + 1);
    if (root.layer >= last) toggle();
  };
  play.onclick = toggle;
  slider.oninput = () => show(Number(slider.value), true);
  play.textContent = root.timer ? data.words.pause : data.words.play;
  show(Math.min(root.layer, last));
}
