// Hover and keyboard for the charts; the page is complete without this.
"use strict";
(() => {
  const tip = document.getElementById("tip");
  const format = (v) => {
    if (v === 0) return "0";
    const a = Math.abs(v);
    if (a >= 10000) return v.toLocaleString("en", { maximumFractionDigits: 0 });
    if (a < 0.001) return v.toExponential(2);
    return String(Number(v.toPrecision(4)));
  };
  const place = (x, y) => {
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(6, Math.min(x - box.width / 2, innerWidth - box.width - 6))}px`;
    tip.style.top = `${y - box.height - 12 > 4 ? y - box.height - 12 : y + 18}px`;
  };
  const hide = () => { tip.hidden = true; };

  for (const item of document.querySelectorAll("[data-tip]")) {
    const show = () => {
      if (!item.dataset.tip) return;
      const box = item.getBoundingClientRect();
      tip.textContent = item.dataset.tip;
      place(box.left + box.width / 2, box.top);
    };
    item.addEventListener("pointerenter", show);
    item.addEventListener("focus", show);
    item.addEventListener("pointerleave", hide);
    item.addEventListener("blur", hide);
  }

  for (const plot of document.querySelectorAll("[data-chart]")) {
    const chart = JSON.parse(plot.dataset.chart);
    const [x0, x1, y0, y1] = chart.range;
    const scale = (low, high, log) => log
      ? [(v) => Math.log(v / low) / Math.log(high / low), (t) => low * Math.pow(high / low, t)]
      : [(v) => (v - low) / (high - low), (t) => low + t * (high - low)];
    const [xOf, xAt] = scale(x0, x1, chart.log[0]);
    const [yOf] = scale(y0, y1, chart.log[1]);
    const area = plot.querySelector(".area");
    const line = document.createElement("i");
    line.className = "cursor";
    line.hidden = true;
    area.append(line);
    const dots = chart.series.map((series) => {
      const dot = document.createElement("i");
      dot.className = `spot t${series.tone}`;
      dot.hidden = true;
      area.append(dot);
      return dot;
    });
    const leave = () => { hide(); line.hidden = true; dots.forEach((d) => { d.hidden = true; }); };
    const nearest = (points, x) => {
      let best = points[0];
      for (const p of points) if (Math.abs(xOf(p[0]) - xOf(x)) < Math.abs(xOf(best[0]) - xOf(x))) best = p;
      return best;
    };
    const show = (x) => {
      const box = area.getBoundingClientRect();
      const found = chart.series.map((s) => nearest(s.points, x));
      const lead = found.reduce((a, b) => (Math.abs(xOf(b[0]) - xOf(x)) < Math.abs(xOf(a[0]) - xOf(x)) ? b : a));
      line.hidden = false;
      line.style.left = `${xOf(lead[0]) * 100}%`;
      tip.replaceChildren();
      const head = document.createElement("b");
      head.textContent = `${chart.x} ${format(Math.round(lead[0]))}`;
      tip.append(head);
      found.forEach((p, i) => {
        const near = Math.abs(xOf(p[0]) - xOf(lead[0])) < 0.03;
        dots[i].hidden = !near;
        if (!near) return;
        dots[i].style.left = `${xOf(p[0]) * 100}%`;
        dots[i].style.bottom = `${yOf(p[1]) * 100}%`;
        const row = document.createElement("div");
        row.className = `t${chart.series[i].tone}`;
        row.textContent = `${chart.series[i].name} `;
        const value = document.createElement("b");
        value.textContent = format(p[1]);
        row.append(value);
        tip.append(row);
      });
      place(box.left + xOf(lead[0]) * box.width, box.top);
    };
    let at = 1;
    area.addEventListener("pointermove", (event) => {
      const box = area.getBoundingClientRect();
      at = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      show(xAt(at));
    });
    area.addEventListener("pointerleave", leave);
    plot.addEventListener("blur", leave);
    plot.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return leave();
      const step = { ArrowLeft: -0.02, ArrowRight: 0.02 }[event.key];
      if (!step) return;
      event.preventDefault();
      at = Math.min(1, Math.max(0, at + step));
      show(xAt(at));
    });
    plot.dataset.drawn = "yes";
  }
  addEventListener("scroll", hide, { passive: true });

  const links = new Map([...document.querySelectorAll(".toc a")].map((a) => [a.getAttribute("href").slice(1), a]));
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      const link = links.get(entry.target.id);
      if (!link) continue;
      link.setAttribute("aria-current", "true");
      const list = link.closest("ol");
      if (list.scrollWidth > list.clientWidth) list.scrollTo({ left: link.offsetLeft - 40 });
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  document.querySelectorAll(".section").forEach((s) => watch.observe(s));
})();
