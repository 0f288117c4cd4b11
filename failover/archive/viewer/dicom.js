// DICOM JSON (PS3.18 annex F) read: values, person names, dates, what a frame's header says. Pure: no page, no network.

export const T = Object.freeze({
  specificCharacterSet: "00080005", sopClass: "00080016", sopInstance: "00080018", studyDate: "00080020",
  seriesDate: "00080021", contentDate: "00080023", studyTime: "00080030", seriesTime: "00080031",
  contentTime: "00080033", accession: "00080050", modality: "00080060", modalitiesInStudy: "00080061",
  studyDescription: "00081030", seriesDescription: "0008103E", displayFrameRate: "00082144",
  availableSyntax: "00083002", codeMeaning: "00080104", referencedSop: "00081199", referencedInstance: "00081155",
  patientName: "00100010", patientId: "00100020", issuer: "00100021", birthDate: "00100030", sex: "00100040",
  bodyPart: "00180015", cineRate: "00180040", sliceThickness: "00180050", frameTime: "00181063",
  frameTimeVector: "00181065", imagerSpacing: "00181164", scannedSpacing: "00182010", viewPosition: "00185101",
  pixelMeasures: "00289110", pixelTransformation: "00289145", frameVoi: "00289132", planePosition: "00209113",
  planeOrientation: "00209116", sharedGroups: "52009229", perFrameGroups: "52009230",
  study: "0020000D", series: "0020000E", seriesNumber: "00200011", instanceNumber: "00200013",
  patientOrientation: "00200020", position: "00200032", orientation: "00200037", laterality: "00200060",
  imageLaterality: "00200062", sliceLocation: "00201041", seriesCount: "00201206", instanceCount: "00201208",
  seriesInstanceCount: "00201209", samples: "00280002", photometric: "00280004", frames: "00280008",
  rows: "00280010", columns: "00280011", spacing: "00280030", aspect: "00280034", calibration: "00280A02", bitsAllocated: "00280100",
  bitsStored: "00280101", highBit: "00280102", signed: "00280103", padding: "00280120", paddingLimit: "00280121",
  windowCentre: "00281050", windowWidth: "00281051", intercept: "00281052", slope: "00281053",
  rescaleType: "00281054", voiFunction: "00281056", windowName: "00281055", lossy: "00282110",
  modalityLut: "00283000", lutDescriptor: "00283002", voiLut: "00283010", lutShape: "20500020", documentTitle: "00420010",
  document: "00420011", documentType: "00420012", valueType: "0040A040", conceptName: "0040A043",
  text: "0040A160", dateTime: "0040A120", date: "0040A121", time: "0040A122", personName: "0040A123",
  uid: "0040A124", concept: "0040A168", measured: "0040A300", numeric: "0040A30A", units: "004008EA",
  content: "0040A730", completion: "0040A491", verification: "0040A493", contentLabel: "00700080",
  contentDescription: "00700081", floatPixels: "7FE00008", doublePixels: "7FE00009", pixels: "7FE00010",
});

export const values = (item, tag) => item?.[tag]?.Value ?? [];

/** The first value as text; a person name as its groups in one line. */
export function text(item, tag) {
  const value = values(item, tag)[0];
  if (value === undefined || value === null) return "";
  return typeof value === "object" ? nameGroups(value).join(" · ") : String(value);
}

/** The n-th value as a finite number; null where there is none. */
export function number(item, tag, n = 0) {
  const value = values(item, tag)[n];
  if (value === undefined || value === null || value === "") return null;
  const found = Number(value);
  return Number.isFinite(found) ? found : null;
}

export function numbers(item, tag, count) {
  const found = values(item, tag).slice(0, count).map(Number);
  return found.length === count && found.every(Number.isFinite) ? found : null;
}

/** One group of a person name (PS3.5 6.2.1.1: family^given^middle^prefix^suffix) as people write it. */
export function nameGroup(group) {
  const [family = "", given = "", middle = "", prefix = "", suffix = ""] = group.split("^").map((part) => part.trim());
  const first = [given, middle].filter(Boolean).join(" ");
  const ideographic = /[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]/.test(group);
  const name = [family, first].filter(Boolean).join(ideographic ? " " : ", ");
  const titles = [prefix, suffix].filter(Boolean).join(", ");
  return titles ? `${name} (${titles})` : name;
}

/** The groups of a person name that are there: alphabetic, ideographic, phonetic. */
export function nameGroups(value) {
  if (!value) return [];
  if (typeof value === "string") return value.split("=").map(nameGroup).filter(Boolean);
  return [value.Alphabetic, value.Ideographic, value.Phonetic].filter(Boolean).map(nameGroup).filter(Boolean);
}

/** What a person typed as a name, as keys of a search: up to three words in every order, more in both directions. */
export function nameKeys(typed) {
  const text = typed.trim();
  if (!text) return [];
  if (/[*?]/.test(text)) return [text];
  const words = text.split(/[\s,^=]+/).filter(Boolean);
  const orders = words.length > 3 ? [words, [...words].reverse()] : ordersOf(words);
  return [...new Set(orders.map((order) => `*${order.join("*")}*`))];
}

const ordersOf = (words) => (words.length < 2 ? [words]
  : words.flatMap((word, n) => ordersOf(words.filter((_, other) => other !== n)).map((rest) => [word, ...rest])));

/** YYYYMMDD as YYYY-MM-DD; anything else as it stands. */
export const day = (date) => (/^\d{8}$/.test(date) ? `${date.slice(0, 4)}-${date.slice(4, 6)}-${date.slice(6)}` : date);
export const clock = (time) => (/^\d{4}/.test(time) ? `${time.slice(0, 2)}:${time.slice(2, 4)}` : "");

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
/** YYYY-MM-DD as 27 Aug 2026: no reader takes the day for the month. */
export function longDay(iso) {
  const found = /^(\d{4})-(\d\d)-(\d\d)$/.exec(iso ?? "");
  return found ? `${Number(found[3])} ${MONTHS[Number(found[2]) - 1] ?? "?"} ${found[1]}` : String(iso ?? "");
}

/** Full years, or months below two years, from birth to a day, both YYYYMMDD; "" where one is unknown. */
export function age(birth, on) {
  if (!/^\d{8}$/.test(birth) || !/^\d{8}$/.test(on) || on < birth) return "";
  const part = (date) => [Number(date.slice(0, 4)), Number(date.slice(4, 6)), Number(date.slice(6))];
  const [[y1, m1, d1], [y2, m2, d2]] = [part(birth), part(on)];
  const months = (y2 - y1) * 12 + m2 - m1 - (d2 < d1 ? 1 : 0);
  return months < 24 ? `${months} months` : `${Math.floor(months / 12)} y`;
}

export const localDay = (date) => `${date.getFullYear()}${String(date.getMonth() + 1).padStart(2, "0")}${String(date.getDate()).padStart(2, "0")}`;

const plain = (item, tag) => text(item, tag).replace(/[\s,.]+/g, " ").trim().toLowerCase();

/** Why two items may not be of one patient; null where they are. `sure`: they certainly are not to be mixed. */
export function differs(one, other) {
  const [a, b] = [one, other].map((item) => plain(item, T.patientId));
  if (a !== b) return { sure: true, sentence: a && b ? "the patient IDs differ" : "one has no patient ID" };
  const issuers = [one, other].map((item) => plain(item, T.issuer));
  if (issuers[0] && issuers[1] && issuers[0] !== issuers[1]) return { sure: true, sentence: "the issuers of the patient ID differ" };
  if (plain(one, T.birthDate) !== plain(other, T.birthDate)) return { sure: false, sentence: "the birth dates differ" };
  if (plain(one, T.patientName) !== plain(other, T.patientName)) return { sure: false, sentence: "the names differ" };
  return a ? null : { sure: false, sentence: "neither has a patient ID" };
}

/** The functional groups of a frame, its own first, then the shared ones, then the header itself (PS3.3 C.7.6.16). */
export function places(item, frame) {
  const own = values(item, T.perFrameGroups)[frame - 1];
  const shared = values(item, T.sharedGroups)[0];
  return [own, shared].filter(Boolean);
}

/** The item that describes something of a frame: within a group's sequence, or the header. */
export function described(item, frame, sequence, tag) {
  for (const group of places(item, frame)) {
    const inner = values(group, sequence)[0];
    if (inner && values(inner, tag).length) return inner;
  }
  return item;
}

/** Milliseconds for each frame, and where that comes from (PS3.3 C.7.6.5). */
export function frameTime(item) {
  const rate = number(item, T.displayFrameRate) ?? number(item, T.cineRate);
  const time = number(item, T.frameTime) ?? number(item, T.frameTimeVector, 1);
  if (rate > 0) return { ms: 1000 / rate, told: true };
  if (time > 0) return { ms: time, told: true };
  return { ms: 100, told: false };
}
