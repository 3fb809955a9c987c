// The recorded data: numbers in data/scenes.json, volumes as tiled pictures. Nothing is asked of another host.
import { volumeFromTiles } from "./volume.js";

// In the single-file edition everything is in the page already.
const embedded = () => globalThis.LEARN_EMBEDDED ?? {};
const volumes = new Map();

/** A JSON file of the site. */
export async function loadJson(path) {
  if (path in embedded()) return embedded()[path];
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

/** A recorded volume by name: Uint8Array of 64^3. */
export function loadVolume(name) {
  if (!volumes.has(name)) {
    const loaded = decodeVolume(`data/${name}.webp`);
    volumes.set(name, loaded);
    loaded.catch(() => volumes.delete(name));
  }
  return volumes.get(name);
}

async function decodeVolume(path) {
  const picture = new Image();
  picture.src = embedded()[path] ?? path;
  await picture.decode();
  const canvas = document.createElement("canvas");
  canvas.width = picture.naturalWidth;
  canvas.height = picture.naturalHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  return volumeFromTiles(context.getImageData(0, 0, canvas.width, canvas.height).data);
}

/** Offer text as a file; it is made here and sent nowhere. */
export function saveText(name, text, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
