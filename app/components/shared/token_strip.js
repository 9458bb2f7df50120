// One button per token; a click or the arrow keys send {token}. Buttons are made once per text.

export default function ({ parentElement, data, setTriggerValue }) {
  let strip = parentElement.querySelector(".strip");
  if (!strip) {
    strip = document.createElement("div");
    strip.className = "strip";
    strip.setAttribute("role", "listbox");
    parentElement.appendChild(strip);
  }
  strip.setAttribute("aria-label", data.label);
  strip.style.setProperty("--shade-colour", data.shadeColour);
  strip.style.setProperty("--kept-colour", data.keptColour);

  const signature = data.tokens.join("\u0000");
  if (strip.signature !== signature) {
    strip.signature = signature;
    const parts = document.createDocumentFragment();
    data.tokens.forEach((token, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("role", "option");
      const lines = (token.match(/\n/g) || []).length;
      button.textContent = token.replace(/\n/g, "") || (lines ? "↵" : " ");
      button.dataset.index = index;
      parts.appendChild(button);
      for (let line = 0; line < Math.min(lines, 2); line++) {
        parts.appendChild(document.createElement("br"));
      }
    });
    strip.replaceChildren(parts);
    strip.buttons = [...strip.querySelectorAll("button")];
  }

  const kept = new Set(data.kept);
  strip.buttons.forEach((button, index) => {
    button.style.setProperty("--shade", data.shades[index]);
    button.title = data.titles[index];
    button.className = (kept.has(index) ? "kept " : "") + (index === data.chosen ? "chosen" : "");
    button.tabIndex = index === data.chosen ? 0 : -1;
    button.setAttribute("aria-selected", index === data.chosen);
  });

  const choose = (index) => setTriggerValue("token", { token: index, at: Date.now() });
  strip.onclick = (event) => {
    const button = event.target.closest("button");
    if (button) choose(Number(button.dataset.index));
  };
  strip.onkeydown = (event) => {
    const from = Number(event.target.dataset.index);
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: strip.buttons.length - 1 }[event.key];
    if (to === undefined || !strip.buttons[to]) return;
    event.preventDefault();
    strip.buttons[to].focus();
    choose(to);
  };
}
