// Steps through a presentation; each map is drawn once, when the file opens, so that it prints too.
(async () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const steps = [...document.querySelectorAll(".step")], page = document.body;
  const button = (name) => document.getElementById(name);
  const wanted = () => {
    const number = parseInt(location.hash.slice(1), 10) || 1;
    return Math.max(1, Math.min(steps.length, number));
  };
  const show = () => {
    const number = wanted();
    steps.forEach((step, at) => step.classList.toggle("current", at === number - 1));
    button("counter").textContent = steps[number - 1].dataset.counter;
    button("back").disabled = number === 1;
    button("next").disabled = number === steps.length;
    scrollTo(0, 0);
    page.dataset.step = number;
  };
  const go = (number) => {
    if (number < 1 || number > steps.length) return;
    location.replace(`#${number}`);
    show();
  };
  const notes = () => button("notes").setAttribute("aria-pressed", page.classList.toggle("notes"));
  const full = async () => {
    try {
      await (document.fullscreenElement
        ? document.exitFullscreen()
        : document.documentElement.requestFullscreen());
    } catch {
      button("full").disabled = true; // a browser, or a frame around the file, that does not allow it
    }
  };
  button("back").onclick = () => go(wanted() - 1);
  button("next").onclick = () => go(wanted() + 1);
  button("notes").onclick = notes;
  button("full").onclick = full;
  const keys = {
    ArrowRight: () => go(wanted() + 1),
    PageDown: () => go(wanted() + 1),
    " ": (event) => go(wanted() + (event.shiftKey ? -1 : 1)),
    ArrowLeft: () => go(wanted() - 1),
    PageUp: () => go(wanted() - 1),
    Home: () => go(1),
    End: () => go(steps.length),
    f: full,
    n: notes,
  };
  document.addEventListener("keydown", (event) => {
    const taken = event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey;
    const pressed = event.key === " " && event.target.closest("button");
    if (taken || pressed || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key](event);
  });
  addEventListener("hashchange", show);
  page.classList.add("live");
  show();
  await Promise.all(Object.entries(data.maps).map(([number, { trace, ...start }]) =>
    drawMap(steps[number - 1].querySelector(".panel"), data.traces[trace], start)));
  document.documentElement.dataset.ready = "all";
})();
