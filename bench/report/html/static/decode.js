// The table's data: columns of parts, as `packed.py` writes them, and how a value is shown, sorted and searched.
"use strict";
const kdbench = {};

kdbench.MISSING = "-";

// A reader of one part: the value of line i, or null.
kdbench.reader = (part) => {
  if (!part) return () => null;
  if (part.texts) return (i) => part.texts[part.at[i]] || null;
  if (!part.index) return (i) => part.values[i];
  const known = new Map(part.index.map((line, k) => [line, part.values[k]]));
  return (i) => known.get(i) ?? null;
};

kdbench.load = (data) => {
  kdbench.ids = data.ids;
  kdbench.lineOf = new Map(data.ids.map((id, i) => [id, i]));
  kdbench.filters = data.filters;
  kdbench.digits = data.digits;
  kdbench.columns = data.columns.map((column) => {
    const read = column.names.map((_, k) => kdbench.reader(column.parts[k]));
    const isText = column.kind === "text";
    return {
      ...column,
      read,
      isText,
      isEmpty: column.parts.length === 0,
      rank: isText && column.parts[0] ? kdbench.ranks(column.parts[0].texts) : null,
    };
  });
  kdbench.column = Object.fromEntries(kdbench.columns.map((column) => [column.key, column]));
};

// The place of each text in natural order, so that resnet8 comes before resnet32.
kdbench.collator = new Intl.Collator("en", { numeric: true });
kdbench.ranks = (texts) => {
  const sorted = [...texts].sort(kdbench.collator.compare);
  return new Map(sorted.map((text, rank) => [text, rank]));
};

kdbench.sortValue = (column, i) => {
  const value = column.read[0](i);
  return value !== null && column.rank ? column.rank.get(value) : value;
};

const signed = (value, digits) => (value < 0 ? "" : "+") + value.toFixed(digits);
const runs = (n, found) => (found && found !== n ? `(${n} of ${found})` : n === 1 ? "(n=1)" : `(${n})`);

const SHOW = {
  text: (column, [value]) => value,
  number: (column, [value]) => (column.key.startsWith("gain") || column.key === "difference" ? signed(value, 2) : value.toFixed(column.digits)),
  factor: (column, [value]) => `×${value.toFixed(2)}`,
  sample: (column, [mean, sd, n], i) =>
    [mean.toFixed(column.key === "reported" ? (kdbench.digits[kdbench.column.metric.read[0](i)] ?? 2) : 2), sd === null ? "" : `± ${sd.toFixed(2)}`, n === null ? "" : runs(n)].filter(Boolean).join(" "),
  gain: (column, [mean, half, n]) => [signed(mean, 2), half === null ? "" : `± ${half.toFixed(2)}`, runs(n)].filter(Boolean).join(" "),
  evidence: (column, [mean, sd, n, found, difference, verdict]) =>
    [
      mean.toFixed(2),
      sd === null ? "" : `± ${sd.toFixed(2)}`,
      runs(n, found),
      difference === null ? "" : `${signed(difference, 2)} ${verdict}`,
    ].filter(Boolean).join(" "),
};

// What a cell of the table says: plain text, which whoever shows it escapes.
kdbench.text = (column, i) => {
  const values = column.read.map((read) => read(i));
  return values[0] === null ? kdbench.MISSING : SHOW[column.kind](column, values, i);
};

kdbench.pair = (i) => {
  const teacher = kdbench.column.teacher.read[0](i);
  const student = kdbench.column.student.read[0](i) ?? "";
  return teacher ? `${teacher} → ${student}` : student;
};

kdbench.filterValue = (name, i) => (name === "pair" ? kdbench.pair(i) : (kdbench.column[name].read[0](i) ?? ""));
