// Numbers as people read them. Unknown numbers are a dash, never a zero.

export const UNKNOWN = "\u2014";
const MINUS = "\u2212";
const PREFIXES = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "\u00b5"], [1e-9, "n"], [1e-12, "p"]];

export const isKnown = (value) => typeof value === "number" && Number.isFinite(value);

/** A number to so many significant digits, without an exponent where it is readable. */
export function digits(value, significant = 3) {
  if (!isKnown(value)) return UNKNOWN;
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e6 || size < 1e-4) return value.toExponential(significant - 1).replace("e+", "e").replaceAll("-", MINUS);
  const decimals = Math.max(0, significant - 1 - Math.floor(Math.log10(size)));
  return value.toFixed(Math.min(decimals, 6)).replace("-", MINUS);
}

/** Splits a value of a unit into its number and its prefixed unit: 0.00042, "J" -> ["420", "µJ"]. */
export function split(value, unit, significant = 3) {
  if (!isKnown(value)) return [UNKNOWN, ""];
  if (value === 0) return ["0", unit];
  const size = Math.abs(value) * (1 + 0.5 * 10 ** -significant);
  const [scale, prefix] = PREFIXES.find(([scale]) => size >= scale) ?? PREFIXES.at(-1);
  return [digits(value / scale, significant), prefix + unit];
}

export function si(value, unit, significant = 3) {
  const [number, name] = split(value, unit, significant);
  return name ? `${number}\u202f${name}` : number;
}

/** With a sign always: a saving must show which way it goes. */
export function signed(value, significant = 3) {
  if (!isKnown(value)) return UNKNOWN;
  return value > 0 ? `+${digits(value, significant)}` : digits(value, significant);
}

export const count = (value) => (isKnown(value) ? value.toLocaleString("en-US") : UNKNOWN);

/** A count in few characters: 1.24 M. */
export const short = (value) => (isKnown(value) && Math.abs(value) < 1000 ? String(Math.round(value)) : si(value, ""));

export const percent = (share, significant = 2) => (isKnown(share) ? `${digits(100 * share, significant)}\u202f%` : UNKNOWN);

/** Seconds as a clock: 3:07, 1:02:45. */
export function clock(seconds) {
  if (!isKnown(seconds)) return UNKNOWN;
  const whole = Math.max(0, Math.floor(seconds));
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  if (parts[0] === 0) parts.shift();
  return parts.map((part, i) => (i ? String(part).padStart(2, "0") : part)).join(":");
}

/** ± the uncertainty of a quantity in the unit and prefix of its value. */
export function plusMinus(quantity, unit) {
  if (!isKnown(quantity?.value) || !isKnown(quantity.uncertainty)) return null;
  return `\u00b1\u202f${si(quantity.uncertainty, unit, 2)}`;
}

/** Where a value comes from, for a title: "nvml_counter, measured, ±0.2 J". */
export function provenance(quantity, unit) {
  if (!quantity || !isKnown(quantity.value)) return `not known (source: ${quantity?.source || "none"})`;
  const words = [`source: ${quantity.source}`, quantity.quality, plusMinus(quantity, unit)];
  if (quantity.low_resolution) words.push("low resolution: under ten updates of the meter");
  if (quantity.incomplete) words.push("incomplete: part of it was not metered");
  return words.filter(Boolean).join(", ");
}
