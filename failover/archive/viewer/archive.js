// Questions to DICOMweb and to the archive itself. Knows no page; every failure says what the reader can do.

import { T, localDay, nameKeys, text } from "./dicom.js";

export const PAGE = 50; // studies shown at once
let root = "/dicom-web";

/** Who answered last, as the router tells it: primary, backup, or "" without a router. */
export let answeredBy = "";

/** A question without a good answer. `kind`: gone, refused, busy, missing, uncovered, wrong. */
export class NotAnswered extends Error {
  constructor(kind, message, retryAfterS = null) {
    super(message);
    this.kind = kind;
    this.retryAfterS = retryAfterS;
  }
}

async function problem(answer) {
  const said = (await answer.text().catch(() => "")).trim().slice(0, 200);
  const plain = said.startsWith("<") ? "" : said;
  const wait = Number(answer.headers.get("Retry-After")) || null;
  if (answer.status === 401 || answer.status === 403) {
    return new NotAnswered("refused", "This archive answers only those whom it knows. Open the PACS page, sign in there, and come back.");
  }
  if (answer.status === 503) {
    const ours = (answer.headers.get("Warning") ?? "").includes("299 failover");
    return ours ? new NotAnswered("uncovered", plain, wait) : new NotAnswered("busy", plain || "Neither archive can answer at the moment.", wait);
  }
  if (answer.status === 404) return new NotAnswered("missing", plain || "It is not held here.");
  return new NotAnswered("wrong", plain || `The archive answers ${answer.status}.`);
}

/** Fetch below DICOMweb. Raises NotAnswered; an abort passes through. */
export async function ask(path, accept, { signal, priority } = {}) {
  let answer;
  try {
    answer = await fetch(path.startsWith("/") ? root + path : path, { headers: { Accept: accept }, signal, priority });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new NotAnswered("gone", "No contact: neither the router nor the archive can be reached from this computer.");
  }
  answeredBy = answer.headers.get("X-Failover-Upstream") ?? "";
  if (!answer.ok) throw await problem(answer);
  return answer;
}

async function askJson(path, options) {
  const answer = await ask(path, "application/dicom+json", options);
  return { found: answer.status === 204 ? [] : await answer.json(), partial: answer.status === 206 };
}

/** What is shown all the time, and where DICOMweb lies for this caller. */
export async function askState() {
  let answer;
  try {
    answer = await fetch("api/state", { cache: "no-store" });
  } catch {
    throw new NotAnswered("gone", "No contact with the archive.");
  }
  if (!answer.ok) throw await problem(answer);
  const state = await answer.json();
  root = state.dicomweb.replace(/\/$/, "");
  return state;
}

/** Ask something small, to learn who answers now. */
export async function whoAnswers() {
  await ask("/studies?limit=1", "application/dicom+json").catch(() => {});
  return answeredBy;
}

/** The searches that a form means, in the order in which they are tried; each a query without limit and offset. */
export function searchesOf(fields, today) {
  const query = new URLSearchParams();
  for (const name of ["PatientID", "AccessionNumber"]) {
    const value = (fields[name] ?? "").trim();
    if (value) query.set(name, /[*?]/.test(value) ? value : `${value}*`);
  }
  if (fields.ModalitiesInStudy) query.set("ModalitiesInStudy", fields.ModalitiesInStudy);
  const range = dateRange(fields, today);
  if (range) query.set("StudyDate", range);
  const names = nameKeys(fields.PatientName ?? "");
  if (!names.length) return [query];
  return names.map((name) => {
    const one = new URLSearchParams(query);
    one.set("PatientName", name);
    return one;
  });
}

function dateRange({ when, from, to }, today) {
  if (when === "between") {
    const [low, high] = [from, to].map((date) => (date ?? "").replaceAll("-", ""));
    return low || high ? `${low}-${high}` : "";
  }
  if (!when) return "";
  const first = new Date(today);
  first.setDate(first.getDate() - Number(when));
  return `${localDay(first)}-${localDay(today)}`;
}

/** One page of studies, newest first: `{ studies, more }`. */
export async function searchStudies(searches, offset, signal) {
  let found = [];
  for (const search of searches) {
    const query = new URLSearchParams(search);
    query.set("limit", String(PAGE + 1));
    if (offset) query.set("offset", String(offset));
    query.set("includefield", "StudyDescription");
    ({ found } = await askJson(`/studies?${query}`, { signal }));
    if (found.length || offset) break;
  }
  const when = (study) => text(study, T.studyDate) + text(study, T.studyTime);
  return { studies: found.slice(0, PAGE).sort((a, b) => when(b).localeCompare(when(a))), more: found.length > PAGE };
}

/** Other studies of the same patient ID, newest first. */
export async function studiesOf(study, signal) {
  const id = text(study, T.patientId).trim();
  if (!id || /[*?\\]/.test(id)) return [];
  const query = new URLSearchParams({ PatientID: id, limit: "100", includefield: "StudyDescription" });
  const { found } = await askJson(`/studies?${query}`, { signal });
  const when = (one) => text(one, T.studyDate) + text(one, T.studyTime);
  return found.filter((one) => text(one, T.study) !== text(study, T.study)).sort((a, b) => when(b).localeCompare(when(a)));
}

export async function seriesOf(study, signal) {
  const { found } = await askJson(`/studies/${study}/series?includefield=SeriesDescription`, { signal });
  const order = (series) => Number(text(series, T.seriesNumber)) || 0;
  return found.sort((a, b) => order(a) - order(b));
}

/** The headers of a series, and whether the primary is known to hold more of the study. */
export async function metadataOf(study, series, signal) {
  const { found, partial } = await askJson(`/studies/${study}/series/${series}/metadata`, { signal });
  return { items: found, partial };
}

export const instancePath = (page) => `/studies/${page.study}/series/${page.series}/instances/${page.instance}`;
export const thumbnailUrl = (study, series) => `${root}/studies/${study}/series/${series}/thumbnail?viewport=160,160`;

/** The path of a picture that the archive makes. `voi` is a window, or null for what the object itself says. */
export function renderedPath(page, voi) {
  const shape = { SIGMOID: "sigmoid", LINEAR_EXACT: "linear-exact" }[voi?.shape] ?? "linear";
  const window = voi ? `?window=${voi.centre.toFixed(2)},${Math.max(0.01, voi.width).toFixed(2)},${shape}` : "";
  return `${instancePath(page)}/frames/${page.frame}/rendered${window}`;
}

/** The bytes of an answer; of one in parts, those of its first part. */
export async function bytesOf(answer) {
  const body = new Uint8Array(await answer.arrayBuffer());
  const boundary = /boundary="?([^";,]+)"?/i.exec(answer.headers.get("Content-Type") ?? "")?.[1];
  return boundary ? firstPart(body, boundary) : body;
}

/** RFC 2046 5.1.1: what lies between the empty line after the first head and the next boundary. */
export function firstPart(body, boundary) {
  const begin = indexOf(body, "\r\n\r\n", 0);
  if (begin < 0) throw new NotAnswered("wrong", "The answer has no part.");
  const mark = `\r\n--${boundary}`;
  // One part, as we ask for: its end is near the body's, so that the pixels need not be looked through.
  const near = indexOf(body, mark, Math.max(begin + 2, body.length - mark.length - 8));
  const end = near >= 0 ? near : indexOf(body, mark, begin + 2);
  if (end < 0) throw new NotAnswered("gone", "The answer broke off.");
  return body.subarray(begin + 4, Math.max(begin + 4, end));
}

function indexOf(body, mark, from) {
  const wanted = [...mark].map((one) => one.charCodeAt(0));
  for (let at = Math.max(0, from); at <= body.length - wanted.length; at += 1) {
    if (body[at] === wanted[0] && wanted.every((one, n) => body[at + n] === one)) return at;
  }
  return -1;
}

/** What a series shows, in the order in which it is scrolled: each frame of each image, and what is no image. */
export function pagesOf(study, series, items) {
  const order = (item) => Number(text(item, T.instanceNumber)) || 0;
  const pages = [];
  for (const item of [...items].sort((a, b) => order(a) - order(b))) {
    const one = { study, series, instance: text(item, T.sopInstance), item };
    if (!item[T.rows]) pages.push({ ...one, frame: 1, picture: false });
    const frames = item[T.rows] ? Number(text(item, T.frames)) || 1 : 0;
    for (let frame = 1; frame <= frames; frame += 1) pages.push({ ...one, frame, frames, picture: true });
  }
  return pages;
}

