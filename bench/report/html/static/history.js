// Results over commits, with regressions and improvements marked, and the list of these changes.
"use strict";
(() => {
  const { LINES, MISSING, colors, hover, label, plain, show, table } = charts;
  const EMPTY = "A history needs rows of two commits: `kdbench baseline` keeps the rows that there are; train again at another commit, and `kdbench report` shows what changed.";

  const short = (commit) => commit.slice(0, 7) + (commit.endsWith("+") ? "+" : "");
  const STEPS = { regressed: "triangle-down", improved: "triangle-up" };

  figures.section(["history", "panel"], async ({ history, panel }) => {
    const content = await figures.content("histories", history);
    return () => draw(content, content?.panels.find((each) => figures.panelTitle(each) === panel));
  });

  function draw(content, panel) {
    if (!panel) return show("history", { empty: EMPTY });
    const { bad, good, quiet, text } = colors();
    const format = (value) => (value === null ? MISSING : `${value.toFixed(panel.side === "speed" ? 1 : 2)}${panel.side === "speed" ? " ms" : " %"}`);
    const point = (line, [at, value, word, size]) =>
      hover([line.name, `${short(content.commits[at][0])}, ${content.commits[at][1].slice(0, 10)}`, format(value), word === "unchanged" ? "" : `${word} ${size}`]);
    const stepped = panel.lines.filter((line) => line.points.some(([, , word]) => word in STEPS));
    const color = (line) => {
      if (stepped.includes(line)) return LINES[stepped.indexOf(line) % LINES.length];
      return line.name === "none" ? text : quiet;
    };
    const traces = panel.lines.map((line) => ({
      name: label(line.name), x: line.points.map(([at]) => at), y: line.points.map(([, value]) => value), mode: "lines+markers",
      line: { color: color(line), width: stepped.includes(line) || line.name === "none" ? 2 : 1 }, marker: { color: color(line), size: 5 },
      hoverinfo: "text", hovertext: line.points.map((each) => point(line, each)), showlegend: stepped.includes(line) || panel.lines.length <= 8,
    }));
    for (const [word, symbol] of Object.entries(STEPS)) {
      const found = panel.lines.flatMap((line) => line.points.map((each, k) => ({ line, each, shown: each[1] ?? lastValue(line, k) }))
        .filter(({ each }) => each[2] === word));
      if (!found.length) continue;
      traces.push({
        name: word, mode: "markers", x: found.map(({ each }) => each[0]), y: found.map(({ shown }) => shown),
        marker: { symbol, size: 13, color: word === "regressed" ? bad : good, line: { width: 1, color: colors().back } },
        hoverinfo: "text", hovertext: found.map(({ line, each }) => point(line, each)),
      });
    }
    const { commits } = content;
    const every = Math.ceil(commits.length / (charts.NARROW.matches ? 4 : 10));
    const ticks = commits.map((_, k) => k).filter((k) => k % every === 0);
    const steps = panel.lines.flatMap((line) => line.points).filter(([, , word]) => word in STEPS);
    show("history", {
      origin: `From ${content.rows} rows of ${commits.length} commits${panel.side === "speed" ? `, on ${content.machine}` : ""}.`,
      words: `${steps.filter(([, , word]) => word === "regressed").length} regressed, ${steps.filter(([, , word]) => word === "improved").length} improved; lines without a change are grey.${panel.more ? ` ${panel.more} more methods without a change are not drawn.` : ""}`,
      title: `${panel.axis} over commits, ${content.title}, ${panel.pair}`,
      traces,
      plan: {
        height: 430,
        margin: { l: 10, r: 14, t: 10, b: 44 },
        legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom" },
        xaxis: { tickvals: ticks, ticktext: ticks.map((k) => `${plain(short(commits[k][0]))}<br>${plain(commits[k][1].slice(0, 10))}`), range: [-0.3, commits.length - 0.7], zeroline: false },
        yaxis: { title: { text: plain(panel.axis) }, zeroline: false, range: range(panel) },
      },
      head: ["method", "commit", "date", panel.axis, "change since the last rows before"],
      rows: () => panel.lines.flatMap((line) => line.points.map(([at, value, word, size]) =>
        [line.name, short(commits[at][0]), commits[at][1].slice(0, 10), format(value), { text: `${word} ${size}`.trim(), className: word }])),
    });
  }

  // Of accuracy at least as wide as `span`, so that noise does not look like a change; step times begin at zero.
  function range({ side, span, lines }) {
    const shown = lines.flatMap((line) => line.points.map(([, value]) => value)).filter((value) => value !== null);
    const [low, high] = [Math.min(...shown), Math.max(...shown)];
    if (side === "speed") return [0, 1.1 * high];
    const spare = Math.max(0.08 * (high - low), (span - (high - low)) / 2);
    return [low - spare, high + spare];
  }

  // A run without a number is marked at the last value of its line.
  const lastValue = (line, k) => line.points.slice(0, k).findLast(([, value]) => value !== null)?.[1] ?? null;

  figures.section(["history"], async () => drawChanges);

  function drawChanges() {
    const { changes, more_changes: more } = figures.index();
    const words = document.getElementById("changes-words");
    words.textContent = changes.length
      ? `Every change that was found, the latest first${more ? `; ${more} older ones are left out` : ""}. A commit opens its figure.`
      : "No change was found: either nothing regressed or improved, or no table has rows of two commits.";
    if (!changes.length) return document.getElementById("changes").replaceChildren();
    const link = (each) => `#${new URLSearchParams({ history: each.title, panel: figures.panelTitle(each) })}`;
    const rows = changes.map((each) => [
      { text: short(each.commit), href: link(each) }, { text: each.word, className: each.word }, `${each.of} ${each.size}`,
      each.method, each.title, each.pair, each.finished.slice(0, 10),
    ]);
    document.getElementById("changes").replaceChildren(
      table("Changes", ["commit", "change", "by", "method", "table", "pair", "date"], rows));
  }
})();
