"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const [form, image, drop, status, answer] = ["pair", "image", "drop", "status", "answer"].map(at);
  const SHADES = 9; // as report.css has them

  /** An element with attributes, holding texts and elements; a text is never read as HTML. */
  function element(name, attributes, ...content) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...content);
    return made;
  }

  function say(text, wrong) {
    status.textContent = text;
    status.classList.toggle("wrong", wrong);
  }

  function showChosen() {
    const [file] = image.files;
    URL.revokeObjectURL(at("preview").src);
    at("chosen").hidden = !file;
    if (file) at("preview").src = URL.createObjectURL(file);
  }

  function shaded(name, words, weights) {
    // As on the page of `mvsent explain`: words that weigh the same are all half dark.
    const mean = weights.reduce((sum, weight) => sum + weight, 0) / weights.length;
    const darkest = Math.max(...weights, 2 * mean);
    const spans = words.flatMap((word, i) => {
      const step = darkest > 0 ? Math.round((SHADES * (weights[i] ?? 0)) / darkest) : 0;
      return [element("span", { class: `shade-${step}` }, word), " "];
    });
    return element("figure", {},
      element("p", { class: "shaded", dir: "auto" }, ...spans),
      element("figcaption", {}, `${name}: the darker, the more weight; all half dark: evenly spread`));
  }

  function show(found) {
    at("probabilities").replaceChildren(...Object.entries(found.probabilities).flatMap(([name, value]) => {
      const percent = `${(100 * value).toFixed(1)} %`;
      const meter = element("meter", { min: 0, max: 1, value, "aria-label": name }, percent);
      return [element("dt", {}, name), element("dd", {}, meter, ` ${percent}`)];
    }));
    const layers = Object.entries({ ...(found.picture && { picture: found.picture }), ...found.maps });
    at("layers").replaceChildren(...layers.map(([name, uri]) => element("figure", {},
      element("img", { src: uri, alt: name === "picture" ? "The picture" : `The picture under heat: ${name}` }),
      element("figcaption", {}, name))));
    at("shades").replaceChildren(...Object.entries(found.shades)
      .map(([name, weights]) => shaded(name, found.words, weights)));
    at("note").textContent = found.note;
    answer.hidden = false;
    const best = Math.max(...Object.values(found.probabilities));
    const without = found.missing ? `, judged without ${found.missing}` : "";
    say(`It feels ${found.label}, with ${(100 * best).toFixed(1)} %${without}.`, false);
  }

  async function ask() {
    const pair = new FormData();
    if (image.files[0]) pair.append("image", image.files[0]);
    pair.append("text", at("text").value);
    pair.append("explain", at("explain").checked);
    const reply = await fetch("/api/predict", { method: "POST", body: pair });
    const found = await reply.json();
    if (!reply.ok) throw new Error(found.error);
    show(found);
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (at("ask").getAttribute("aria-disabled") === "true") return;
    at("ask").setAttribute("aria-disabled", "true"); // it keeps the focus, unlike a disabled one
    say("Asking …", false);
    try {
      await ask();
    } catch (error) {
      answer.hidden = true;
      say(error instanceof TypeError ? "The server does not answer." : `No answer: ${error.message}.`, true);
    } finally {
      at("ask").removeAttribute("aria-disabled");
    }
  });

  image.addEventListener("change", showChosen);
  at("remove").addEventListener("click", () => {
    image.value = "";
    showChosen();
    image.focus();
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault(); // the browser would leave the page for the picture
      drop.classList.toggle("over", kind === "dragover");
    });
  }
  document.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    const one = new DataTransfer();
    one.items.add(event.dataTransfer.files[0]);
    image.files = one.files;
    showChosen();
  });
  showChosen();
})();
