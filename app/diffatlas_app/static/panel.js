// What stands around the picture: the viewer's own HTML.

export const AXES = [
  ["Left to right", "L", "R"],
  ["Back to front", "P", "A"],
  ["Bottom to top", "I", "S"],
];

export function markup() {
  const slider = (name, title, more = "") =>
    `<label class="dv-field" data-field="${name}"><span>${title}</span><input type="range" data-control="${name}" ${more}><output></output></label>`;
  return `
<h2 class="dv-caption" hidden></h2>
<div class="dv-head"><div class="dv-line"><p class="dv-words"></p><p class="dv-where" aria-hidden="true"></p></div><div class="dv-bar" role="progressbar" aria-valuemin="0"><i></i></div>
  <p class="dv-live" aria-live="polite" role="status"></p></div>
<div class="dv-main">
  <div class="dv-stage"><div class="dv-view"></div><p class="dv-over"></p></div>
  <div class="dv-plots" role="group" aria-label="Convergence"></div>
</div>
<div class="dv-transport" role="group" aria-label="Steps of the run">
  <button type="button" data-button="back" aria-label="Step back"><svg viewBox="0 0 16 16"><path d="M11 3v10L4 8z"/></svg></button>
  <button type="button" data-button="play" aria-label="Play the steps"><svg viewBox="0 0 16 16"><path class="dv-playing" d="M4 3h3v10H4zM9 3h3v10H9z"/><path class="dv-paused" d="M4 2v12l9-6z"/></svg></button>
  <button type="button" data-button="forth" aria-label="Step forward"><svg viewBox="0 0 16 16"><path d="M5 3v10l7-5z"/></svg></button>
  <input type="range" data-control="step" aria-label="Step" min="0" max="0" step="1" value="0"><output class="dv-count"></output>
</div>
<ul class="dv-legend" aria-label="Structures"></ul>
<div class="dv-quick">
  ${slider("blend", "Patient to generated image", 'min="0" max="1" step="0.05" value="0"')}
  ${slider("opacity", "Mask opacity", 'min="0" max="1" step="0.05" value="0.55"')}
</div>
<details class="dv-controls"><summary>View: window, planes, camera</summary><div class="dv-fields">
  ${slider("unsure", "Where it is unsure", 'min="0" max="1" step="0.05" value="0"')}
  ${slider("low", "Window from", "")}${slider("high", "Window to", "")}
  ${AXES.map(([title], a) => slider(`at${a}`, title, 'step="any"')).join("")}
  ${slider("azimuth", "Turn 3-D", 'min="0" max="360" step="1"')}${slider("elevation", "Tilt 3-D", 'min="-90" max="90" step="1"')}
  ${slider("depth", "Image in 3-D", 'min="0" max="1" step="0.01" value="1"')}
</div></details>`;
}
