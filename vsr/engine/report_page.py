"""The style and the behaviour of report.html; ``report.py`` writes what it shows."""

STYLE = """
:root { color-scheme: light dark; --text: #1d2126; --faint: #626a73; --back: #fff; --panel: #f5f6f8; --line: #d9dde2;
  --restored: #0b62c4; --beside: #b3570a; --good: #107038; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --faint: #9aa3ad; --back: #15181c; --panel: #1e2227;
  --line: #343a41; --restored: #6db3ff; --beside: #f0a35e; --good: #63cf8d; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 1320px; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0 0 1rem; font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 3rem 0 .25rem; padding-top: .75rem; border-top: 1px solid var(--line); font-size: 1.3rem;
  overflow-wrap: anywhere; }
h3 { margin: 2rem 0 .5rem; font-size: 1.05rem; }
p { margin: .25rem 0 .75rem; }
.faint { color: var(--faint); font-size: .9rem; }
.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .15rem 1.25rem; margin: 0;
  padding: .75rem 1rem; background: var(--panel); border-radius: 8px; }
.facts dt { color: var(--faint); } .facts dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
thead th { font-weight: 600; } thead tr:nth-child(2) th { font-weight: 400; color: var(--faint); }
th.group { text-align: center; } td.first, th.first, th.group { border-left: 1px solid var(--line); }
tr.total td { font-weight: 700; border-bottom: 0; border-top: 2px solid var(--line); }
.good { color: var(--good); } .bad { color: var(--bad); }
details { margin: .75rem 0; } summary { cursor: pointer; }
svg { display: block; width: 100%; min-width: 600px; max-width: 1000px; height: auto;
  font: 12px system-ui, sans-serif; }
svg text { fill: var(--faint); } svg .name { fill: var(--text); font-weight: 600; }
svg .grid { stroke: var(--line); } svg .clip { stroke: var(--faint); stroke-dasharray: 3 4; }
svg .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg .restored { stroke: var(--restored); }
svg :is(.bicubic, .input, .copy) { stroke: var(--beside); stroke-dasharray: 5 3; }
svg .dot.restored { fill: var(--restored); } svg .dot:is(.bicubic, .input, .copy) { fill: var(--beside); }
figure { margin: 0 0 2rem; } figcaption { margin-bottom: .4rem; overflow-wrap: anywhere; }
figcaption b { text-transform: capitalize; }
img { display: block; width: 100%; height: auto; image-rendering: pixelated; }
.shrunk img { image-rendering: auto; }  /* fewer screen pixels than image pixels: dropping some would alias */
.layer { margin: 0 0 1rem; max-width: var(--width); }
.stage { display: flex; flex-direction: column; } .input { order: -1; }
.hint, .stage + .tools, .handle, .stage input { display: none; } .js .hint { display: block; }
.js .stage { display: block; position: relative; overflow: hidden; max-width: var(--width); border-radius: 4px;
  cursor: ew-resize; touch-action: pan-y pinch-zoom; user-select: none; -webkit-user-select: none; }
.js .layer { margin: 0; max-width: none; } .js .layer + .layer { position: absolute; inset: 0; }
.js .input { clip-path: inset(0 calc(100% - var(--at)) 0 0); }
.js .truth { visibility: hidden; } .js .true .truth { visibility: visible; }
.js .layer img { transform: scale(var(--zoom, 1)); transform-origin: var(--x, 50%) var(--y, 50%);
  pointer-events: none; }
.js .layer span { position: absolute; right: .5rem; bottom: .5rem; padding: .05rem .5rem; border-radius: 4px;
  background: rgb(0 0 0 / .65); color: #fff; font-size: .8rem; }
.js .input span { right: auto; left: .5rem; }
.js .handle { display: block; position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 3px #000; pointer-events: none; }
.js .handle::after { content: "\\2194"; position: absolute; top: 50%; left: 50%; width: 2rem; height: 2rem;
  transform: translate(-50%, -50%); border-radius: 50%; background: #fff; color: #222; text-align: center;
  line-height: 2rem; box-shadow: 0 0 4px rgb(0 0 0 / .7); }
.js .stage input { display: block; position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0;
  pointer-events: none; }  /* the stage follows the pointer; the input is for the keyboard and for screen readers */
.js .stage:has(:focus-visible) { outline: 3px solid var(--restored); outline-offset: 2px; }
.js .stage + .tools { display: flex; flex-wrap: wrap; gap: .4rem; margin-top: .5rem; align-items: center; }
button { padding: .35rem .8rem; border: 1px solid var(--line); border-radius: 6px; background: var(--panel);
  color: var(--text); font: inherit; font-size: .9rem; cursor: pointer; }
button[aria-pressed=true] { background: var(--restored); border-color: var(--restored); color: var(--back); }
.tools .gap { width: .8rem; }
"""

SCRIPT = """
'use strict';
document.documentElement.classList.add('js');
document.addEventListener('DOMContentLoaded', () => document.querySelectorAll('figure').forEach(figure => {
  const stage = figure.querySelector('.stage'), input = stage.querySelector('input');
  const images = [...stage.querySelectorAll('img')], buttons = [...figure.querySelectorAll('button')];
  let zoom = 0;  // screen pixels for each image pixel; 0: the whole picture fits
  const show = () => stage.style.setProperty('--at', input.value + '%');
  const resize = () => {
    const whole = stage.clientWidth / images[0].naturalWidth;
    const factor = zoom ? Math.max(zoom / whole, 1) : 1;
    stage.style.setProperty('--zoom', factor);
    stage.classList.toggle('shrunk', whole * factor * devicePixelRatio < 1);
  };
  const press = (group, button) => buttons.filter(b => b.dataset[group] !== undefined)
    .forEach(b => b.setAttribute('aria-pressed', b === button));
  const setZoom = value => {
    zoom = value;
    press('zoom', buttons.find(b => Number(b.dataset.zoom) === value));
    resize();
  };
  const follow = event => {
    const box = stage.getBoundingClientRect();
    input.value = 100 * (event.clientX - box.left) / box.width;
    show();
  };
  input.addEventListener('input', show);
  input.addEventListener('keydown', event => {
    const step = {ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2}[event.key];
    if (!step) return;
    event.preventDefault();
    input.value = Number(input.value) + step * (event.shiftKey ? 5 : 1);
    show();
  });
  stage.addEventListener('pointerdown', event => {
    if (event.button) return;
    event.preventDefault();
    input.focus({preventScroll: true});
    stage.setPointerCapture(event.pointerId);
    follow(event);
  });
  stage.addEventListener('pointermove', event => { if (stage.hasPointerCapture(event.pointerId)) follow(event); });
  stage.addEventListener('dblclick', event => {
    if (zoom) return setZoom(0);
    const box = stage.getBoundingClientRect();
    stage.style.setProperty('--x', 100 * (event.clientX - box.left) / box.width + '%');
    stage.style.setProperty('--y', 100 * (event.clientY - box.top) / box.height + '%');
    setZoom(4);
  });
  figure.addEventListener('click', event => {
    const button = event.target.closest('button');
    if (!button) return;
    if (button.dataset.zoom !== undefined) return setZoom(Number(button.dataset.zoom));
    press('right', button);
    stage.classList.toggle('true', button.dataset.right === 'truth');
  });
  Promise.all(images.map(image => image.decode().catch(() => undefined))).then(resize);
  addEventListener('resize', resize);
  show();
}));
"""
