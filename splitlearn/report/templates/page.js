"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const places = [];

  // The points of a plot that can be told, in the order of its traces.
  function points(figure) {
    const found = [];
    figure.data.forEach((trace, curve) => {
      if (trace.hoverinfo === "skip") return;
      if (trace.type === "heatmap") {
        trace.z.forEach((row, y) => row.forEach((value, x) => {
          if (value !== null) found.push({at: {curveNumber: curve, xval: x, yval: y}, words: trace.customdata[y][x]});
        }));
      } else {
        const count = (trace.orientation === "h" ? trace.x : trace.y).length;
        for (let point = 0; point < count; point++) {
          const words = trace.customdata ? trace.customdata[point] : `${trace.meta}\nstep ${trace.x[point]}: ${trace.y[point]}`;
          found.push({at: {curveNumber: curve, pointNumber: point}, words});
        }
      }
    });
    return found;
  }

  // Arrow keys go from point to point; what is under the cursor is said below the plot.
  function listen(place, figure) {
    const all = points(figure);
    const said = place.parentElement.querySelector("output");
    let at = -1;
    place.addEventListener("keydown", (event) => {
      const steps = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1};
      if (event.key === "Escape") {
        at = -1;
        said.textContent = "";
        Plotly.Fx.unhover(place);
        return;
      }
      if (event.key === "Home" || event.key === "End") at = event.key === "Home" ? 0 : all.length - 1;
      else if (event.key in steps && all.length) at = (at + steps[event.key] + all.length + (at < 0 && steps[event.key] < 0 ? 1 : 0)) % all.length;
      else return;
      event.preventDefault();
      if (!all.length) return;
      said.textContent = all[at].words;
      Plotly.Fx.hover(place, [all[at].at]);
    });
    place.addEventListener("blur", () => { said.textContent = ""; Plotly.Fx.unhover(place); });
  }

  // The plotting library reads a label as markup, so that text is escaped for it.
  function label(words) {
    if (Array.isArray(words)) return words.map(label);
    return words.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll("\n", "<br>");
  }

  for (const [name, figure] of Object.entries(figures)) {
    for (const trace of figure.data) if (trace.customdata && trace.hoverinfo === "text") trace.hovertext = label(trace.customdata);
    const place = document.getElementById(name);
    if (!place) continue;
    Plotly.newPlot(place, figure.data, figure.layout, {displayModeBar: false, responsive: true});
    listen(place, figure);
    places.push(place);
  }

  // Paper is narrower than a screen, and drawings do not shrink by themselves.
  function fit(isPrinting) {
    document.documentElement.classList.toggle("printing", isPrinting);
    for (const place of places) Plotly.relayout(place, {width: place.clientWidth});
  }
  window.addEventListener("beforeprint", () => fit(true));
  window.addEventListener("afterprint", () => fit(false));
  window.matchMedia("print").addEventListener("change", (event) => fit(event.matches));
  window.addEventListener("resize", () => {
    if (!document.documentElement.classList.contains("printing")) for (const place of places) Plotly.relayout(place, {width: place.clientWidth});
  });

  for (const table of document.querySelectorAll("table.sortable")) {
    table.querySelectorAll("th button").forEach((button, column) => button.addEventListener("click", () => {
      const heading = button.parentElement;
      const isDown = heading.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", isDown ? "descending" : "ascending");
      const body = table.tBodies[0];
      const isNumber = heading.classList.contains("number");
      const key = (row) => isNumber ? row.cells[column].dataset.value : row.cells[column].textContent;
      const rows = [...body.rows].sort((one, other) => {
        const [a, b] = [key(one), key(other)];
        // What is not known stays below, whichever way the table is sorted.
        if (a === "" || b === "") return (a === "") - (b === "");
        const order = isNumber ? Number(a) - Number(b) : a.localeCompare(b, undefined, {numeric: true});
        return isDown ? -order : order;
      });
      body.append(...rows);
    }));
  }
  document.documentElement.dataset.ready = "yes";
})();
