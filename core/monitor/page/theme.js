// Dark, light, or as the system has it; and the colours as canvases need them.

const CHOICES = ["auto", "dark", "light"];
const root = document.documentElement;
const listeners = new Set();
let colours = new Map();

function apply(choice) {
  root.dataset.theme = choice;
  colours = new Map();
  for (const listener of listeners) listener();
}

const remembered = () => {
  try {
    return localStorage.getItem("genesis-moe-theme");
  } catch {
    return null; // storage can be forbidden; then the choice lasts as long as the page
  }
};

/** The value of a CSS variable, such as colour("--routed"). */
export function colour(name) {
  if (!colours.has(name)) colours.set(name, getComputedStyle(root).getPropertyValue(name).trim());
  return colours.get(name);
}

/** Calls back whenever colours have changed. */
export const onTheme = (listener) => listeners.add(listener);

/** Makes a button that goes through the choices. */
export function themeButton(button) {
  const label = () => {
    button.textContent = { auto: "Auto", dark: "Dark", light: "Light" }[root.dataset.theme];
  };
  const next = () => {
    const choice = CHOICES[(CHOICES.indexOf(root.dataset.theme) + 1) % CHOICES.length];
    apply(choice);
    label();
    try {
      localStorage.setItem("genesis-moe-theme", choice);
    } catch {
      // As above.
    }
  };
  const before = remembered();
  if (CHOICES.includes(before)) apply(before);
  label();
  button.addEventListener("click", next);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => apply(root.dataset.theme));
  return next;
}
