"""Checkpoints from the web: https only, resumed where they stopped, refused when they are something else."""

import hashlib
import http.client
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from stylegan2.checkpoints.containers import HEAD, check_head
from stylegan2.checkpoints.pickles import CheckpointError
from stylegan2.files import fingerprint
from stylegan2.locks import file_lock

log = logging.getLogger(__name__)
CHUNK = 2**20
MAX_BYTES = 8 * 2**30
TIMEOUT = 30  # seconds without a byte
LOOPBACK = ("localhost", "127.0.0.1", "::1")  # what goes there does not leave the machine

Progress = Callable[[Iterable[bytes], int | None], Iterable[bytes]]


def is_address(source: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source) is not None


def cache_folder() -> Path:
    """Where fetched files are kept: $XDG_CACHE_HOME/stylegan2, by default ~/.cache/stylegan2."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stylegan2"


def fetch(
    address: str,
    sha256: str | None = None,
    *,
    folder: Path | None = None,
    progress: Progress = lambda chunks, total: chunks,
) -> Path:
    """The file at an https address, from the cache if it is there and whole.

    A transfer that broke off is kept as NAME.part and goes on at the next call, if the server says that its
    file is still the same one. Of several processes that ask for the same address one fetches it, and the
    others wait. A file in the cache has its sha256 in its name; one that has changed is fetched again.

    Args:
        address: where it is.
        sha256: of the whole file, in hex; another file is refused.
        folder: the cache; default `cache_folder()`.
        progress: wraps the chunks as they arrive; told how many there will be, if the server tells.

    Raises:
        CheckpointError: the address is not https, or what is there is no checkpoint or has another sha256.
        OSError: the server or the network does not give it (whole).
    """
    _check_scheme(address)
    expected = None if sha256 is None else check_sum(sha256)
    folder = cache_folder() if folder is None else folder
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", Path(unquote(urlsplit(address).path)).name)[-80:].lstrip(".")
    name = name or "checkpoint"
    if (found := _cached(folder, key, expected)) is not None:
        return found
    _make_cache(folder)
    with file_lock(
        folder / f"{key}.lock", lambda: log.warning("another process fetches %s; waiting", address)
    ):
        if (found := _cached(folder, key, expected)) is not None:
            return found
        part = folder / f"{key}-{name}.part"
        try:
            _transfer(address, part, progress)
            total = fingerprint(part)
            check_found(total, expected, address)
        except CheckpointError:  # what is there is not worth going on with
            part.unlink(missing_ok=True)
            _validator_file(part).unlink(missing_ok=True)
            raise
        for old in _files_of(folder, key):
            old.unlink()
        path = part.replace(folder / f"{key}-{total}-{name}")
        _validator_file(part).unlink(missing_ok=True)
        return path


def _make_cache(folder: Path) -> None:
    """Make the cache's folder. Raises OSError, with a remedy, where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"{folder}: the cache cannot be made ({error.strerror}); set XDG_CACHE_HOME to a folder that can "
            "be written"
        ) from error


def _files_of(folder: Path, key: str) -> list[Path]:
    """The whole files that the cache has of an address; older versions wrote no sum into their names."""
    return [path for path in folder.glob(f"{key}-*") if path.suffix not in (".part", ".validator")]


def _cached(folder: Path, key: str, expected: str | None) -> Path | None:
    """The file of an address in the cache, if it is still what was fetched, and what is expected."""
    for path in _files_of(folder, key):
        total = path.name[len(key) + 1 :][:64]
        if expected in (None, total) and re.fullmatch(r"[0-9a-f]{64}", total) and fingerprint(path) == total:
            return path
    return None


def check_sum(sha256: str) -> str:
    """A sha256 in lower case. Raises CheckpointError when it is none."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise CheckpointError(f"{sha256!r:.80} is not a sha256: 64 hexadecimal digits are expected")
    return sha256.lower()


def verify_sum(path: Path, expected: str | None, source: str) -> None:
    """Raise CheckpointError unless `path` has this sha256 (in lower case; None fits all)."""
    if expected is not None:
        check_found(fingerprint(path), expected, source)


def check_found(found: str, expected: str | None, source: str) -> None:
    """Raise CheckpointError where a sha256 is not the one that was expected."""
    if expected not in (None, found):
        raise CheckpointError(
            f"{source}: its sha256 is {found}, not {expected}; it is another file, or damaged"
        )


def _transfer(address: str, part: Path, progress: Progress) -> None:
    """Get what is missing of `part`. Raises OSError or CheckpointError."""
    have = part.stat().st_size if part.is_file() else 0
    validator_file = _validator_file(part)
    validator = validator_file.read_text() if validator_file.is_file() else ""
    headers = {"User-Agent": "clip2gan"}
    if have and validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        with _OPENER.open(urllib.request.Request(address, headers=headers), timeout=TIMEOUT) as response:
            resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(
                f"bytes {have}-"
            )
            start = have if resumed else 0
            length = response.headers.get("Content-Length", "")
            total = start + int(length) if length.isdecimal() else None
            if total is not None and total > MAX_BYTES:
                raise CheckpointError(f"{address}: {total:,} bytes; no checkpoint is so large")
            with part.open("ab" if resumed else "wb") as file:
                # Only now: beside the bytes of another file it would have them continued.
                validator_file.write_text(_validator(response.headers))
                chunks = -(-(total - start) // CHUNK) if total is not None else None
                size = start
                for chunk in progress(_chunks(response, address, first=not resumed), chunks):
                    file.write(chunk)
                    size += len(chunk)
                    if size > MAX_BYTES:
                        raise CheckpointError(f"{address}: does not end; no checkpoint is so large")
    except urllib.error.HTTPError as error:
        if error.code == 416 and validator_file.is_file():  # nothing is left to get, or the file shrank
            validator_file.unlink()
            return _transfer(address, part, progress)
        raise OSError(
            f"{address}: the server answers {error.code} {error.reason}; check the address"
        ) from error
    except urllib.error.URLError as error:
        raise OSError(
            f"{address}: cannot be fetched ({error.reason}); check the address and network"
        ) from error
    except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise OSError(f"{address}: broke off ({error}); the same command goes on from there") from error
    if total is not None and size != total:
        raise OSError(
            f"{address}: broke off at {size:,} of {total:,} bytes; the same command goes on from there"
        )


def _chunks(response: IO[bytes], address: str, first: bool) -> Iterator[bytes]:
    """A body in parts; its start is looked at before anything is kept."""
    while chunk := response.read(CHUNK):
        if first:
            try:
                check_head(chunk[:HEAD])
            except CheckpointError as error:
                raise CheckpointError(f"{address}: {error}") from error
            first = False
        yield chunk


def _validator(headers: Any) -> str:
    """What tells this file from a later one at the same address: a strong ETag, or its date."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _validator_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.validator")


def _check_scheme(address: str) -> None:
    url = urlsplit(address)
    if url.scheme != "https" and not (url.scheme == "http" and url.hostname in LOOPBACK):
        raise CheckpointError(f"{address}: only https:// addresses are fetched")


class _SecureRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https only."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_SecureRedirects)
