// The page of figures: what is chosen, in the address, and the data of what is chosen, loaded when it is asked for.
"use strict";
const figures = (() => {
  const loaded = new Map();
  const sections = []; // of a name, the choices that it depends on, and what draws it
  let index = null;
  let state = {};

  const COSTS = { time: "training time over that of the student alone", step: "seconds of a training step" };
  const OVERS = { none: "the student alone", kd: "plain KD" };

  const { loadScript } = page;

  // The content of a table or of a history by its title; null without one.
  async function content(kind, title) {
    const found = index[kind].find((each) => each.title === title);
    if (!found) return null;
    if (!loaded.has(found.id)) await loadScript(`data/figures/${found.id}.js`);
    return loaded.get(found.id);
  }

  const same = (texts) => texts.map((text) => [text, text]);
  const rankings = (kind) => index.ranks.filter((each) => each.kind === kind);

  // What each choice offers, as values with their texts.
  const OFFERS = {
    table: () => index.groups.map(({ title, runs }) => [title, `${title} (${runs ? `${runs} runs` : "reported numbers"})`]),
    pair: async () => same((await content("groups", await chosen("table")))?.pairs.map((pair) => pair.title) ?? []),
    over: () => Object.entries(OVERS),
    cost: () => Object.entries(COSTS),
    measured: () => same(rankings("measured").map((each) => each.title)),
    reported: () => same(rankings("reported").map((each) => each.title)),
    history: () => same(index.histories.map((each) => each.title)),
    panel: async () => same((await content("histories", await chosen("history")))?.panels.map(panelTitle) ?? []),
  };
  const BELOW = { table: "pair", history: "panel" }; // choices that depend on another one
  const panelTitle = (panel) => `${panel.pair}: ${panel.side === "speed" ? "step time" : "accuracy"}`;

  async function chosen(name) {
    const values = (await OFFERS[name]()).map(([value]) => value);
    return values.includes(state[name]) ? state[name] : (values[0] ?? "");
  }

  async function fillSelects() {
    for (const select of document.querySelectorAll(".choices select")) {
      const offered = await OFFERS[select.name]();
      select.replaceChildren(...offered.map(([value, text]) => new Option(text, value)));
      select.value = await chosen(select.name);
      select.parentElement.hidden = offered.length === 0;
    }
  }

  let drawing = 0;
  async function draw(changed) {
    const mine = ++drawing;
    try {
      await fillSelects();
      for (const { names, make } of sections) {
        if (changed && !names.some((name) => changed.has(name))) continue;
        const choice = Object.fromEntries(await Promise.all(names.map(async (name) => [name, await chosen(name)])));
        const ready = await make(choice);
        if (mine !== drawing) return;
        ready();
      }
    } catch (error) {
      document.querySelector("main").prepend(Object.assign(document.createElement("p"), { className: "note", textContent: error.message }));
    }
  }

  const parse = () => Object.fromEntries([...new URLSearchParams(location.hash.slice(1))].filter(([name]) => name in OFFERS));

  function change(name, value) {
    state = { ...state, [name]: value };
    delete state[BELOW[name]];
    history.replaceState(null, "", `#${new URLSearchParams(state)}`);
    return draw(new Set([name, BELOW[name]]));
  }

  function start() {
    state = parse();
    for (const select of document.querySelectorAll(".choices select")) {
      select.addEventListener("change", () => change(select.name, select.value));
    }
    for (const link of document.querySelectorAll(".contents a, .skip")) {
      link.addEventListener("click", (event) => {
        event.preventDefault(); // the address has the choices
        const section = document.querySelector(link.getAttribute("href"));
        section.scrollIntoView();
        section.querySelector("select, summary").focus({ preventScroll: true });
      });
    }
    addEventListener("hashchange", () => {
      state = parse();
      draw();
      if (state.history) document.getElementById("history").scrollIntoView();
    });
    theme.onChange(() => draw());
    charts.NARROW.addEventListener("change", () => draw());
    return draw();
  }

  return {
    COSTS, OVERS, content, panelTitle, rankings, start,
    index: () => index,
    load: (data) => { index = data; },
    add: (id, data) => loaded.set(id, data), // called by the script of a table or of a history
    section: (names, make) => sections.push({ names, make }),
  };
})();
