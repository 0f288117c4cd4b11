// Questions to DICOMweb and to the archive itself. Knows no page; every failure says what the reader can do.

import { T, localDay, nameKeys, text } from "./dicom.js";

export const PAGE = 50; // studies shown at once
const MOST = 1000; // of each of several searches: their studies are put in one order here
let root = "/dicom-web";

/** Who answers searches now, as the router tells it: primary, backup, none, or "" where that is not known.
 *
 * Told by searches for studies alone, and never by what the browser kept: a picture may come from the side that is
 * not in use, or be of an earlier time. Of two answers the one to the later question counts. */
export let answeredBy = "";
let questions = 0, heard = 0;

function told(question, who) {
  if (question < heard) return;
  heard = question;
  answeredBy = who;
}

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
export async function ask(path, accept, { signal, priority, method = "GET", route = false } = {}) {
  const question = (questions += 1);
  let answer;
  try {
    answer = await fetch(path.startsWith("/") ? root + path : path, { method, headers: { Accept: accept }, signal, priority, cache: route ? "no-store" : "default" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    told(question, "");
    throw new NotAnswered("gone", "No contact: neither the router nor the archive can be reached from this computer.");
  }
  if (route) told(question, answer.headers.get("X-Failover-Upstream") ?? "");
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
  await ask("/studies?limit=1", "application/dicom+json", { route: true }).catch(() => {});
}

/** The searches that a form means: what any of them finds is meant. Each is a query without limit and offset. */
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
  if (searches.length === 1) {
    const found = await studiesFound(searches[0], { limit: PAGE + 1, offset }, signal);
    return { studies: found.slice(0, PAGE).sort(newestFirst), more: found.length > PAGE };
  }
  // Each side has an order of its own, so pages are cut from all that was found, put in one order here.
  const answers = await Promise.allSettled(searches.map((search) => studiesFound(search, { limit: MOST }, signal)));
  const failed = answers.filter(({ status }) => status === "rejected").map(({ reason }) => reason);
  const byUid = new Map(answers.flatMap(({ value }) => value ?? []).map((study) => [text(study, T.study), study]));
  // One word order that nothing here has may be had elsewhere; that says nothing against what another found.
  const serious = failed.find(({ kind }) => kind !== "uncovered") ?? (byUid.size ? null : failed[0]);
  if (serious) throw serious;
  const found = [...byUid.values()].sort(newestFirst);
  return { studies: found.slice(offset, offset + PAGE), more: found.length > offset + PAGE };
}

async function studiesFound(search, { limit, offset = 0 }, signal) {
  const query = new URLSearchParams(search);
  query.set("limit", String(limit));
  if (offset) query.set("offset", String(offset));
  query.set("includefield", "StudyDescription");
  return (await askJson(`/studies?${query}`, { signal, route: true })).found;
}

const whenOf = (study) => text(study, T.studyDate) + text(study, T.studyTime);
const newestFirst = (a, b) => whenOf(b).localeCompare(whenOf(a)) || text(b, T.study).localeCompare(text(a, T.study));

/** Other studies of the same patient ID, newest first. */
export async function studiesOf(study, signal) {
  const id = text(study, T.patientId).trim();
  if (!id || /[*?\\]/.test(id)) return [];
  const query = new URLSearchParams({ PatientID: id, limit: "100", includefield: "StudyDescription" });
  const { found } = await askJson(`/studies?${query}`, { signal });
  return found.filter((one) => text(one, T.study) !== text(study, T.study)).sort(newestFirst);
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

