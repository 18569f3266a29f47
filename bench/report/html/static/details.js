// Details of a line: its script is loaded when it is asked for, and so is the library that draws curves.
"use strict";
(() => {
  const loaded = new Map();
  const dialog = document.getElementById("details");
  const title = document.getElementById("details-title");
  const subtitle = document.getElementById("details-subtitle");
  const body = document.getElementById("details-body");
  let shown = "";

  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  const loadScript = (source) =>
    new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = source;
      script.onload = () => { script.remove(); resolve(); };
      script.onerror = () => { script.remove(); reject(new Error(`${source} is missing; build the report again`)); };
      document.head.append(script);
    });

  // Called by the script of a line.
  kdbench.showDetails = (id, content) => loaded.set(id, content);

  let plotly = null;
  const loadPlotly = () => (plotly ??= loadScript("assets/plotly.min.js"));

  function value(text) {
    const data = element("dd");
    if (/^https:\/\/\S+$/.test(text)) {
      const link = element("a", text);
      link.href = text;
      link.rel = "noopener noreferrer";
      data.append(link);
    } else data.textContent = text;
    return data;
  }

  function facts(section) {
    const named = section.facts.some(([name]) => name);
    if (!named) {
      const list = element("ul");
      for (const [, text] of section.facts) list.append(element("li", text));
      return list;
    }
    const list = element("dl");
    for (const [name, text] of section.facts) {
      list.append(element("dt", name || "note"), value(text));
    }
    return list;
  }

  function grid(section) {
    const region = scrolling(section.title);
    const table = element("table");
    const head = element("tr");
    for (const text of section.head) {
      const cell = element("th", text);
      cell.scope = "col";
      head.append(cell);
    }
    table.append(element("caption", section.title, "hidden"), element("thead"), element("tbody"));
    table.tHead.append(head);
    for (const texts of section.rows) {
      const row = element("tr");
      for (const text of texts) row.append(element("td", text));
      table.tBodies[0].append(row);
    }
    region.append(table);
    return region;
  }

  function scrolling(label) {
    const region = element("div", undefined, "scroll");
    region.tabIndex = 0;
    region.setAttribute("role", "region");
    region.setAttribute("aria-label", label);
    return region;
  }

  function section(part) {
    const made = element("section");
    made.append(element("h3", part.title));
    if (part.facts) made.append(facts(part));
    else if (part.head) made.append(grid(part));
    else {
      const region = scrolling(part.title);
      region.append(element("pre", part.text));
      made.append(region);
    }
    return made;
  }

  // One figure of the metric and one of the loss terms, over epochs.
  function figures(content) {
    const made = element("section", undefined, "curves");
    made.append(element("h3", "Curves"));
    const last = content.curves.map((run) => `${run.name}: ${run.metric.findLast((each) => each !== null) ?? kdbench.MISSING}`);
    made.append(element("p", `${content.metric} of the last evaluated epoch: ${last.join(", ")}.`));
    const draw = [];
    for (const [label, traces] of [
      [content.metric, content.curves.map((run, k) => trace(run.name, run.epoch, run.metric, k, 0))],
      ["loss", content.curves.flatMap((run, k) =>
        Object.entries(run.losses).map(([term, y], t) => trace(`${term}, ${run.name}`, run.epoch, y, t, k)))],
    ]) {
      const figure = element("div", undefined, "figure");
      figure.setAttribute("role", "group");
      figure.setAttribute("aria-label", `${label} over epochs`);
      made.append(figure);
      draw.push(() => Plotly.newPlot(figure, traces, layout(label, Math.max(...content.curves.map((run) => run.epoch.length))), { displaylogo: false, responsive: true }));
    }
    made.drawAll = () => draw.forEach((each) => each());
    return made;
  }

  // Seeds differ by color in the metric's figure; terms by color and seeds by dash in that of the loss.
  const COLORS = ["#3b82c4", "#e07b39", "#3a9e5c", "#b45fc2", "#c9443f", "#8a7a3a", "#2aa5a5", "#8892a0"];
  const DASHES = ["solid", "dash", "dot", "dashdot"];

  // Plotly reads some HTML in names; these are text.
  const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const trace = (name, x, y, color, dash) => ({
    name: plain(name), x, y, mode: x.length > 1 ? "lines" : "markers", connectgaps: true,
    line: { color: COLORS[color % COLORS.length], dash: DASHES[dash % DASHES.length] },
    marker: { color: COLORS[color % COLORS.length] },
  });

  function layout(label, epochs) {
    const style = getComputedStyle(document.body);
    const grid = style.getPropertyValue("--line");
    const axis = { gridcolor: grid, zerolinecolor: grid, automargin: true };
    return {
      height: 300,
      margin: { l: 50, r: 10, t: 10, b: 40 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: style.color, family: style.fontFamily },
      legend: { orientation: "h", y: -0.25 },
      showlegend: true,
      modebar: { bgcolor: "rgba(0,0,0,0)", color: style.getPropertyValue("--quiet"), activecolor: style.color },
      xaxis: { ...axis, title: { text: "epoch" }, ...(epochs <= 12 ? { dtick: 1 } : {}) },
      yaxis: { ...axis, title: { text: plain(label) } },
    };
  }

  async function open(id) {
    shown = id;
    title.textContent = "Details";
    subtitle.textContent = "loading";
    body.replaceChildren();
    if (!dialog.open) dialog.showModal();
    title.focus();
    try {
      if (!kdbench.lineOf.has(id)) throw new Error("this page has no such line; the link may be of another report");
      if (!loaded.has(id)) await loadScript(`data/cells/${id}.js`);
      if (shown !== id) return;
      await fill(loaded.get(id), id);
    } catch (error) {
      subtitle.textContent = error.message;
    }
  }

  async function fill(content, id) {
    title.textContent = content.title;
    subtitle.textContent = content.subtitle;
    const [verdict, ...others] = content.sections.map(section);
    const curves = content.curves.length ? figures(content) : null;
    body.replaceChildren(verdict, ...(curves ? [curves] : []), ...others);
    if (!curves) return;
    await loadPlotly();
    if (shown === id) curves.drawAll();
  }

  kdbench.details = {
    open,
    isOpen: () => dialog.open,
    close: () => dialog.close(),
    onClose: (listener) => dialog.addEventListener("close", () => { shown = ""; listener(); }),
  };
  document.getElementById("close").addEventListener("click", () => dialog.close());
  theme.onChange(() => { if (dialog.open && shown && loaded.has(shown)) fill(loaded.get(shown), shown); });
})();
