// Builds elements. Texts of a run (names, tokens, messages) only ever become text nodes:
// what a file of records says can never become markup.

/** element("p.note", {testid: "x", title: "y"}, "text", child): attributes that are null are left out. */
export function element(what, attributes, ...children) {
  const [tag, ...classes] = what.split(".");
  const node = document.createElement(tag || "div");
  if (classes.length) node.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "testid") node.dataset.testid = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const byId = (id) => document.getElementById(id);

/** Sets a text only if it differs: an unchanged node is not laid out again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A row of buttons of which one is pressed. options: [[value, label], ...]. */
export function choice(root, options, chosen, choose) {
  const buttons = options.map(([value, label]) =>
    element("button", { type: "button", "aria-pressed": String(value === chosen), "data-value": value, onclick: () => press(value) }, label),
  );
  const press = (value) => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.value === value));
    choose(value);
  };
  root.replaceChildren(...buttons);
  return press;
}

/** Fills a select with [[value, label], ...] if they changed; keeps what was selected. */
export function fillSelect(select, options) {
  const key = JSON.stringify(options);
  if (select.dataset.options === key) return;
  const before = select.value;
  select.dataset.options = key;
  select.replaceChildren(...options.map(([value, label]) => element("option", { value }, label)));
  if (options.some(([value]) => String(value) === before)) select.value = before;
}
