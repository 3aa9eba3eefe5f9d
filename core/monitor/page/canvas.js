// A canvas that fills its box, is sharp on every screen, and is drawn only when it is
// seen and something has changed.

import { onTheme } from "./theme.js";

/** How much larger the page's type is than on a desk: the type of canvases grows with it. */
export const typeScale = () => parseFloat(getComputedStyle(document.documentElement).fontSize) / 14;

/** A font of so many pixels on a desk. */
export const font = (pixels) => `500 ${(pixels * typeScale()).toFixed(1)}px "Inter", system-ui, sans-serif`;

/** Calls draw(context, width, height) in CSS pixels; returns a function that asks for that. */
export function sharpCanvas(canvas, draw) {
  let wanted = false;
  let visible = true;
  const paint = () => {
    wanted = false;
    const { clientWidth: width, clientHeight: height } = canvas;
    if (!visible || width === 0 || height === 0) return;
    const ratio = Math.min(window.devicePixelRatio || 1, 3);
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    draw(context, width, height);
  };
  const ask = () => {
    if (wanted) return;
    wanted = true;
    requestAnimationFrame(paint);
  };
  new ResizeObserver(ask).observe(canvas);
  new IntersectionObserver(
    (entries) => {
      visible = entries.at(-1).isIntersecting;
      if (visible) ask();
    },
    { rootMargin: "50%" },
  ).observe(canvas);
  onTheme(ask);
  return ask;
}
