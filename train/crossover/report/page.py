"""How charts look on a page, and the script that reads values from them and saves them as files.

No chart library: the charts are drawn in the page itself, so that they are there without a script and on paper, follow
the reader's colours, and are SVG that can be saved. What is left for a script is little; see `SCRIPT`.
"""

STYLE = """
:root {
  --ar: #b5622a; --mdm: #2f6299;
  --b0: #8c510a; --b1: #1f8a81; --b2: #7b4fa3; --b3: #4d7d2a;
  --b4: #a03050; --b5: #3b62b5; --b6: #857400; --b7: #5d6670;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ar: #e0955c; --mdm: #7fb2e5;
    --b0: #d8a35a; --b1: #6cc4bb; --b2: #b896dc; --b3: #98c872;
    --b4: #e08098; --b5: #8fb0f0; --b6: #d2c04a; --b7: #a5afb9;
  }
}
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); gap: 1.2rem 1.5rem; }
.panels figure { margin: 0; break-inside: avoid; }
svg.panel { display: block; width: 100%; height: auto; overflow: visible; touch-action: pan-y; }
.panel text { fill: var(--quiet); font-size: 12px; font-variant-numeric: tabular-nums; }
.panel text.title { fill: var(--ink); font-size: 14px; font-weight: 650; }
.panel text.marked { fill: var(--ink); }
.panel .grid { stroke: var(--line); }
.panel .mark { stroke: var(--ink); stroke-dasharray: 3 3; }
.panel .interval { fill: var(--ink); opacity: .1; }
.panel polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
.panel polyline.faint { stroke-width: 1; opacity: .45; }
.panel polyline.exact { stroke-dasharray: 7 3; }
.overlay.chart polyline.ar { stroke-dasharray: none; stroke-width: 1.8; }
.overlay.chart polyline.best, .panel polyline.best { stroke-dasharray: 7 3; }
.overlay.chart polyline.ensemble, .panel polyline.ensemble { stroke-dasharray: 2 3; }
.panel circle.falling { fill: var(--paper); stroke: var(--c); stroke-width: 1.4; }
.panel polyline.dashed { stroke-width: 1.5; stroke-dasharray: 5 3; }
.panel .cursor { stroke: var(--quiet); stroke-width: 1; }
.ar { --c: var(--ar); }
.mdm { --c: var(--mdm); }
.b0 { --c: var(--b0); }
.b1 { --c: var(--b1); }
.b2 { --c: var(--b2); }
.b3 { --c: var(--b3); }
.b4 { --c: var(--b4); }
.b5 { --c: var(--b5); }
.b6 { --c: var(--b6); }
.b7 { --c: var(--b7); }
polyline, .legend line, .overlay line.key, .overlay path { stroke: var(--c, var(--ink)); }
.panel circle { stroke: none; fill: var(--c); }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .4rem 0 .8rem; font-size: .9rem; }
.legend svg { width: 1.6rem; height: .7rem; vertical-align: -.05rem; margin-right: .35rem; }
.legend line { stroke-width: 2.5; }
.overlay { margin: .8rem 0 1.2rem; max-width: 46rem; break-inside: avoid; }
.overlay polyline, .overlay line.key { stroke-width: 1.8; }
.overlay polyline.ar, .overlay line.ar { stroke-dasharray: 4 2.5; stroke-width: 1.3; }
.overlay line.ar, .overlay line.mdm { --c: var(--ink); }
.overlay path { stroke-width: 4; stroke-linecap: round; }
.overlay path.ar { stroke-width: 3; }
.overlay:not(.chart) circle { fill: none; stroke: var(--ink); stroke-width: 1.4; }
.overlay text.key { fill: var(--ink); }
.switches { display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; align-items: center; font-size: .85rem; margin: 0; }
.switches span { display: inline-flex; gap: .6rem; align-items: center; color: var(--quiet); }
.switches label { color: var(--ink); padding: .25rem 0; cursor: pointer; }
.switches input { margin: 0 .3rem 0 0; vertical-align: -.1em; accent-color: var(--link); }
.switches button {
  font: inherit; color: var(--link); background: none; border: 1px solid var(--line); border-radius: 4px;
  padding: .15rem .55rem; cursor: pointer;
}
.overlay:has([value=tokens]:checked) .by-passes, .overlay:has([value=passes]:checked) .by-tokens,
.overlay:has([value=linear]:checked) .logarithmic, .overlay:has([value=log]:checked) .linear { display: none; }
#tip {
  position: absolute; display: none; padding: .3rem .6rem; background: var(--paper); border: 1px solid var(--line);
  border-radius: 4px; font-size: .85rem; font-variant-numeric: tabular-nums; pointer-events: none; white-space: nowrap;
}
#tip i {
  display: inline-block; width: .6rem; height: .6rem; border-radius: 50%; margin-right: .4rem; background: var(--c);
}
@media (min-width: 48rem) {
  .overlay text { font-size: 8.5px; }
  .overlay text.title { font-size: 10px; }
}
@media (max-width: 40rem) {
  .panel text { font-size: 13px; }
  .overlay .switches { gap: .1rem 1.2rem; }
}
@media print {
  :root {
    --ar: #b5622a; --mdm: #2f6299;
    --b0: #8c510a; --b1: #1f8a81; --b2: #7b4fa3; --b3: #4d7d2a;
    --b4: #a03050; --b5: #3b62b5; --b6: #857400; --b7: #5d6670;
  }
  .panels { grid-template-columns: 1fr 1fr; }
  .panel * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .switches { display: none; }
}
"""

SCRIPT = """
(() => {
  const make = (name, set) => Object.assign(document.createElement(name), set);
  const tip = document.body.appendChild(make('div', {id: 'tip'}));
  const value = (y, percent) => percent ? (100 * y).toFixed(1) + ' %' : y.toFixed(3);

  // Values: beneath the pointer, at the evaluation that is nearest. A panel carries its own, an overlay one set of
  // (tokens, value) for all its pictures, whose points stand where their lines have corners.
  const read = (svg) => {
    if (svg.dataset.hover) return JSON.parse(svg.dataset.hover);
    const {lines, percent} = JSON.parse(svg.closest('figure').dataset.lines);
    const passes = svg.classList.contains('by-passes');
    const drawn = [...svg.querySelectorAll('polyline')].map((p) => p.getAttribute('points').split(' '));
    const series = lines.map(([name, kind, unique, points], i) => [name, kind, points.map(([tokens, y], j) =>
      [...drawn[i][j].split(',').map(Number), passes ? tokens / unique : tokens, y])]);
    return {x: passes ? 'passes' : 'tokens', per: 1, percent, series};
  };
  for (const svg of document.querySelectorAll('svg[data-hover], .overlay:not(.chart) svg')) {
    let data;
    const line = svg.appendChild(document.createElementNS(svg.namespaceURI, 'line'));
    line.setAttribute('class', 'cursor');
    const hide = () => { tip.style.display = 'none'; line.setAttribute('visibility', 'hidden'); };
    hide();
    svg.addEventListener('pointerleave', hide);
    const move = (event) => {
      data ??= read(svg);
      const box = svg.getBoundingClientRect();
      const at = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
      const near = (points) => points.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a);
      const hits = data.series.filter((s) => s[2].length).map(([name, kind, points]) => [name, kind, near(points)]);
      const x = hits.reduce((a, b) => Math.abs(b[2][0] - at) < Math.abs(a[2][0] - at) ? b : a)[2];
      const {top, base} = svg.dataset;
      for (const [k, v] of Object.entries({x1: x[0], x2: x[0], y1: top, y2: base})) line.setAttribute(k, v);
      line.setAttribute('visibility', 'visible');
      const rows = [make('div', {textContent: `${Number(x[2] / data.per < 1000 ? (x[2] / data.per).toPrecision(3)
        : Math.round(x[2] / data.per)).toLocaleString('en')} ${data.x}`})];
      for (const [name, kind, p] of hits) if (Math.abs(p[0] - x[0]) < 4) {
        const row = make('div', {});
        row.append(make('i', {className: kind}), `${name}: ${value(p[3], data.percent)}`);
        rows.push(row);
      }
      tip.replaceChildren(...rows);
      tip.style.display = 'block';
      const room = document.documentElement.clientWidth - tip.offsetWidth - 4;
      const above = event.clientY - tip.offsetHeight - 12;
      tip.style.left = `${window.scrollX + Math.max(0, Math.min(event.clientX + 14, room))}px`;
      // A finger hides what is near it, and a phone has no room beside the lines: the values stand below the picture.
      const below = event.pointerType === 'touch' ? box.bottom : event.clientY + 18;
      tip.style.top = `${window.scrollY + (event.pointerType === 'touch' || above < 0 ? below : above)}px`;
    };
    svg.addEventListener('pointermove', move);
    svg.addEventListener('pointerdown', move);
  }

  // Files: the picture as it is seen, and the numbers of its lines.
  const save = (name, blob) => {
    const a = make('a', {href: URL.createObjectURL(blob), download: name});
    a.click();
    setTimeout(() => URL.revokeObjectURL(a.href), 60000);
  };
  const KEPT = ['fill', 'stroke', 'stroke-width', 'stroke-dasharray', 'stroke-linecap', 'stroke-linejoin', 'opacity',
    'font-family', 'font-size', 'font-weight'];
  const drawing = (svg) => {
    const copy = svg.cloneNode(true);
    const all = [...svg.querySelectorAll('*')];
    [...copy.querySelectorAll('*')].forEach((element, i) => {
      const seen = getComputedStyle(all[i]);
      for (const key of KEPT) element.style.setProperty(key, seen.getPropertyValue(key));
    });
    copy.querySelector('.cursor')?.remove();
    const {width, height} = svg.viewBox.baseVal;
    const paper = document.createElementNS(svg.namespaceURI, 'rect');
    const fill = getComputedStyle(document.documentElement).backgroundColor;
    for (const [k, v] of Object.entries({width, height, fill})) paper.setAttribute(k, v);
    copy.prepend(paper);
    for (const [k, v] of Object.entries({width: 2 * width, height: 2 * height})) copy.setAttribute(k, v);
    return new XMLSerializer().serializeToString(copy);
  };
  const asPng = (svg, name) => {
    const image = new Image();
    image.onload = () => {
      const canvas = make('canvas', {width: 2 * image.width, height: 2 * image.height});
      canvas.getContext('2d').drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => save(name, blob));
    };
    image.src = 'data:image/svg+xml;charset=utf-8,' + encodeURIComponent(drawing(svg));
  };
  const cell = (v) => typeof v === 'number' ? v : `"${v.replaceAll('"', '""')}"`;
  const chartCsv = (figure) => {
    const {x, series} = JSON.parse(figure.querySelector('svg').dataset.hover);
    const rows = series.flatMap(([name, , points]) => points.map((p) => [name, p[2], p[3]]));
    return [['line', x, figure.dataset.name], ...rows].map((row) => row.map(cell).join(',') + '\\r\\n').join('');
  };
  const asCsv = (figure) => {
    if (!figure.dataset.lines) return chartCsv(figure);
    const {lines} = JSON.parse(figure.dataset.lines);
    const rows = lines.flatMap(([name, , unique, points]) =>
      points.map(([tokens, y]) => [name, unique, tokens, tokens / unique, y]));
    return [['line', 'unique_tokens', 'tokens', 'passes', figure.dataset.name], ...rows]
      .map((row) => row.map(cell).join(',') + '\\r\\n').join('');
  };
  for (const figure of document.querySelectorAll('.overlay')) {
    const name = (end) => `${figure.dataset.name.replace(/[^a-z0-9]+/gi, '-')}.${end}`;
    const seen = () => [...figure.querySelectorAll('svg')].find((svg) => getComputedStyle(svg).display !== 'none');
    const files = {
      CSV: () => save(name('csv'), new Blob([asCsv(figure)], {type: 'text/csv'})),
      SVG: () => save(name('svg'), new Blob([drawing(seen())], {type: 'image/svg+xml'})),
      PNG: () => asPng(seen(), name('png')),
    };
    const saved = make('span', {textContent: 'Save as'});
    for (const [label, onclick] of Object.entries(files)) {
      saved.append(make('button', {type: 'button', textContent: label, onclick}));
    }
    figure.querySelector('.switches').append(saved);
  }

  // Where there is room, nothing is folded away.
  const wide = matchMedia('(min-width: 48rem)').matches;
  if (wide) for (const fold of document.querySelectorAll('details')) fold.open = true;
})();
"""
