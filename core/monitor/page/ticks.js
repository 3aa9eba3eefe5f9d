// Round numbers for an axis.

/** About `wanted` round numbers from low to high: steps of 1, 2 or 5 times a power of ten. */
export function ticks(low, high, wanted) {
  const step = roundStep((high - low) / Math.max(wanted, 1));
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}

/** Likewise for seconds: steps that a clock has. */
export function clockTicks(low, high, wanted) {
  const least = (high - low) / Math.max(wanted, 1);
  const step = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400].find((s) => s >= least) ?? roundStep(least);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(i * step);
  return found;
}

function roundStep(about) {
  if (!(about > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(about));
  const ratio = about / power;
  return power * (ratio < 1.5 ? 1 : ratio < 3.5 ? 2 : ratio < 7.5 ? 5 : 10);
}
