// Questions to DICOMweb, and their DICOM JSON read. Knows no page.

let root = "/dicom-web";

/** What the footer shows, and where DICOMweb lies for this caller. */
export async function askState() {
  const answer = await fetch("api/state", { cache: "no-store" });
  if (!answer.ok) throw new Error(`the archive answers ${answer.status}`);
  const state = await answer.json();
  root = state.dicomweb.replace(/\/$/, "");
  return state;
}

async function askJson(path) {
  const answer = await fetch(root + path, { headers: { Accept: "application/dicom+json" } });
  if (answer.status === 204) return [];
  if (!answer.ok) throw new Error((await answer.text()).slice(0, 200) || `the archive answers ${answer.status}`);
  return answer.json();
}

/** The first value of an attribute as text; a person name as its groups. */
export function text(item, tag) {
  const value = item?.[tag]?.Value?.[0];
  if (value === undefined || value === null) return "";
  if (typeof value === "object") {
    const groups = [value.Alphabetic, value.Ideographic, value.Phonetic].filter(Boolean);
    return groups.map((group) => group.replace(/\^+$/, "").replace("^", ", ").replaceAll("^", " ")).join(" · ");
  }
  return String(value);
}

export const values = (item, tag) => item?.[tag]?.Value ?? [];

/** YYYYMMDD as YYYY-MM-DD. */
export const day = (date) => (/^\d{8}$/.test(date) ? `${date.slice(0, 4)}-${date.slice(4, 6)}-${date.slice(6)}` : date);

export function searchStudies(fields) {
  const query = new URLSearchParams({ limit: "100", includefield: "StudyDescription" });
  for (const [name, value] of Object.entries(fields)) {
    if (!value) continue;
    if (name === "PatientName") query.set(name, value.includes("*") ? value : `*${value}*`);
    else if (name === "StudyDate") query.set(name, value.replaceAll("-", ""));
    else query.set(name, value.trim());
  }
  return askJson(`/studies?${query}`);
}

export const seriesOf = (study) => askJson(`/studies/${study}/series`);
export const metadataOf = (study, series) => askJson(`/studies/${study}/series/${series}/metadata`);
export const thumbnailUrl = (study, series) => `${root}/studies/${study}/series/${series}/thumbnail?viewport=160,160`;

/** The URL of one frame as a picture. `voi` is {centre, width} or null for what the image itself says. */
export function pictureUrl(slice, voi) {
  const window = voi ? `&window=${voi.centre.toFixed(1)},${Math.max(1, voi.width).toFixed(1)},linear` : "";
  return `${root}/studies/${slice.study}/series/${slice.series}/instances/${slice.instance}/frames/${slice.frame}`
    + `/rendered?quality=95${window}`;
}

/** The slices of a series in the order in which they are scrolled: each frame of each instance. */
export function slicesOf(study, series, metadata) {
  const number = (item) => Number(text(item, "00200013")) || 0;
  const slices = [];
  for (const item of [...metadata].sort((a, b) => number(a) - number(b))) {
    if (!item["00280010"]) continue; // no Rows: a report, a presentation state
    const frames = Number(text(item, "00280008")) || 1;
    for (let frame = 1; frame <= frames; frame += 1) {
      slices.push({ study, series, instance: text(item, "00080018"), frame, item });
    }
  }
  return slices;
}
