// What is no image: reports as a text tree, PDF, and an honest card for all else.

import { ask, bytesOf } from "./archive.js";
import { T, clock, day, text, values } from "./dicom.js";

const KINDS = [
  [/^1\.2\.840\.10008\.5\.1\.4\.1\.1\.104\.1$/, "Encapsulated PDF"],
  [/^1\.2\.840\.10008\.5\.1\.4\.1\.1\.104\./, "Encapsulated document"],
  [/^1\.2\.840\.10008\.5\.1\.4\.1\.1\.88\.59$/, "Key object selection"],
  [/^1\.2\.840\.10008\.5\.1\.4\.1\.1\.88\./, "Structured report"],
  [/^1\.2\.840\.10008\.5\.1\.4\.1\.1\.11\./, "Presentation state"],
  [/^1\.2\.840\.10008\.5\.1\.4\.1\.1\.9\./, "Waveform (ECG or other)"],
  [/^1\.2\.840\.10008\.5\.1\.4\.1\.1\.481\./, "Radiotherapy object"],
  [/^1\.2\.840\.10008\.5\.1\.4\.1\.1\.66$/, "Raw data"],
];
const kindOf = (item) => KINDS.find(([pattern]) => pattern.test(text(item, T.sopClass)))?.[1] ?? "Object without pixels";
const DEPTH = 24; // of a report's tree; deeper ones are cut, and say so

function element(tag, content, className) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = content;
  made.dir = "auto";
  return made;
}

/** The card of a page without a picture. */
export function card(page) {
  const { item } = page;
  const made = document.createElement("article");
  const kind = kindOf(item);
  made.append(element("h2", text(item, T.documentTitle) || conceptOf(item) || text(item, T.contentLabel) || kind));
  const facts = [kind, [day(text(item, T.contentDate)), clock(text(item, T.contentTime))].filter(Boolean).join(" "),
    text(item, T.completion), text(item, T.verification), text(item, T.contentDescription)].filter(Boolean);
  made.append(element("p", facts.join(" · "), "facts"));
  if (item[T.document]) made.append(documentOf(page));
  else if (item[T.content]) made.append(tree(item, 0));
  else made.append(element("p", "This object holds no image that this viewer can show. It is kept whole, and other software can read it from here."));
  return made;
}

const conceptOf = (item) => text(values(item, T.conceptName)[0], T.codeMeaning);

function tree(item, depth) {
  const list = document.createElement("ul");
  if (depth > DEPTH) {
    list.append(element("li", "… more below, not shown here"));
    return list;
  }
  for (const node of values(item, T.content)) {
    const entry = document.createElement("li");
    const name = conceptOf(node), value = valueOf(node);
    if (name) entry.append(element("strong", name));
    if (value) entry.append(element("span", value, "value"));
    if (node[T.content]) entry.append(tree(node, depth + 1));
    list.append(entry);
  }
  return list;
}

/** PS3.3 C.17.3: the value of a content item as text. */
function valueOf(node) {
  const measured = values(node, T.measured)[0];
  const unit = (one) => text(values(one, T.units)[0], T.codeMeaning);
  switch (text(node, T.valueType)) {
    case "TEXT": return text(node, T.text);
    case "CODE": return text(values(node, T.concept)[0], T.codeMeaning);
    case "NUM": return measured ? `${text(measured, T.numeric)} ${unit(measured)}`.trim() : "not measured";
    case "PNAME": return text(node, T.personName);
    case "DATE": return day(text(node, T.date));
    case "TIME": return clock(text(node, T.time));
    case "DATETIME": return text(node, T.dateTime);
    case "UIDREF": return text(node, T.uid);
    case "IMAGE": case "COMPOSITE": case "WAVEFORM": return `(refers to ${values(node, T.referencedSop).length || 1} object)`;
    case "SCOORD": case "SCOORD3D": case "TCOORD": return "(coordinates, not shown here)";
    default: return "";
  }
}

function documentOf(page) {
  const place = document.createElement("p");
  const button = element("button", "Get the document");
  button.type = "button";
  const note = element("span", "", "facts");
  note.setAttribute("role", "status");
  place.append(button, note);
  button.addEventListener("click", async () => {
    note.textContent = " …";
    try {
      const url = URL.createObjectURL(await documentBlob(page.item));
      const link = element("a", "Open the document");
      Object.assign(link, { href: url, target: "_blank", rel: "noopener" });
      const saved = element("a", "Save it");
      Object.assign(saved, { href: url, download: "document.pdf" });
      if (!isPdf(page.item)) saved.download = "document.bin";
      note.textContent = "";
      button.replaceWith(...(isPdf(page.item) ? [link, " ", saved] : [saved]));
    } catch (error) {
      note.textContent = ` ${error.message}`;
    }
  });
  return place;
}

const isPdf = (item) => text(item, T.documentType).toLowerCase() === "application/pdf";

/** A document's bytes. Only PDF keeps its type: anything else could be a page that runs as ours. */
async function documentBlob(item) {
  const { InlineBinary: inline, BulkDataURI: uri } = item[T.document];
  let bytes;
  if (inline) bytes = Uint8Array.from(atob(inline), (one) => one.charCodeAt(0));
  else {
    const at = new URL(uri, location.href); // its host may be another name of this one
    bytes = await bytesOf(await ask(location.origin + at.pathname + at.search, "application/octet-stream"));
  }
  return new Blob([bytes], { type: isPdf(item) ? "application/pdf" : "application/octet-stream" });
}
