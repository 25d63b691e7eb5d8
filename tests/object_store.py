"""A stand-in for Google Cloud Storage: its JSON interface over HTTP, as far as gcsfs and TensorStore use it.

Objects are kept in memory. Nothing can be appended, there are no folders, and an object is there whole or not at all.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class ObjectStore:
    """A server on a port of its own; a context manager.

    Attributes:
      url: of the server.
      objects: content and generation by bucket/name.
    """

    def __init__(self):
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.uploads: dict[str, tuple[str, bytes]] = {}
        self.numbers = itertools.count(1)
        self.lock = threading.RLock()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> ObjectStore:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()

    def names(self) -> list[str]:
        return sorted(self.objects)

    def write(self, key: str, content: bytes) -> dict:
        self.objects[key] = (content, next(self.numbers))
        return self.metadata(key)

    def metadata(self, key: str) -> dict:
        content, generation = self.objects[key]
        bucket, name = key.split("/", 1)
        moment = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(generation))  # each a second after the last
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "size": str(len(content)),
            "generation": str(generation),
            "metageneration": "1",
            "timeCreated": moment,
            "updated": moment,
        }


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_) -> None:
        """Clients hang up when they have heard enough."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    store: ObjectStore

    def log_message(self, *_) -> None:
        pass

    def _serve(self) -> None:
        self.parts = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(self.parts.query, keep_blank_values=True).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        routes = (
            ("POST", r"/upload/storage/v1/b/([^/]+)/o", self._upload),
            ("POST", r"/uploads/(\d+)", self._upload_part),
            ("POST", r"/storage/v1/b/([^/]+)/o/([^/]+)/rewriteTo/b/([^/]+)/o/([^/]+)", self._rewrite),
            ("GET", r"(?:/download)?/storage/v1/b/([^/]+)/o/([^/]+)", self._read),
            ("DELETE", r"/storage/v1/b/([^/]+)/o/([^/]+)", self._delete),
            ("GET", r"/storage/v1/b/([^/]+)/o/?", self._list),
            ("GET", r"/storage/v1/b/([^/]+)", lambda bucket: self._answer({"kind": "storage#bucket", "name": bucket})),
        )
        with self.store.lock:
            for method, pattern, route in routes:
                if method == self.command and (match := re.fullmatch(pattern, self.parts.path)):
                    return route(*map(unquote, match.groups()))
        return self._answer({"error": {"message": f"{self.command} {self.path}"}}, 501)

    do_GET = do_POST = do_DELETE = _serve

    def _answer(self, value: dict | bytes, status: int = 200, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, content in headers.items():
            self.send_header(name.replace("_", "-"), content)
        self.send_header("Content-Type", "application/octet-stream" if body is value else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _missing(self, key: str) -> None:
        self._answer({"error": {"code": 404, "message": f"No such object: {key}"}}, 404)

    def _refused(self, key: str) -> bool:
        """Whether a condition on the generation does not hold, which is then answered."""
        generation = self.store.objects[key][1] if key in self.store.objects else 0
        if "ifGenerationMatch" in self.query and int(self.query["ifGenerationMatch"]) != generation:
            self._answer({"error": {"code": 412, "message": "conditionNotMet"}}, 412)
            return True
        if "ifGenerationNotMatch" in self.query and int(self.query["ifGenerationNotMatch"]) == generation:
            self._answer(b"", 304)
            return True
        return False

    def _read(self, bucket: str, name: str) -> None:
        key = f"{bucket}/{name}"
        if self._refused(key):
            return
        if key not in self.store.objects:
            return self._missing(key)
        if self.query.get("alt") != "media" and not self.parts.path.startswith("/download"):
            return self._answer(self.store.metadata(key))
        content, generation = self.store.objects[key]
        headers = {"X_Goog_Generation": str(generation)}
        if match := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            first, last = match.groups()
            if not first:
                first, last = max(0, len(content) - int(last)), ""
            first, last = int(first), min(int(last or len(content)), len(content) - 1)
            headers["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
            return self._answer(content[first : last + 1], 206, **headers)
        return self._answer(content, **headers)

    def _list(self, bucket: str) -> None:
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter", "")
        start, end = self.query.get("startOffset", ""), self.query.get("endOffset", "")
        items, prefixes = [], set()
        for key in self.store.names():
            name = key.removeprefix(f"{bucket}/")
            if name == key or not name.startswith(prefix) or name < start or (end and name >= end):
                continue
            rest = name.removeprefix(prefix)
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.split(delimiter, 1)[0] + delimiter)
            else:
                items.append(self.store.metadata(key))
        self._answer({"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)})

    def _upload(self, bucket: str) -> None:
        kind = self.query["uploadType"]
        if kind == "media":
            key = f"{bucket}/{self.query['name']}"
            if not self._refused(key):
                self._answer(self.store.write(key, self.body))
        elif kind == "multipart":
            boundary = re.search(r'boundary="([^"]+)"', self.headers["Content-Type"])[1].encode()
            _, description, content = self.body.split(b"\n\n", 2)
            name = json.loads(description.split(b"\n--" + boundary)[0])["name"]
            self._answer(self.store.write(f"{bucket}/{name}", content.removesuffix(b"\n--" + boundary + b"--")))
        else:
            name = self.query.get("name") or json.loads(self.body)["name"]
            number = str(next(self.store.numbers))
            self.store.uploads[number] = (f"{bucket}/{name}", b"")
            self._answer({}, Location=f"{self.store.url}/uploads/{number}")

    def _upload_part(self, number: str) -> None:
        key, content = self.store.uploads[number]
        content += self.body
        self.store.uploads[number] = (key, content)
        if self.headers["Content-Range"].endswith("/*"):
            self._answer(b"", 308, Range=f"bytes=0-{len(content) - 1}")
        else:
            self._answer(self.store.write(key, content))

    def _rewrite(self, bucket: str, name: str, to_bucket: str, to_name: str) -> None:
        key = f"{bucket}/{name}"
        if key not in self.store.objects:
            return self._missing(key)
        metadata = self.store.write(f"{to_bucket}/{to_name}", self.store.objects[key][0])
        return self._answer({"done": True, "resource": metadata})

    def _delete(self, bucket: str, name: str) -> None:
        key = f"{bucket}/{name}"
        if self.store.objects.pop(key, None) is None:
            return self._missing(key)
        return self._answer(b"", 204)
