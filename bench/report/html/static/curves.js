// Curves of a line's runs: the metric over epochs beside the loss terms over steps.
"use strict";
kdbench.curves = (() => {
  const RATIO = 30; // largest over smallest from which an axis is logarithmic
  const COLORS = ["#3b82c4", "#e07b39", "#3a9e5c", "#b45fc2", "#c9443f", "#8a7a3a", "#2aa5a5", "#8892a0"];
  const DASHES = ["solid", "dash", "dot", "dashdot"];

  // Packed numbers, as `curves.py` writes them.
  const sequence = (packed) =>
    (Array.isArray(packed) ? packed : Array.from({ length: packed.count }, (_, k) => packed.first + k * packed.by));
  const MISSING = 65535;
  function numbers(packed) {
    if (!packed) return [];
    const { low, high, log } = packed;
    return Array.from(new Uint16Array(bytes(packed.at)), (place) => {
      if (place === MISSING) return null;
      const share = place / (MISSING - 1);
      return Number((log ? low * (high / low) ** share : low + (high - low) * share).toPrecision(6));
    });
  }

  // Plotly reads some HTML in names; these are text.
  const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  const trace = (name, x, y, at, color, dash) => ({
    name: plain(name), x, y, customdata: at, mode: x.length > 1 ? "lines" : "markers", connectgaps: true,
    hovertemplate: "%{y:.5g}, epoch %{customdata[0]}, step %{customdata[1]}<extra>%{fullData.name}</extra>",
    line: { color: COLORS[color % COLORS.length], dash: DASHES[dash % DASHES.length] },
    marker: { color: COLORS[color % COLORS.length] },
  });

  // Seeds differ by color in the metric's figure; terms by color and seeds by dash in that of the loss.
  function figures({ curves, metric }) {
    const runs = curves.map((run) => {
      const [epoch, steps] = [sequence(run.epoch), sequence(run.steps)];
      const losses = Object.entries(run.losses).map(([term, packed]) => [term, numbers(packed)]);
      return { name: run.name, epoch, steps, at: epoch.map((each, k) => [each, steps[k]]), metric: numbers(run.metric), losses };
    });
    const several = runs.length > 1;
    const losses = runs.flatMap((run, k) =>
      run.losses.map(([term, y], t) => trace(several ? `${term}, ${run.name}` : term, run.steps, y, run.at, t, k)));
    const values = losses.flatMap(({ y }) => y).filter((each) => each !== null);
    const [low, high] = values.reduce(([least, most], each) => [Math.min(least, each), Math.max(most, each)], [Infinity, -Infinity]);
    const few = Math.max(...runs.map((run) => run.epoch.length)) <= 12;
    return [
      {
        label: `${metric} over epochs`,
        traces: runs.map((run, k) => trace(run.name, run.epoch, run.metric, run.at, k, 0)),
        xaxis: { title: { text: "epoch" }, ...(few ? { dtick: 1 } : {}) },
        yaxis: { title: { text: plain(metric) } },
      },
      {
        label: "weighted loss terms over steps, mean of each epoch",
        traces: losses,
        xaxis: { title: { text: "optimizer step" }, rangemode: "tozero" },
        yaxis: { title: { text: "loss" }, ...(low > 0 && high > RATIO * low ? { type: "log", dtick: 1 } : {}) },
      },
    ].filter(({ traces }) => traces.some(({ y }) => y.some((each) => each !== null)));
  }

  function layout({ xaxis, yaxis, traces }) {
    const style = getComputedStyle(document.body);
    const grid = style.getPropertyValue("--line");
    const axis = { gridcolor: grid, zerolinecolor: grid, automargin: true };
    return {
      height: 290 + 19 * Math.ceil(traces.length / 2),
      margin: { l: 50, r: 10, t: 10, b: 55 + 19 * Math.ceil(traces.length / 2) },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: style.color, family: style.fontFamily },
      legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom" },
      showlegend: true,
      modebar: { bgcolor: "rgba(0,0,0,0)", color: style.getPropertyValue("--quiet"), activecolor: style.color },
      xaxis: { ...axis, ...xaxis },
      yaxis: { ...axis, ...yaxis },
    };
  }

  // The section, with `drawAll` to call once it is in the page and Plotly is loaded.
  function section(content) {
    const made = document.createElement("section");
    const heading = document.createElement("h3");
    heading.textContent = "Curves";
    const words = document.createElement("p");
    words.textContent = `${content.metric} of the last evaluated epoch: ${content.curves.map((run) => `${run.name}: ${run.last}`).join(", ")}.`;
    const pair = document.createElement("div");
    pair.className = "curves";
    made.append(heading, words, pair);
    const draw = figures(content).map((figure) => {
      const box = document.createElement("div");
      box.className = "figure";
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", figure.label);
      pair.append(box);
      return () => Plotly.newPlot(box, figure.traces, layout(figure), { displaylogo: false, responsive: true });
    });
    made.drawAll = () => draw.forEach((each) => each());
    return made;
  }

  return { section };
})();
