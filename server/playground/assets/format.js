// Numbers for people: three digits that matter, a unit, and a real minus sign.

const SCALES = [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

function digits(value) {
  const size = Math.abs(value);
  const text = size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : value.toFixed(2);
  return text.replace("-", "−");
}

function scaled(value, unit) {
  const scale = SCALES.find(([size]) => Math.abs(value) >= size);
  if (!scale) return `${digits(value).replace(/[.]00$/, "")} ${unit}`;
  return `${digits(value / scale[0])} ${scale[1]}${unit}`;
}

export const flops = (value) => scaled(value, "FLOPs");
export const bytes = (value) => scaled(value, "B");

/** "1.78 of 2.52 GFLOPs": the unit once where both have it. */
export function part(format, some, all) {
  const [[one, unit], whole] = [format(some).split(" "), format(all)];
  return whole.endsWith(` ${unit}`) ? `${one} of ${whole}` : `${format(some)} of ${whole}`;
}

export function milliseconds(value) {
  return value >= 1000 ? `${digits(value / 1000)} s` : `${digits(value)} ms`;
}

/** `0.0032` → "0.32 %", `0.537` → "54 %". */
export function percent(share) {
  const value = 100 * share;
  const size = Math.abs(value);
  const text = size >= 10 || size === 0 ? value.toFixed(0) : Number(value.toPrecision(2)).toString();
  return `${text.replace("-", "−")} %`;
}

/** A probability as it would be typed: three digits, no trailing zeros. */
export const setting = (value) => Number(Number(value).toPrecision(3)).toString();

export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}
