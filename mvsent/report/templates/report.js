"use strict";
for (const gallery of document.querySelectorAll(".gallery")) {
  const form = gallery.querySelector("form");
  if (!form) continue; // no cards
  const count = gallery.querySelector("output");
  const cards = [...gallery.querySelectorAll(".card")].map((element) => ({
    element,
    words: element.textContent.toLowerCase(),
  }));
  const selects = [...form.querySelectorAll("select")];
  const search = form.querySelector("input[type=search]");

  const valuesOf = (element, name) => (element.getAttribute("data-" + name) ?? "").split("\n");

  const filter = () => {
    const wanted = selects.filter((select) => select.value);
    const words = search.value.trim().toLowerCase();
    let n = 0;
    for (const { element, words: own } of cards) {
      const shown = own.includes(words) &&
        wanted.every((select) => valuesOf(element, select.name).includes(select.value));
      element.hidden = !shown;
      n += shown;
    }
    count.textContent = n === cards.length ? `All ${n} cards` : `${n} of ${cards.length} cards`;
  };

  for (const type of ["input", "change"]) form.addEventListener(type, filter); // some tools send only one
  form.addEventListener("submit", (event) => event.preventDefault());
  const showAll = () => {
    for (const control of [...selects, search]) control.value = "";
    filter();
  };
  form.addEventListener("reset", (event) => {
    event.preventDefault(); // the browser resets after this handler, and the count would be wrong
    showAll();
  });
  gallery.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    if (link && document.querySelector(link.hash)?.hidden) showAll(); // before the link is followed
  });
  form.hidden = false;
  filter();
}
