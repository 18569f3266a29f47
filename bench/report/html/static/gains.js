// Gains with intervals, and gains against cost, of the methods of a pair.
"use strict";
(() => {
  const { MISSING, colors, hover, label, plain, show, signed } = charts;

  const pairOf = async ({ table, pair }) => {
    const content = await figures.content("groups", table);
    return { content, pair: content?.pairs.find((each) => each.title === pair) };
  };
  const LISTED = 10; // methods on the front that are named
  const listedMore = (count) => (count > LISTED ? ` and ${count - LISTED} more` : "");
  const cell = (method) => `index.html#cell=${method.id}`;
  const more = (left, why = "") => (left ? ` ${left} more methods are not drawn${why}; the table of cells has them.` : "");
  const command = ({ command: run }) => `\`${run}\` trains it, and \`kdbench report\` then shows it here.`;

  const spread = (gain) => (gain[1] === null ? "n=1, no interval" : `± ${gain[1].toFixed(2)} (95 %), n=${gain[2]}`);

  figures.section(["table", "pair", "over"], async (choice) => {
    const { content, pair } = await pairOf(choice);
    return () => drawGains(content, pair, choice);
  });

  function drawGains(content, pair, { over }) {
    const words = figures.OVERS[over];
    const [gainOf, reportedOf] = over === "kd" ? ["gain_kd", "reported_kd"] : ["gain", "reported"];
    const measured = (method) => method[gainOf];
    const reported = (method) => method[reportedOf];
    const methods = (pair?.methods ?? []).filter((each) => !each.base && (measured(each) || reported(each)));
    const by = (method) => (measured(method) ? measured(method)[0] : reported(method)[0] - 1000);
    methods.sort((a, b) => by(b) - by(a));
    const left = methods.splice(figures.index().most).length + (pair?.more ?? 0);
    if (!methods.length) {
      return show("gains", { empty: content ? `No gain over ${words} is measured or reported for this pair: ${command(content)}` : "This report has no table." });
    }
    const { main, quiet, bad } = colors();
    const place = new Map(methods.map((method, k) => [method, k]));
    const dots = methods.filter(measured);
    const rings = methods.filter(reported);
    const y = (list) => list.map((method) => place.get(method));
    const traces = [
      {
        name: "measured, 95 % interval", mode: "markers", x: dots.map((each) => measured(each)[0]), y: y(dots), ids: dots.map((each) => each.id),
        error_x: { type: "data", array: dots.map((each) => measured(each)[1] ?? 0), color: main, thickness: 1.5, width: 4 },
        marker: { color: main, size: 9 }, customdata: dots.map(cell), hoverinfo: "text",
        hovertext: dots.map((each) => hover([each.name, `${signed(measured(each)[0])} points, ${spread(measured(each))}`])),
      },
      {
        name: "reported", mode: "markers", x: rings.map((each) => reported(each)[0]), y: y(rings),
        marker: { color: bad, size: 9, symbol: "diamond-open", line: { width: 1.6 } }, customdata: rings.map(cell), hoverinfo: "text",
        hovertext: rings.map((each) => hover([each.name, `reported: ${signed(reported(each)[0])} points`])),
      },
    ].filter((trace) => trace.x.length);
    show("gains", {
      origin: [
        pair.origin ? `From ${pair.origin}.` : `No run of this pair is finished, so these are reported gains alone: ${command(content)}`,
        rings.length ? `Reported by ${pair.papers}.` : "",
      ].join(" ").trim(),
      words: summary(dots.map((each) => [each.name, measured(each)]), words) + more(left, ", as they gain less"),
      title: `Gain over ${words}, ${content.title}, ${pair.title}`,
      traces,
      plan: {
        height: 90 + 25 * methods.length,
        xaxis: { title: { text: plain(`gain, points of ${content.metric}`) }, zeroline: true, zerolinewidth: 1.5, zerolinecolor: quiet },
        yaxis: { tickvals: methods.map((_, k) => k), ticktext: methods.map((each) => label(each.name)), range: [methods.length - 0.4, -0.6], showgrid: false, zeroline: false },
      },
      head: ["method", "measured gain", "± half of the 95 % interval", "n", "reported gain"],
      rows: () => methods.map((each) => {
        const gain = measured(each);
        return [{ text: each.name, href: cell(each) }, gain && signed(gain[0]), gain?.[1]?.toFixed(2) ?? null, gain?.[2] ?? null, reported(each) && signed(reported(each)[0])];
      }),
      open: (point) => point.customdata,
    });
  }

  // Which methods gain for certain: their interval leaves out zero.
  function summary(gains, over) {
    const known = gains.filter(([, gain]) => gain[1] !== null);
    if (!known.length) return gains.length ? "One seed each: no interval." : "";
    const clear = known.filter(([, gain]) => Math.abs(gain[0]) > gain[1]);
    const better = clear.filter(([, gain]) => gain[0] > 0).length;
    return `Of ${known.length} drawn methods with several seeds, ${better} are better and ${clear.length - better} worse than ${over} by more than their interval; ${known.length - clear.length} are not told apart from it.`;
  }

  figures.section(["table", "pair", "cost"], async (choice) => {
    const { content, pair } = await pairOf(choice);
    return () => drawCost(content, pair, choice.cost);
  });

  function drawCost(content, pair, axis) {
    const place = Object.keys(figures.COSTS).indexOf(axis);
    const methods = (pair?.methods ?? []).filter((each) => each.gain && each[axis] !== null);
    if (!methods.length) {
      return show("cost", { empty: content ? `No run of this pair is finished with a cost and a gain: ${command(content)}` : "This report has no table." });
    }
    const { main, quiet, text } = colors();
    const cost = (each) => (axis === "time" ? `×${each.time.toFixed(2)}` : `${each.step.toFixed(1)} ms`);
    const front = methods.filter((each) => each.front[place]).sort((a, b) => a[axis] - b[axis]);
    const beaten = methods.filter((each) => !each.front[place]);
    const marks = (list, name, marker, named) => ({
      name, mode: named ? "lines+markers+text" : "markers+text", x: list.map((each) => each[axis]), y: list.map((each) => each.gain[0]),
      line: { shape: "hv", color: main, width: 1.5 }, marker, cliponaxis: false, hoverinfo: "text", customdata: list.map(cell),
      text: list.map((each) => ((named && list.length <= LISTED) || methods.length <= 8 ? label(each.name) : "")), textposition: "top center", textfont: { color: text },
      hovertext: list.map((each) => hover([each.name, `${signed(each.gain[0])} points`, `${cost(each)}${named ? ", on the front" : ""}`])),
    });
    show("cost", {
      origin: `From ${pair.origin}.`,
      words: `On the Pareto front: ${front.slice(0, LISTED).map((each) => `${each.name} (${signed(each.gain[0])} at ${cost(each)})`).join(", ")}${listedMore(pair.on_front[place])}.${more(pair.more)}`,
      title: `Gain against ${figures.COSTS[axis]}, ${content.title}, ${pair.title}`,
      traces: [
        marks(beaten, "beaten by another", { color: quiet, size: 8, symbol: "circle-open", line: { width: 1.5 } }, false),
        marks(front, "Pareto front", { color: main, size: 10 }, true),
      ].filter((trace) => trace.x.length),
      plan: {
        height: 420,
        xaxis: { title: { text: axis === "time" ? "training time over that of the student alone" : "training step, ms" }, range: around(methods.map((each) => each[axis])) },
        yaxis: { title: { text: plain(`gain, points of ${content.metric}`) }, range: around(methods.map((each) => each.gain[0])) },
      },
      head: ["method", "gain", "training time", "step, ms", "Pareto front"],
      rows: () => [...front, ...beaten].map((each) => [
        { text: each.name, href: cell(each) }, signed(each.gain[0]), each.time === null ? MISSING : `×${each.time.toFixed(2)}`, each.step?.toFixed(1) ?? MISSING, each.front[place] ? "yes" : "no",
      ]),
      open: (point) => point.customdata,
    });
  }

  // A range that leaves room for names around points.
  function around(values) {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const spare = 0.16 * (high - low) || 0.1 * Math.abs(high) || 1;
    return [low - spare, high + spare];
  }
})();
