"""Malformed objects by STOW, and those that were let in out again: proper statuses, nothing else."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import psutil

from failover.http.multipart import MultipartWriter
from tests.integration.dicomweb_stage import WebStage, a_web_archive
from tests.integration.malformed import corpus, malformed, seeds

# The nightly corpus has 900: FAILOVER_CORPUS=900.
COUNT = int(os.environ.get("FAILOVER_CORPUS", "160"))
SEED = int(os.environ.get("FAILOVER_CORPUS_SEED", "1"))
WAYS_OUT = (
    ("metadata", "application/dicom+json"),
    ("frames/1", "*/*"),
    ("frames/1", 'multipart/related; type="application/octet-stream"'),
    ("rendered", "image/png"),
    ("thumbnail", "*/*"),
    ("", "application/dicom"),
)
FINE = {200, 206, 400, 404, 406}


def files_beside(folder: Path) -> set[Path]:
    """The files that are not below the archive's own folder."""
    return {
        path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] != "data"
    }


async def out_again(stage: WebStage, path: str, accept: str) -> int:
    async with stage.session.get(path, headers={"Accept": accept}) as answer:
        body = await answer.read()
        if answer.status >= 400:
            assert b"Traceback" not in body
            assert len(body) < 1000
        return answer.status


async def test_a_corpus_gets_proper_statuses_and_leaves_nothing(tmp_path: Path) -> None:
    async with a_web_archive(tmp_path, filled=False) as stage:
        for raw in seeds()[:20]:  # so that memory is compared with that of an archive that has worked
            await stage.store(raw)
        before_bytes = psutil.Process().memory_info().rss
        beside = files_beside(tmp_path)
        accepted, answers = 0, dict[int, int]()
        for raw in corpus(COUNT, SEED):
            status, said = await stage.store(raw)
            assert status in (200, 400, 409), (status, said)
            for item in said.get("00081199", {}).get("Value", []):
                accepted += 1
                url = item["00081190"]["Value"][0]
                for way, accept in WAYS_OUT:
                    got = await out_again(stage, f"{url}/{way}".rstrip("/"), accept)
                    assert got in FINE, (way, accept, got)
                    answers[got] = answers.get(got, 0) + 1
        assert accepted > COUNT // 10
        assert {200, 406} <= answers.keys(), answers
        assert await stage.search("/studies?limit=100")
        assert stage.half_received() == []
        assert files_beside(tmp_path) == beside
        assert psutil.Process().memory_info().rss - before_bytes < 64 * 2**20


async def test_bodies_broken_anywhere_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    writer = MultipartWriter("b" * 40)
    head = writer.part_head({"Content-Type": "application/dicom"})
    good = head + seeds()[0] + writer.end()
    async with a_web_archive(tmp_path, filled=False) as stage:
        for number in range(40):
            chance = random.Random(number)
            body = malformed(good, chance) if number % 2 else good[: chance.randrange(len(good) - 4)]
            kind = writer.content_type("application/dicom")
            async with stage.session.post(
                f"{stage.root}/studies", data=body, headers={"Content-Type": kind}
            ) as answer:
                assert answer.status in (200, 202, 400, 409), answer.status
        assert stage.half_received() == []


async def test_a_body_beyond_the_limit_is_413_and_leaves_nothing(tmp_path: Path) -> None:
    async with a_web_archive(tmp_path, filled=False, max_store="1MiB") as stage:
        kind = {"Content-Type": "application/dicom"}
        url = f"{stage.root}/studies"
        async with stage.session.post(url, data=bytes(2 * 2**20), headers=kind) as answer:
            assert answer.status == 413

        async def unannounced() -> AsyncIterator[bytes]:
            for _ in range(40):
                yield bytes(65536)

        async with stage.session.post(url, data=unannounced(), headers=kind) as answer:
            assert answer.status == 413
        assert stage.half_received() == []


async def test_pictures_and_metadata_are_not_sent_twice(tmp_path: Path) -> None:
    async with a_web_archive(tmp_path) as stage:
        study = (await stage.search("/studies?ModalitiesInStudy=CT&limit=1"))[0]["00081190"]["Value"][0]
        for way in ("metadata", "rendered", "thumbnail", "rendered?viewport=64,64"):
            async with stage.session.get(f"{study}/{way}") as answer:
                assert answer.status == 200, way
                tag = answer.headers["ETag"]
            async with stage.session.get(f"{study}/{way}", headers={"If-None-Match": tag}) as answer:
                assert answer.status == 304, way
        async with stage.session.get(f"{study}/metadata") as kept:
            assert (await kept.json(content_type=None))[0]["00081190"]["Value"][0].startswith(study)
