"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("scripted");
  const { figures, dark } = JSON.parse(document.getElementById("data").textContent);

  // Figures ------------------------------------------------------------------------------------------

  // Figures carry the light theme's colours; any key that names a colour may hold one.
  const themed = (value, isDark, key = "") => {
    if (typeof value === "string") return isDark && /colou?r(scale)?$/.test(key) ? dark[value] ?? value : value;
    if (Array.isArray(value)) {
      return key === "colorscale" || !/^(x|y|z|customdata)$/.test(key) ? value.map((v) => themed(v, isDark, key)) : value;
    }
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, themed(v, isDark, k)]));
    }
    return value;
  };
  const wantsDark = matchMedia("(prefers-color-scheme: dark)");
  const config = {
    responsive: true,
    displaylogo: false,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]], // none that could send anything away
  };
  const draw = (place, isDark, width) => {
    const { data, layout } = themed(figures[place.dataset.figure], isDark);
    if (width) Object.assign(layout, { width, autosize: false });
    // A legend of many entries needs its own room where few of them stand side by side.
    const names = layout.showlegend ? data.filter((one) => one.showlegend !== false).length : 0;
    const lines = Math.ceil(names / Math.max(1, Math.floor((width ?? place.clientWidth) / 170)));
    if (lines > 4) layout.height += 25 * (lines - 4);
    return window.Plotly.react(place, data, layout, config);
  };
  // A figure in two variants: the bars' lengths are shares or times.
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.(".switch button");
    if (!button) return;
    const place = button.closest("figure").querySelector(".plot");
    place.dataset.figure = button.dataset.show;
    for (const other of button.parentElement.children) other.setAttribute("aria-pressed", other === button);
    if (place.classList.contains("js-plotly-plot")) draw(place, wantsDark.matches);
  });
  const plots = [...document.querySelectorAll(".plot")];
  const drawAll = (isDark, width) => plots.map((place) => draw(place, isDark, width));

  // plotly.js comes gzipped; the page's policy knows the hash of what it unpacks to.
  const unpack = async () => {
    const bytes = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  };
  const start = async () => {
    if (!plots.length) return;
    try {
      await unpack();
      for (const place of plots) {
        await draw(place, wantsDark.matches);
        place.style.minHeight = "";
        await new Promise((done) => setTimeout(done)); // lets the page answer between two figures
      }
    } catch (error) {
      console.error(error);
      for (const place of plots.filter((p) => !p.classList.contains("js-plotly-plot"))) {
        const words = document.createElement("p");
        words.className = "failed-to-draw";
        words.textContent =
          "This browser cannot draw the figures (that needs Chrome 80, Firefox 113 or Safari 16.4); the tables hold the same numbers.";
        place.replaceChildren(words);
        place.style.minHeight = "";
      }
      return;
    }
    wantsDark.addEventListener("change", () => drawAll(wantsDark.matches));
    const PAPER = 690; // what fits between the margins of A4 and Letter, in CSS pixels
    addEventListener("beforeprint", () => drawAll(false, PAPER));
    addEventListener("afterprint", () => drawAll(wantsDark.matches));
  };
  const opened = [];
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details:not([open])")) {
      details.open = true;
      opened.push(details);
    }
  });
  addEventListener("afterprint", () => opened.splice(0).forEach((details) => { details.open = false; }));

  // Tables -------------------------------------------------------------------------------------------

  // Numbers sort by data-v, words as words; what has no value comes last either way.
  const sort = (heading) => {
    const table = heading.closest("table");
    const column = heading.cellIndex;
    const numeric = heading.classList.contains("n");
    const current = heading.getAttribute("aria-sort");
    const down = current === "none" ? numeric : current === "ascending";
    const keyed = [...table.tBodies[0].rows].map((row) => {
      const cell = row.cells[column];
      const value = numeric ? Number(cell.dataset.v ?? NaN) : cell.textContent.trim();
      return { row, value, missing: numeric ? Number.isNaN(value) : value === "–" };
    });
    const words = new Intl.Collator("en", { numeric: true });
    keyed.sort((a, b) => {
      if (a.missing || b.missing) return a.missing - b.missing;
      const order = numeric ? a.value - b.value : words.compare(a.value, b.value);
      return down ? -order : order;
    });
    table.tBodies[0].append(...keyed.map((entry) => entry.row));
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.(".sortable thead button");
    if (button) sort(button.closest("th"));
  });

  const filter = (form) => {
    const table = document.getElementById(form.dataset.table);
    const text = form.elements.text.value.trim().toLowerCase();
    const role = form.elements.role.value;
    const reason = form.elements.reason.value;
    const rows = table.tBodies[0].rows;
    let shown = 0;
    for (const row of rows) {
      const match =
        (!role || row.dataset.role === role) &&
        (!reason || row.dataset.reason === reason) &&
        (!text || row.textContent.toLowerCase().includes(text));
      row.hidden = !match;
      shown += match;
    }
    const all = rows.length;
    form.querySelector("output").textContent =
      shown === all ? `${all} row${all === 1 ? "" : "s"}` : `${shown} of ${all} rows`;
    table.parentElement.querySelector(".nothing").hidden = shown > 0;
  };
  document.addEventListener("input", (event) => {
    const form = event.target.closest?.("form.filter");
    if (form) filter(form);
  });
  document.addEventListener("submit", (event) => event.preventDefault());
  document.querySelectorAll("form.filter").forEach(filter); // a reload keeps what was typed

  // Contents: mark the section that is being read.
  const links = new Map([...document.querySelectorAll("nav li a")].map((a) => [a.hash.slice(1), a]));
  const seen = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        const link = links.get(target.getAttribute("aria-labelledby"));
        if (link && isIntersecting) link.setAttribute("aria-current", "true");
        else link?.removeAttribute("aria-current");
      }
    },
    { rootMargin: "-15% 0px -75% 0px" },
  );
  document.querySelectorAll("section").forEach((section) => seen.observe(section));

  start().then(() => { root.dataset.ready = "yes"; });
})();
