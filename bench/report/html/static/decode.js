// The table's data: columns of parts, as `packed.py` writes them, and how a value is shown, sorted and searched.
"use strict";
const kdbench = {};

kdbench.MISSING = "-";

const bytes = (text) => {
  const read = atob(text);
  const made = new Uint8Array(read.length);
  for (let k = 0; k < read.length; k++) made[k] = read.charCodeAt(k);
  return made.buffer;
};
const PLACES = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array };
const rounded = (value) => Number(value.toPrecision(6));

// What `make` gives, made when it is first asked for: most columns are never looked at.
const lazy = (make) => {
  let made = null;
  return () => (made ??= make());
};

// A reader of one part: the value of line i, or null.
kdbench.reader = (part) => {
  if (!part) return () => null;
  if (part.floats) {
    const floats = lazy(() => new Float32Array(bytes(part.floats)));
    return (i) => (Number.isNaN(floats()[i]) ? null : rounded(floats()[i]));
  }
  part.places = lazy(() => new PLACES[part.width](bytes(part.at)));
  return (i) => part.values[part.places()[i]];
};

kdbench.load = (data) => {
  kdbench.ids = data.ids;
  kdbench.shards = data.shards; // files of details, each with its first line
  kdbench.lineOf = lazy(() => new Map(data.ids.map((id, i) => [id, i])));
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
    };
  });
  kdbench.column = Object.fromEntries(kdbench.columns.map((column) => [column.key, column]));
};

// The place of each text in natural order, so that resnet8 comes before resnet32.
kdbench.collator = new Intl.Collator("en", { numeric: true });
kdbench.ranks = (texts) => {
  const sorted = texts.filter((text) => text !== null).sort(kdbench.collator.compare);
  return new Map(sorted.map((text, rank) => [text, rank]));
};

// Numbers by which a column is sorted, line by line; NaN for a line without a value.
kdbench.sortValues = (column) => {
  const rank = column.isText && !column.isEmpty ? kdbench.ranks(column.parts[0].values) : null;
  return Float64Array.from(kdbench.ids, (_, i) => {
    const value = column.read[0](i);
    return value === null ? NaN : rank ? rank.get(value) : value;
  });
};

// Line numbers in the order of a column; lines without a value come last in both directions.
kdbench.sorted = (lines, column, direction) => {
  const values = kdbench.sortValues(column);
  const sign = direction === "desc" ? -1 : 1;
  const compare = (a, b) => {
    if (Number.isNaN(values[a])) return Number.isNaN(values[b]) ? a - b : 1;
    return Number.isNaN(values[b]) ? -1 : sign * (values[a] - values[b]) || a - b;
  };
  return [...lines].sort(compare);
};

// What a search looks at: all texts of a line, and the reported number.
let searched = null;
kdbench.searched = () => {
  if (searched) return searched;
  const columns = kdbench.columns.filter((column) => !column.isEmpty && (column.isText || column.key === "reported"));
  searched = kdbench.ids.map((id, i) => `${id} ${columns.map((column) => kdbench.text(column, i)).join(" ")}`.toLowerCase());
  return searched;
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

// What a filter compares: distinct texts, and for each line the place of its text among them.
const filtered = {};
kdbench.filterValues = (name) => (filtered[name] ??= name === "pair" ? pairs() : texts(kdbench.column[name].parts[0]));

const texts = (part) =>
  part ? { values: part.values.map((text) => text ?? ""), at: part.places() } : { values: [""], at: new Uint8Array(kdbench.ids.length) };

function pairs() {
  const [teachers, students] = ["teacher", "student"].map((name) => texts(kdbench.column[name].parts[0]));
  const seen = new Map();
  const values = [];
  const at = Uint32Array.from(kdbench.ids, (_, i) => {
    const key = teachers.at[i] * students.values.length + students.at[i];
    const place = seen.get(key);
    if (place !== undefined) return place;
    seen.set(key, values.length);
    return values.push(kdbench.pair(i)) - 1;
  });
  return { values, at };
}
