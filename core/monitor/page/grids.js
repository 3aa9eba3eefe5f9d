// Decodes the numbers of a frame: one for each expert, layer after layer.

/** Base64 of 16-bit little-endian integers. */
function integers(text) {
  const bytes = atob(text ?? "");
  const found = new Uint16Array(bytes.length / 2);
  for (let i = 0; i < found.length; i++) found[i] = bytes.charCodeAt(2 * i) | (bytes.charCodeAt(2 * i + 1) << 8);
  return found;
}

/**
 * What each expert has: now and run are loads, 1 being balance and 0 IDLE; energy is the share
 * of its layer's dynamic energy, or null where it was not attributed.
 */
export function decodeGrids(grids) {
  const energy = grids.energy ? integers(grids.energy) : null;
  return {
    now: Float32Array.from(integers(grids.now), (n) => n / 256),
    run: Float32Array.from(integers(grids.run), (n) => n / 256),
    energy: energy && Float32Array.from(energy, (n) => n / 65535),
    quality: grids.energy_quality ?? "",
  };
}
