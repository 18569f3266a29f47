// Critical-difference diagrams: methods hang from an axis of mean ranks; bars join those that are not told apart.
"use strict";
(() => {
  const { LINES, colors, hover, label, show } = charts;
  const BAR = 0.55; // between bars, in lines of the figure

  const EMPTY = {
    measured: "No table has three methods measured here on five of its pairs, which ranks need: `kdbench run dkd/cifar100` trains one with eleven pairs, and `kdbench report` then ranks its methods.",
    reported: "No table of the reported numbers in this report has three methods on five pairs, which ranks need; `kdbench report` without a table's name has every file of them.",
  };

  for (const kind of ["measured", "reported"]) {
    figures.section([kind], async (choice) => () => draw(kind, figures.rankings(kind).find((each) => each.title === choice[kind])));
  }

  function draw(kind, found) {
    const id = `ranks-${kind}`;
    if (!found) return show(id, { empty: figures.index().missing || EMPTY[kind] });
    const { text, quiet, main } = colors();
    const count = found.names.length;
    const top = 1 + BAR * found.alike.length; // of the first method, below the bars
    const line = (places) => ({ x: places.map(([x]) => x), y: places.map(([, y]) => y), mode: "lines", hoverinfo: "skip", showlegend: false });
    const elbows = found.ranks.flatMap((rank, k) => [[0.5, top + k], [rank, top + k], [rank, 0], [null, null]]);
    const bars = found.alike.map(([first, last], k) => ({
      ...line([[found.ranks[first] - 0.04, 0.6 + BAR * k], [found.ranks[last] + 0.04, 0.6 + BAR * k]]),
      line: { color: main, width: 5 }, hoverinfo: "text", hovertext: hover([`not told apart: ${found.names.slice(first, last + 1).join(", ")}`]),
    }));
    const scale = [0.5, Math.min(0.5 + found.difference, count + 0.5)];
    show(id, {
      origin: `From ${found.origin}.`,
      words: found.words,
      title: `Mean ranks, ${found.title}`,
      traces: [
        { ...line(elbows), line: { color: quiet, width: 1 } },
        ...bars,
        { ...line(scale.map((x) => [x, top + count])), mode: "lines+markers", line: { color: text, width: 1.5 }, marker: { symbol: "line-ns-open", size: 9, color: text } },
        {
          x: found.ranks, y: found.ranks.map((_, k) => top + k), mode: "markers", marker: { color: LINES[0], size: 8 }, showlegend: false,
          hoverinfo: "text", hovertext: found.names.map((name, k) => hover([name, `mean rank ${found.ranks[k].toFixed(2)}`])),
        },
      ],
      plan: {
        height: 70 + 23 * (count + top + 1),
        showlegend: false,
        margin: { l: 10, r: 14, t: 30, b: 10 },
        annotations: [{ x: scale[0], y: top + count + 0.55, text: `critical difference ${found.difference.toFixed(2)}`, showarrow: false, xanchor: "left", font: { size: 12 } }],
        xaxis: { range: [0.5, count + 0.5], dtick: count > 12 ? 2 : 1, tick0: 1, side: "top", zeroline: false, showgrid: false, ticks: "outside", showline: true, linecolor: text },
        yaxis: { range: [top + count + 1, 0], tickvals: found.names.map((_, k) => top + k), ticktext: found.names.map(label), showgrid: false, zeroline: false },
      },
      head: ["method", "mean rank", "not told apart from"],
      rows: () => found.names.map((name, k) => {
        const near = found.alike.filter(([first, last]) => first <= k && k <= last).flatMap(([first, last]) => found.names.slice(first, last + 1));
        return [name, found.ranks[k].toFixed(2), [...new Set(near)].filter((other) => other !== name).join(", ") || "none: it differs from all"];
      }),
    });
  }
})();
