// Volumes as the page sends them: bytes on a grid, first axis fastest, along the axes closest to RAS+; affines are 16
// numbers in rows, voxel indices to mm. A volume here is {shape: [x, y, z], affine, bytes: Uint8Array}.

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

function base64Of(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}

async function through(bytes, stream) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}

// What was streamed, kept as it came: {shape, affine, packed bytes}; `unpack` makes the volume.
function keep(part) {
  if (!part) return null;
  const { shape, affine, across } = part;
  return { shape, affine, across, packed: bytesOf(part.data || part.jpeg) };
}

async function unpack(kept) {
  const bytes = kept.across ? await fromMosaic(kept) : await through(kept.packed, new DecompressionStream("gzip"));
  const [x, y, z] = kept.shape;
  if (bytes.length !== x * y * z) throw new Error("a volume of another size than its shape");
  return { shape: kept.shape, affine: kept.affine, bytes };
}

async function fromMosaic({ shape: [nx, ny, nz], across, packed }) {
  const picture = await createImageBitmap(new Blob([packed], { type: "image/jpeg" }));
  const canvas = document.createElement("canvas");
  canvas.width = picture.width;
  canvas.height = picture.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  picture.close();
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const bytes = new Uint8Array(nx * ny * nz);
  let at = 0;
  for (let z = 0; z < nz; z++) {
    const left = (z % across) * nx;
    const top = Math.floor(z / across) * ny;
    for (let y = 0; y < ny; y++) {
      let from = 4 * ((top + y) * canvas.width + left);
      for (let x = 0; x < nx; x++, from += 4) bytes[at++] = pixels[from];
    }
  }
  return bytes;
}

const compress = async (bytes) => base64Of(await through(bytes, new CompressionStream("deflate")));

// Affines.

function apply(m, [x, y, z]) {
  return [0, 4, 8].map((r) => m[r] * x + m[r + 1] * y + m[r + 2] * z + m[r + 3]);
}

function inverse(m) {
  const [a, b, c, , d, e, f, , g, h, i] = m;
  const A = e * i - f * h;
  const B = f * g - d * i;
  const C = d * h - e * g;
  const det = a * A + b * B + c * C;
  const r = [A, c * h - b * i, b * f - c * e, B, a * i - c * g, c * d - a * f, C, b * g - a * h, a * e - b * d];
  const inv = r.map((v) => v / det);
  const t = [0, 3, 6].map((k) => -(inv[k] * m[3] + inv[k + 1] * m[7] + inv[k + 2] * m[11]));
  return [...inv.slice(0, 3), t[0], ...inv.slice(3, 6), t[1], ...inv.slice(6, 9), t[2], 0, 0, 0, 1];
}

function product(m, n) {
  const out = new Array(16);
  for (let r = 0; r < 4; r++)
    for (let c = 0; c < 4; c++) {
      out[4 * r + c] = 0;
      for (let k = 0; k < 4; k++) out[4 * r + c] += m[4 * r + k] * n[4 * k + c];
    }
  return out;
}

const spacing = (m) => [0, 1, 2].map((c) => Math.hypot(m[c], m[4 + c], m[8 + c]));
const sameGrid = (a, b) => !!a && !!b && a.shape.join() === b.shape.join() && a.affine.join() === b.affine.join();
const centre = (v) =>
  apply(
    v.affine,
    v.shape.map((n) => (n - 1) / 2),
  );

// `over` blended onto `under` where it lies, linearly between its voxels: (1 - share) * under + share * (low + gain *
// over), in the bytes of `under`. Outside of `over`, `under` stays.
function blended(under, over, share, low, gain) {
  const [nx, ny, nz] = under.shape;
  const [mx, my, mz] = over.shape;
  const m = product(inverse(over.affine), under.affine);
  const { bytes } = over;
  const out = new Uint8ClampedArray(under.bytes);
  const row = mx;
  const slab = mx * my;
  let at = 0;
  for (let z = 0; z < nz; z++)
    for (let y = 0; y < ny; y++) {
      let px = m[1] * y + m[2] * z + m[3];
      let py = m[5] * y + m[6] * z + m[7];
      let pz = m[9] * y + m[10] * z + m[11];
      for (let x = 0; x < nx; x++, at++, px += m[0], py += m[4], pz += m[8]) {
        if (px < -0.5 || py < -0.5 || pz < -0.5 || px > mx - 0.5 || py > my - 0.5 || pz > mz - 0.5) continue;
        const cx = Math.min(Math.max(px, 0), mx - 1);
        const cy = Math.min(Math.max(py, 0), my - 1);
        const cz = Math.min(Math.max(pz, 0), mz - 1);
        const ix = Math.floor(cx);
        const iy = Math.floor(cy);
        const iz = Math.floor(cz);
        const fx = cx - ix;
        const fy = cy - iy;
        const fz = cz - iz;
        const i = ix + row * iy + slab * iz;
        const dx = ix + 1 < mx ? 1 : 0;
        const dy = iy + 1 < my ? row : 0;
        const dz = iz + 1 < mz ? slab : 0;
        const near =
          (bytes[i] * (1 - fx) + bytes[i + dx] * fx) * (1 - fy) +
          (bytes[i + dy] * (1 - fx) + bytes[i + dy + dx] * fx) * fy;
        const far =
          (bytes[i + dz] * (1 - fx) + bytes[i + dz + dx] * fx) * (1 - fy) +
          (bytes[i + dz + dy] * (1 - fx) + bytes[i + dz + dy + dx] * fx) * fy;
        out[at] = (1 - share) * out[at] + share * (low + gain * (near * (1 - fz) + far * fz));
      }
    }
  return new Uint8Array(out.buffer);
}

// The byte of the voxel nearest to a point in mm; `outside` beyond the grid.
function nearest(volume, toVoxel, mm, outside) {
  const [x, y, z] = apply(toVoxel, mm).map(Math.round);
  const [nx, ny, nz] = volume.shape;
  if (x < 0 || y < 0 || z < 0 || x >= nx || y >= ny || z >= nz) return outside;
  return volume.bytes[x + nx * (y + ny * z)];
}

// With a border of zeros one voxel wide: NiiVue draws the outermost voxels on, as far as the image reaches.
function bordered(volume) {
  const [nx, ny, nz] = volume.shape;
  const shape = volume.shape.map((n) => n + 2);
  const bytes = new Uint8Array(shape[0] * shape[1] * shape[2]);
  for (let z = 0; z < nz; z++)
    for (let y = 0; y < ny; y++) {
      const from = nx * (y + ny * z);
      bytes.set(volume.bytes.subarray(from, from + nx), 1 + shape[0] * (y + 1 + shape[1] * (z + 1)));
    }
  const affine = [...volume.affine];
  const corner = apply(volume.affine, [-1, -1, -1]);
  [affine[3], affine[7], affine[11]] = corner;
  return { ...volume, shape, affine, bytes };
}

// A NIfTI-1 file of one volume: what NiiVue reads.
function nifti(volume, { slope = 1, inter = 0, low = 0, high = 0, labels = false } = {}) {
  const buffer = new ArrayBuffer(352 + volume.bytes.length);
  const view = new DataView(buffer);
  const put16 = (at, values) => values.forEach((v, i) => view.setInt16(at + 2 * i, v, true));
  const put32 = (at, values) => values.forEach((v, i) => view.setFloat32(at + 4 * i, v, true));
  view.setInt32(0, 348, true);
  put16(40, [3, ...volume.shape, 1, 1, 1, 1]);
  if (labels) put16(68, [1002]);
  put16(70, [2, 8]); // uint8
  put32(76, [1, ...spacing(volume.affine), 1, 1, 1, 1]);
  put32(108, [352, slope, inter]);
  view.setUint8(123, 2); // mm
  put32(124, [high, low]);
  put16(252, [0, 1]);
  put32(280, volume.affine.slice(0, 12));
  [0x6e, 0x2b, 0x31, 0].forEach((c, i) => view.setUint8(344 + i, c));
  new Uint8Array(buffer).set(volume.bytes, 352);
  return buffer;
}

export {
  keep,
  unpack,
  compress,
  apply,
  inverse,
  product,
  spacing,
  sameGrid,
  centre,
  blended,
  nearest,
  bordered,
  nifti,
};
