"use strict";
// What all pages are made with. Texts of models and data reach a document as text nodes alone.

/** An element: properties, then children, which are nodes or texts; null and false are left out. */
const h = (name, properties, ...children) => fill(document.createElement(name), properties, children);

const SVG = "http://www.w3.org/2000/svg";

/** An element of SVG. */
const s = (name, attributes, ...children) => {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
  element.append(...children.filter((child) => child !== null && child !== false));
  return element;
};

const fill = (element, properties, children) => {
  for (const [key, value] of Object.entries(properties || {})) {
    if (key === "class") element.className = value;
    else if (key.startsWith("aria-") || key === "role") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
};

const byId = (id) => document.getElementById(id);

/** The value that an object has of its own under a name that others chose, such as "constructor". */
const own = (object, name, otherwise) => (Object.hasOwn(object, name) ? object[name] : otherwise);

/** A number in as few characters as tell it. */
const short = (value) => {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(1);
  return String(Number(value.toPrecision(size >= 1000 ? 6 : 3)));
};
