"""Files on their way to machines: assets, the TFTP tree, and what this host fetches for them from other servers.

Whole or in part, by sendfile where that is to be had; never read by the loop itself.
"""

import asyncio
import errno
import functools
import importlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from pixieboot import content, remote
from pixieboot.model import Event, Mac
from pixieboot.serve import conditional, zerocopy
from pixieboot.serve.access import state_directory
from pixieboot.serve.asgi import Send
from pixieboot.serve.context import Context, Download
from pixieboot.serve.files import File, open_below, open_boot_file, open_root
from pixieboot.serve.rendered import text_at
from pixieboot.serve.requests import JSON, NO_STORE, TEXT, Reply, Request, Told, date, missing

INLINE = 64 * 1024  # files up to this size are read and sent with their head: sendfile pays above
CHUNK = 64 * 1024  # of a file that is streamed because zero copy is not to be had
CONTENT_TYPES = {  # EDK2 takes an image for what its Content-Type says, else its extension (HttpBootSupport.c)
    ".efi": b"application/efi",
    ".iso": b"application/vnd.efi-iso",
    ".img": b"application/vnd.efi-img",
    ".ipxe": TEXT,
    ".cfg": TEXT,
    ".conf": TEXT,
    ".txt": TEXT,
    ".yaml": TEXT,
    ".yml": TEXT,
    ".ks": TEXT,
    ".sh": TEXT,
    ".asc": TEXT,
    ".ign": JSON,
    ".json": JSON,
}


class Downloads:
    """Sends files, and knows which are under way.  None for a reply: it has been sent already."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._running: dict[int, tuple[str, str, Mac | None, int, Callable[[], int]]] = {}  # large files under way
        self._cache: Any = None  # fetch.Cache, once a machine asks for another server's file: TLS costs ten MiB
        context.downloads.append(self.running)

    def running(self) -> Iterator[Download]:
        """The large files that are under way, and how far they came."""
        for path, peer, mac, size, sent in tuple(self._running.values()):
            yield Download(path, peer, mac, size, sent())

    def stop(self) -> None:
        """Fetch nothing any more."""
        if self._cache:
            self._cache.stop()

    async def prepare(self) -> Any:
        """Have the module fetch at hand.  To load it takes a tenth of a second, for which DHCP does not wait."""
        return await asyncio.to_thread(importlib.import_module, "pixieboot.serve.fetch")

    async def asset(self, request: Request, parts: Sequence[str], send: Send, scope: Any) -> Reply | None:
        """A file below `assets`."""
        return await self._file(request, None, functools.partial(self._open_asset, parts), send, scope)

    async def boot_file(self, request: Request, path: str, send: Send, scope: Any) -> Reply | None:
        """A path of the TFTP tree: the same answer as by TFTP."""
        place, journal = content.find(path), self._context.journal
        match place:
            case content.FileBelow():
                return await self._file_below(request, place, send, scope)
            case content.Rendered():
                with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                    self._open_boot_file(place.file).close()
                    return await self._file_below(request, place.file, send, scope)
                text = text_at(place, self._context, request.site, request.peer)
                if text is None and place.shared:
                    return await self._file_below(request, place.shared, send, scope)
                if text is None:
                    return missing(journal, request, place.mac, "there is nothing to say to this client", place.file.expected)
                request.only("GET")
                detail = {"path": request.path, "bytes": len(text), "seconds": 0.0, "peer": request.peer}
                return Told(Reply(200, text, headers=NO_STORE), None, place.mac, "sent", detail).record(request, journal)
        return missing(journal, request, place.mac, place.why)

    async def remote(self, request: Request, token: str, send: Send, scope: Any) -> Reply | None:
        """A file of another server, from the cache or while it arrives."""
        request.only("GET")
        wanted = remote.of_token(self._context.sites.link_key, token)
        request = replace(request, path=f"/{remote.PREFIX}/{wanted.name if wanted else '?'}")
        if wanted is None:
            return missing(self._context.journal, request, None, "this host made no such link; start the machine again")
        mac = self._context.journal.mac_of(request.peer)
        if wanted.url.startswith("file:"):
            return await self._file(request, mac, functools.partial(self._open_named, wanted.url), send, scope)
        fetch = await self.prepare()
        if self._cache is None:
            place = state_directory(self._context.settings) / "cache"
            self._cache = fetch.Cache(place, lambda: self._context.settings.cache.size, self._context.journal.record)
        try:
            fetched = await self._cache.open(wanted, mac)
        except fetch.Unanswered as unanswered:
            self._warn(request, mac, "failed", unanswered.sentence, url=wanted.url)
            return Reply(unanswered.status, f"{unanswered.sentence}.\n".encode())
        with fetched:
            return await self._send_file(request, mac, fetched.file, send, scope, fetched)

    async def _file_below(self, request: Request, place: content.FileBelow, send: Send, scope: Any) -> Reply | None:
        return await self._file(request, place.mac, functools.partial(self._open_boot_file, place), send, scope, place.expected)

    async def _file(
        self, request: Request, mac: Mac | None, opening: Callable[[], File], send: Send, scope: Any, expected: str = ""
    ) -> Reply | None:
        """A file, or the part of it that the request asks for.  expected: why its absence need not worry anybody."""
        request.only("GET")
        try:
            file = opening()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            return missing(self._context.journal, request, mac, error.strerror or "no such file", expected)
        except PermissionError as error:
            self._warn(request, mac, "refused", error.strerror)
            return Reply(403, f"{request.path}: {error.strerror}.\n".encode())
        except OSError as error:
            self._warn(request, mac, "failed", error.strerror)
            return Reply(500, f"{request.path}: {error.strerror}.\n".encode())
        with file:
            return await self._send_file(request, mac, file, send, scope)

    async def _send_file(
        self, request: Request, mac: Mac | None, file: File, send: Send, scope: Any, fetched: Any = None
    ) -> Reply | None:
        """fetched: the hold on a file that may still be arriving (fetch.Fetched)."""
        version = conditional.Version(file.size, file.mtime_ns, file.inode)
        part = conditional.answer(request.headers, version)
        head = [(b"ETag", version.etag), (b"Last-Modified", version.last_modified), (b"Accept-Ranges", b"bytes")]
        if part.status == 412:
            return Reply(412, b"The file is not the one you began with: start again.\n", headers=tuple(head))
        if part.status == 416:
            head.append((b"Content-Range", b"bytes */%d" % file.size))
            return Reply(416, b"That part is beyond the end of the file.\n", headers=tuple(head))
        if part.status == 206:
            head.append((b"Content-Range", b"bytes %d-%d/%d" % (part.first, part.first + part.count - 1, file.size)))
        if part.status != 304:
            content_type = CONTENT_TYPES.get(PurePosixPath(request.parts[-1]).suffix.lower(), b"application/octet-stream")
            head += [(b"Content-Type", content_type), (b"Content-Length", b"%d" % part.count)]
        began = time.monotonic()
        if part.status == 200 and part.count > INLINE and request.method == "GET":
            detail = {"path": request.path, "bytes": part.count, "peer": request.peer}
            self._context.journal.record(Event(time.time(), mac, "http", "started", detail, "debug"))
            sent = scope.get("extensions", {}).get(zerocopy.ZEROCOPY, {}).get("sent", int)
            if not fetched:  # that one goes out in many pieces, of which the last alone is counted
                self._running[id(scope)] = (request.path, request.peer, mac, part.count, sent)
        try:
            await send({"type": "http.response.start", "status": part.status, "headers": [(b"Date", date()), *head]})
            if request.method == "HEAD" or not part.count:
                await send({"type": "http.response.body", "body": b""})
                return None
            await self._send_part(file, part, send, scope, fetched)
        except OSError as error:
            why = (fetched and fetched.failure) or error.strerror or type(error).__name__
            source = {"url": fetched.url} if fetched and fetched.failure else {}
            self._warn(request, mac, "failed", why, seconds=time.monotonic() - began, **source)
            return None
        finally:
            self._running.pop(id(scope), None)
        detail = {"path": request.path, "bytes": part.count, "seconds": time.monotonic() - began, "peer": request.peer}
        # sanboot reads a disk image in thousands of small parts: only the one that reaches the end is news.
        level = "info" if part.first + part.count == file.size else "debug"
        self._context.journal.record(Event(time.time(), mac, "http", "sent", detail, level))
        return None

    async def _send_part(self, file: File, part: conditional.Answer, send: Send, scope: Any, fetched: Any) -> None:
        if fetched:
            await self._as_it_arrives(fetched, part, send, scope)
        elif part.count <= INLINE:
            await send({"type": "http.response.body", "body": await _inline(file, part)})
        elif zerocopy.ZEROCOPY in scope.get("extensions", {}):
            await send({"type": zerocopy.ZEROCOPY, "file": file.fd, "offset": part.first, "count": part.count})
        else:
            await _stream(file, part, send)

    async def _as_it_arrives(self, fetched: Any, part: conditional.Answer, send: Send, scope: Any) -> None:
        """A part of a file that may still be growing.  Raises OSError if it does not grow to its end."""
        at, end = part.first, part.first + part.count
        while at < end:
            upto = min(end, await fetched.arrived(at))
            if zerocopy.ZEROCOPY in scope.get("extensions", {}):
                message = {"type": zerocopy.ZEROCOPY, "file": fetched.file.fd, "offset": at, "count": upto - at}
                await send({**message, "more_body": upto < end})
            else:
                await _stream(fetched.file, conditional.Answer(200, at, upto - at), send, upto < end)
            at = upto

    def _warn(self, request: Request, mac: Mac | None, kind: str, why: str | None, **more: Any) -> None:
        detail = {"path": request.path, "peer": request.peer, "why": why, **more}
        self._context.journal.record(Event(time.time(), mac, "http", kind, detail, "warning"))

    def _open_asset(self, parts: Sequence[str]) -> File:
        root = open_root(self._context.settings.assets)
        try:
            return open_below(root, parts, follow_links=True)
        finally:
            os.close(root)

    def _open_named(self, url: str) -> File:
        """A file of this host that the command line or an API names by file:///."""
        found = self._context.settings.file_of(url)
        if found is None:
            raise PermissionError(errno.EACCES, "this file is not among those that may be served")
        root = open_root(found[0])
        try:
            return open_below(root, PurePosixPath(found[1].lstrip("/")).parts, follow_links=found[0] != Path("/"))
        finally:
            os.close(root)

    def _open_boot_file(self, place: content.FileBelow) -> File:
        settings = self._context.settings
        root, follow = settings.tftp.root, settings.tftp.follow_links
        for parts in place.places[:-1]:  # a directory of the machine's own
            with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return open_boot_file(root, parts, (), follow)
        return open_boot_file(root, place.parts, settings.loaders.values(), follow)


async def _inline(file: File, part: conditional.Answer) -> bytes:
    """A small part of a file: at once if it is in the page cache, else by a thread."""
    buffer = bytearray(part.count)
    try:
        if os.preadv(file.fd, [buffer], part.first, os.RWF_NOWAIT) == part.count:
            return bytes(buffer)
    except OSError:
        pass  # not there, or a file system that does not tell
    loop = asyncio.get_running_loop()
    whole = await loop.run_in_executor(None, os.pread, file.fd, part.count, part.first)
    if len(whole) < part.count:
        raise OSError(0, "the file became shorter during the transfer")
    return whole


async def _stream(file: File, part: conditional.Answer, send: Send, more: bool = False) -> None:
    """A part of a file through this process's memory, a little at a time; the sender waits for slow readers."""
    loop = asyncio.get_running_loop()
    at, left = part.first, part.count
    while left:
        piece = await loop.run_in_executor(None, os.pread, file.fd, min(CHUNK, left), at)
        if not piece:
            raise OSError(0, "the file became shorter during the transfer")
        at, left = at + len(piece), left - len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": bool(left) or more})
