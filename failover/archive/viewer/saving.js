// A study as one file: whose it is and what it lacks are said before it is fetched.

import { ask } from "./archive.js";
import { T, day, nameGroups, text, values } from "./dicom.js";

const $ = (id) => document.getElementById(id);
let turn = 0;

/** Offer to save the study: the archive is asked first, so that a refusal is a sentence and no broken file. */
export async function offer(study) {
  const mine = (turn += 1);
  const path = `download/${encodeURIComponent(text(study, T.study))}`;
  const link = $("save-link"), note = $("save-note");
  $("save-whose").textContent = nameGroups(values(study, T.patientName)[0]).join(" · ") || "(no name)";
  $("save-facts").textContent = [`born ${day(text(study, T.birthDate)) || "not known"}`, `ID ${text(study, T.patientId) || "none"}`].join(" · ");
  $("save-what").textContent = [day(text(study, T.studyDate)), text(study, T.studyDescription),
    text(study, T.instanceCount) && `${text(study, T.instanceCount)} objects`].filter(Boolean).join(" · ");
  link.hidden = true;
  note.className = "";
  note.textContent = "Asking the archive…";
  $("save").showModal();
  try {
    const answer = await ask(path, "application/zip", { method: "HEAD" });
    if (mine !== turn) return;
    link.href = path;
    link.hidden = false;
    note.textContent = answer.status === 206 ? "Incomplete: the primary was seen with more images of this study than are here." : "";
    if (answer.status === 206) note.className = "warn";
    link.focus();
  } catch (error) {
    if (mine !== turn) return;
    note.className = "bad";
    note.textContent = error.message;
  }
}

$("save-link").addEventListener("click", () => setTimeout(() => $("save").close()));
