"use strict";

// Asks for the page again and puts what has changed in its place. What did not change stays, and
// with it the focus, an open list and the place to which the reader has scrolled.
const EVERY = 2000;
const silent = document.querySelector("#silent");
let seen = new Date();

// Makes `to` like `from`, in place where both have the same shape.
function morph(to, from) {
  if (to.isEqualNode(from)) return;
  const alike = to.nodeName === from.nodeName && to.childNodes.length === from.childNodes.length;
  if (!alike) return to.replaceWith(from.cloneNode(true));
  if (to.nodeType !== Node.ELEMENT_NODE) {
    to.nodeValue = from.nodeValue;
    return;
  }
  for (const { name, value } of from.attributes) {
    if (to.getAttribute(name) !== value) to.setAttribute(name, value);
  }
  [...to.childNodes].forEach((child, at) => morph(child, from.childNodes[at]));
}

async function update() {
  try {
    const answer = await fetch("/", { cache: "no-store", signal: AbortSignal.timeout(2 * EVERY) });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of ["header", "main"]) {
      morph(document.querySelector(part), page.querySelector(part));
    }
    seen = new Date();
    silent.hidden = true;
  } catch {
    silent.querySelector("time").textContent = seen.toLocaleTimeString();
    silent.hidden = false;
  }
  setTimeout(update, EVERY);
}

setTimeout(update, EVERY);
