"""A small stand-in for the wandb server, so that tests run the real wandb client online, on loopback alone.

The wandb client is a Python package plus a process of its own (wandb-core). Both talk to one HTTP server, at
WANDB_BASE_URL, in four ways, all imitated here:

* ``POST /graphql``: a named operation with variables. It is answered by the method of the same name below; the answer
  may hold more fields than were asked for, which the client ignores. An operation without a method is answered with a
  GraphQL error and remembered in ``StandIn.unknown``.
* ``POST /files/ENTITY/PROJECT/RUN/file_stream``: lines of history, system metrics, summary and console, each with the
  line number where they belong.
* ``PUT`` to an upload address given out before (pictures and other files of a run, files and manifests of artifacts).
  The real addresses are signed and lead to a bucket; these lead back here. As in a bucket, the body must match the
  Content-MD5 header that came with the address.
* ``GET`` of a download address given out before.

Imitated on purpose, since callers depend on it:

* a run is known by entity, project and id (two projects can't hold the same id here). A run that is resumed tells its
  config, its summary and its last history line, from which the client takes the step to go on at;
* a version of an artifact becomes visible when it is committed, all of it or not at all. Its number counts up inside
  its collection and is never used again. It takes its aliases from the version that had them (the client itself asks
  for ``latest`` each time). The client takes an alias like ``v3`` for the version's number, so such aliases are refused
  here; what the real server does with them is not known;
* the same content again in one collection makes no new version; a file that the collection already holds (same MD5)
  is not asked for again;
* the refusals of the real server, in its words: the entity NOBODY does not exist, to CLOSED the key's user has no
  access, and a run whose id is in ``StandIn.deleted`` was deleted, which its id outlives;
* a version that has aliases is only deleted when the client says so (``delete_aliases``).

Not imitated: accounts, teams and permissions (any key is good unless it is in ``StandIn.refused_keys``), quotas,
filters and orders of listings other than newest first, paging, sampled history, registries and links, references,
multipart uploads (the client uses them from 2 GiB), sweeps, reports, alerts, time-outs of signed addresses.
"""

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

ENTITY = "stand-in"  # the account's own entity, used when the client names none
KEY = "0123456789abcdef0123456789abcdef01234567"  # 40 hex digits: the shape the client insists on
NOBODY, CLOSED = "nobody", "closed"  # entities that are refused
WHEN = "2024-01-01T00:00:00Z"  # every date the client is told


def md5(data):
    """The MD5 of `data` in base64, as wandb's manifests and the Content-MD5 header write it."""
    return base64.b64encode(hashlib.md5(data).digest()).decode()


def connection(nodes):
    """A GraphQL list of `nodes`, all on one page."""
    edges = [{"node": node, "cursor": str(i), "version": node.get("version")} for i, node in enumerate(nodes)]
    return {"edges": edges, "totalCount": len(nodes), "pageInfo": {"endCursor": None, "hasNextPage": False}}


class GraphQLError(Exception):
    """The answer {"errors": [{"message": ...}]}, with an HTTP status."""

    def __init__(self, message, status=200):
        super().__init__(message)
        self.status = status


class StandIn:
    """A wandb server on a free port of 127.0.0.1; use it in a `with` statement.

    ``url``, ``environment``: where it is; the variables that send a wandb process there.
    ``runs[id]``: dict with config, history (a list of dicts), summary, files ({name: bytes}), events, output, complete.
    ``artifacts[collection]``: committed versions, oldest first: dicts with version ("v0"), aliases, metadata,
    files ({path: bytes}), uploaded (the paths whose bytes this version really sent), type, run, description.
    ``requests``: how often each operation, stream, upload ("PUT ...") and download ("GET ...") was asked for, outages
    included ("down"). ``api_keys``: the keys seen. ``bodies``: the text of all requests but for uploads, for a search.
    ``down``: True answers 503 to everything, "refuse" closes each connection without an answer.
    ``deleted``: ids of runs that were deleted.
    ``damage(version, path, data)``: from now on that file of a version (and of all that share it) is served as `data`.
    """

    def __init__(self):
        self.runs, self.artifacts, self.unknown, self.bodies = {}, {}, [], []
        self.requests, self.api_keys, self.refused_keys = Counter(), set(), set()
        self.down, self.deleted = False, set()
        self._by_id, self._blobs = {}, {}  # committed or not; address: (id of the version that sent it, bytes)
        self._uploads = {}  # address: (MD5 its body must have or None, what to do with the body)
        self._lock = threading.RLock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"stand_in": self}))
        self._http.daemon_threads, self._http.block_on_close = True, False
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self.environment = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}
        self.environment |= {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false", "NO_PROXY": "127.0.0.1"}
        self.environment |= {"WANDB_DISABLE_GIT": "true", "WANDB_DISABLE_CODE": "true", "no_proxy": "127.0.0.1"}

    def __enter__(self):
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._http.shutdown()
        self._http.server_close()

    def damage(self, version, path, data):
        self._blobs[self._address(version, md5(version["files"][path]))] = (version["id"], data)

    # ---- what the account is ----

    def Viewer(self, _):
        user = {"id": "user", "entity": ENTITY, "username": ENTITY, "name": ENTITY, "email": None, "flags": "{}"}
        return {"viewer": user | {"teams": connection([])}}

    GetDefaultEntity = GetViewer = Viewer

    def ServerFeaturesQuery(self, _):
        return {"serverInfo": {"features": []}}  # none: the client takes its plainest ways

    def OrganizationCoreWeaveOrganizationID(self, _):
        return {"entity": {"organization": None}}

    # ---- runs ----

    def _run(self, entity, project, name):
        run = self.runs.get(name)
        return run if run and (run["entity"], run["project"]) == (entity or ENTITY, project) else None

    def _bucket(self, run):
        """What the client may ask about a run, under the names that its operations use."""
        started = run["config"].get("_wandb", {}).get("value", {})
        history, project, entity = run["history"], run["project"], {"id": run["entity"], "name": run["entity"]}
        return {
            "id": f"run-{run['name']}",
            "name": run["name"],
            "displayName": run["displayName"],
            "project": {"id": project, "name": project, "entity": entity},
            "projectId": 1,
            "tags": [],
            "state": "finished" if run["complete"] else "running",
            "config": json.dumps(run["config"]),
            "wandbConfig": json.dumps({"t": started["t"]} if "t" in started else {}),  # tells that the run did start
            "summaryMetrics": json.dumps(run["summary"]),
            "systemMetrics": "{}",
            "historyKeys": {"lastStep": history[-1]["_step"] if history else -1},
            "historyTail": json.dumps([json.dumps(row) for row in history[-1:]]),
            "historyLineCount": len(history),
            "eventsTail": json.dumps(run["events"][-1:]),
            "eventsLineCount": len(run["events"]),
            "logLineCount": len(run["output"]),
        }

    def UpsertBucket(self, v):
        if "name" not in v:  # from wandb.Api().run(...).summary.update()
            run = self.runs[v["id"].removeprefix("run-")]
            run["summary"] = json.loads(v["summaryMetrics"])
            return {"upsertBucket": {"bucket": self._bucket(run), "inserted": False}}
        entity, project = v.get("entity") or ENTITY, v.get("project") or "uncategorized"
        if entity == NOBODY:
            raise GraphQLError(f"entity {NOBODY} not found during upsertBucket", 404)
        if entity == CLOSED:
            raise GraphQLError("permission denied", 403)
        if v["name"] in self.deleted:
            message = f"run {entity}/{project}/{v['name']} was previously created and deleted; try a new run name"
            raise GraphQLError(message, 409)
        inserted = v["name"] not in self.runs
        if inserted:
            run = {"name": v["name"], "entity": entity, "project": project, "displayName": v["name"], "config": {}}
            run |= {"history": [], "summary": {}, "files": {}, "events": [], "output": [], "complete": False}
            self.runs[v["name"]] = run
        run = self._run(entity, project, v["name"])
        if run is None:
            raise GraphQLError("the stand-in holds a run of that id in another project")
        run["displayName"] = v.get("displayName") or run["displayName"]
        run["config"] = json.loads(v["config"]) if v.get("config") else run["config"]
        run["complete"] = False
        return {"upsertBucket": {"bucket": self._bucket(run), "inserted": inserted}}

    def RunResumeStatus(self, v):
        run = self._run(v.get("entity"), v["project"], v["name"])
        entity = {"id": v.get("entity") or ENTITY, "name": v.get("entity") or ENTITY}
        model = {"id": v["project"], "name": v["project"], "entity": entity}
        return {"model": model | {"bucket": self._bucket(run) if run else None}}

    def Run(self, v):
        run = self._run(v["entity"], v["project"], v["name"])
        return {"project": {"run": run and self._bucket(run)}}

    RunState = RunHistoryKeys = Run

    def Runs(self, v):
        place = (v["entity"], v["project"])
        runs = [self._bucket(run) for run in self.runs.values() if (run["entity"], run["project"]) == place]
        return {"project": {"internalId": 1, "runCount": len(runs), "readOnly": False, "runs": connection(runs)}}

    def file_stream(self, run, body):
        for name, chunk in body.get("files", {}).items():
            start, lines = chunk["offset"], chunk["content"]
            if name == "wandb-summary.json":
                run["summary"] = json.loads(lines[-1])
                continue
            field = {"wandb-history.jsonl": "history", "wandb-events.jsonl": "events", "output.log": "output"}[name]
            run[field][start : start + len(lines)] = map(json.loads, lines) if field == "history" else lines
        run["complete"] = body.get("complete", run["complete"])
        return {"exitcode": None, "limits": {}}

    def CreateRunFiles(self, v):
        run, files = self._run(v["entity"], v["project"], v["run"]), []
        if run is None:
            raise GraphQLError(f"no run {v['run']}")
        for name in v["files"]:
            path = f"/run/{v['run']}/{name}"
            self._uploads[path] = (None, lambda data, name=name: run["files"].update({name: data}))
            files.append({"name": name, "uploadUrl": self.url + path})
        return {"createRunFiles": {"runID": f"run-{v['run']}", "uploadHeaders": [], "files": files}}

    # ---- artifacts: publishing ----

    def CreateArtifact(self, v):
        v = v["input"]
        name, place = v["artifactCollectionName"], {"entity": v["entityName"], "project": v["projectName"]}
        versions = self._versions(place, name)
        aliases = [alias["alias"] for alias in v.get("aliases") or []]
        if any(re.fullmatch(r"v\d+", alias) for alias in aliases):
            raise GraphQLError("an alias can't look like a version's number")
        same = [a for a in versions if a["digest"] == v["digest"]]
        if same:
            artifact = same[0]
            self._move_aliases(artifact, aliases)
        else:
            artifact = {"id": base64.b64encode(b"Artifact:%d" % len(self._by_id)).decode(), "state": "PENDING"}
            artifact |= {"collection": name, "type": v["artifactTypeName"], "digest": v["digest"], "files": {}} | place
            artifact |= {"metadata": json.loads(v.get("metadata") or "{}"), "description": v.get("description")}
            artifact |= {"run": v.get("runName"), "step": v.get("historyStep"), "wanted": aliases, "aliases": []}
            artifact |= {"number": -1, "version": None, "uploaded": set()}  # the number comes when it is committed
            self._by_id[artifact["id"]] = artifact
        latest = {"latestArtifact": {"id": versions[-1]["id"]} if versions else None}
        return {"createArtifact": {"artifact": self._artifact(artifact) | {"artifactSequence": latest}}}

    def CreateArtifactManifest(self, v):
        path = f"/manifest/{v['artifactID']}"
        if v.get("digest"):
            artifact = self._by_id[v["artifactID"]]
            self._uploads[path] = (None, lambda data: artifact.update(manifest=data))
        file = {"id": path, "uploadUrl": self.url + path, "uploadHeaders": [], "directUrl": self.url + path}
        return {"createArtifactManifest": {"artifactManifest": {"id": path, "file": file}}}

    def CreateArtifactFiles(self, v):
        nodes = []
        for spec in v["input"]["artifactFiles"]:
            artifact = self._by_id[spec["artifactID"]]
            path = self._address(artifact, spec["md5"])
            born, data = self._blobs.get(path, (artifact["id"], None))
            node = {"storagePath": path, "uploadUrl": None, "uploadHeaders": None, "uploadMultipartUrls": None}
            if data is None:  # not here yet: ask for it

                def store(data, path=path, artifact=artifact, name=spec["name"]):
                    self._blobs[path] = (artifact["id"], data)
                    artifact["uploaded"].add(name)

                self._uploads[path] = (spec["md5"], store)
                node |= {"uploadUrl": self.url + path, "uploadHeaders": [f"Content-MD5:{spec['md5']}"]}
            nodes.append(node | {"artifact": {"id": born}, "name": spec["name"]})
        return {"createArtifactFiles": {"files": connection(nodes)}}

    def CommitArtifact(self, v):
        artifact = self._by_id[v["artifactID"]]
        for path, entry in json.loads(artifact["manifest"])["contents"].items():
            address = self._address(artifact, entry["digest"])
            if address not in self._blobs:
                raise GraphQLError(f"{path} was never uploaded")
            artifact["files"][path] = self._blobs[address][1]
        place = (artifact["entity"], artifact["project"], artifact["collection"])
        ever = [a for a in self._by_id.values() if (a["entity"], a["project"], a["collection"]) == place]
        number = max(a["number"] for a in ever) + 1
        artifact |= {"number": number, "version": f"v{number}", "state": "COMMITTED"}
        self.artifacts.setdefault(artifact["collection"], []).append(artifact)
        self._move_aliases(artifact, artifact.pop("wanted"))
        return {"commitArtifact": {"artifact": self._artifact(artifact)}}

    @staticmethod
    def _address(artifact, digest):
        """Where a file with that MD5 (base64) lies: once for each collection, however many versions hold it."""
        place = f"{artifact['entity']}/{artifact['project']}/{artifact['collection']}"
        return f"/blob/{place}/{base64.b64decode(digest).hex()}"

    def _move_aliases(self, artifact, aliases):
        for other in self._versions(artifact, artifact["collection"]):
            other["aliases"] = [alias for alias in other["aliases"] if alias not in aliases]
        artifact["aliases"] += dict.fromkeys(aliases)

    # ---- artifacts: finding, fetching, changing ----

    def _artifact(self, artifact):
        """What the client may ask about a version."""
        name = artifact["project"]
        project = {"id": name, "internalId": name, "name": name, "entity": {"name": artifact["entity"]}}
        sequence = {"__typename": "ArtifactSequence", "name": artifact["collection"], "project": project}
        aliases = [{"id": alias, "alias": alias, "artifactCollection": sequence} for alias in artifact["aliases"]]
        return {
            "id": artifact["id"],
            "artifactSequence": sequence,
            "version": artifact["version"],
            "versionIndex": artifact["number"],
            "artifactType": {"name": artifact["type"]},
            "description": artifact["description"],
            "metadata": json.dumps(artifact["metadata"]),
            "ttlDurationSeconds": -2,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": artifact["step"],
            "state": artifact["state"],
            "size": sum(map(len, artifact["files"].values())),
            "digest": artifact["digest"],
            "digestAlgorithm": "MANIFEST_MD5",
            "commitHash": artifact["digest"],
            "fileCount": len(artifact["files"]),
            "createdAt": WHEN,
            "updatedAt": WHEN,
            "aliases": aliases,
            "currentManifest": {"file": {"directUrl": f"{self.url}/manifest/{artifact['id']}"}},
        }

    def _versions(self, v, collection):
        place, versions = (v["entity"], v["project"]), self.artifacts.get(collection, [])
        return [a for a in versions if (a["entity"], a["project"]) == place]

    def _named(self, v, collection, alias):
        found = [a for a in self._versions(v, collection) if alias == a["version"] or alias in a["aliases"]]
        return found[0] if found else None

    def ArtifactByID(self, v):
        artifact = self._by_id.get(v["id"])
        return {"artifact": self._artifact(artifact) if artifact and artifact["state"] == "COMMITTED" else None}

    FetchArtifactManifest = ArtifactManifest = ArtifactByID

    def ArtifactType(self, v):
        artifact = self._named(v, *v["name"].split(":"))
        return {"project": {"artifact": artifact and self._artifact(artifact)}}

    def ArtifactMembershipByName(self, v):
        collection, _, alias = v["name"].partition(":")
        artifact = self._named(v, collection, alias or "latest")
        if artifact is None:
            return {"project": {"artifactCollectionMembership": None}}
        answer = self._artifact(artifact)
        member = {"id": artifact["id"], "versionIndex": artifact["number"], "createdAt": WHEN, "artifact": answer}
        member |= {"aliases": answer["aliases"], "artifactCollection": answer["artifactSequence"]}
        return {"project": {"artifactCollectionMembership": member}}

    def GetArtifactMembershipFileUrls(self, v):
        artifact = self._named(v, v["collection"], v["alias"])
        if artifact is None:
            return {"project": {"artifactCollection": None}}
        urls = {path: self.url + self._address(artifact, md5(data)) for path, data in artifact["files"].items()}
        files = connection([{"name": path, "directUrl": url} for path, url in urls.items()])
        collection = {"__typename": "ArtifactSequence", "artifactMembership": {"files": files}}
        return {"project": {"artifactCollection": collection}}

    def ProjectArtifacts(self, v):
        found = [a for a in reversed(self._versions(v, v["collection"])) if a["type"] == v["type"]]
        listing = {"__typename": "ArtifactSequence", "artifacts": connection([self._artifact(a) for a in found])}
        return {"project": {"artifactType": {"artifactCollection": listing if found else None}}}

    def UseArtifact(self, v):
        return {"useArtifact": {"artifact": {"id": v.get("input", v)["artifactID"]}}}

    def UpdateArtifact(self, v):
        artifact = self._by_id[v["input"]["artifactID"]]
        artifact["metadata"] = json.loads(v["input"].get("metadata") or "{}")
        artifact["description"] = v["input"].get("description", artifact["description"])
        return {"result": {"artifact": self._artifact(artifact)}}

    def AddAliases(self, v):
        aliases = [alias["alias"] for alias in v["input"]["aliases"]]
        self._move_aliases(self._by_id[v["input"]["artifactID"]], aliases)
        return {"result": {"success": True}}

    def DeleteAliases(self, v):
        artifact, gone = self._by_id[v["input"]["artifactID"]], [alias["alias"] for alias in v["input"]["aliases"]]
        artifact["aliases"] = [alias for alias in artifact["aliases"] if alias not in gone]
        return {"result": {"success": True}}

    def DeleteArtifact(self, v):
        artifact = self._by_id[v["input"]["artifactID"]]
        if artifact["aliases"] and not v["input"].get("deleteAliases"):
            raise GraphQLError("the artifact has aliases")
        self.artifacts[artifact["collection"]].remove(artifact)
        artifact["state"] = "DELETED"
        versions = self._versions(artifact, artifact["collection"])
        kept = {md5(data) for other in versions for data in other["files"].values()}
        for digest in {md5(data) for data in artifact["files"].values()} - kept:
            del self._blobs[self._address(artifact, digest)]
        return {"result": {"artifact": {"id": artifact["id"]}}}


class _Handler(BaseHTTPRequestHandler):
    """HTTP around the stand-in's methods; one thread per connection, one request at a time."""

    protocol_version = "HTTP/1.1"
    stand_in: StandIn

    def log_message(self, *_):
        pass

    def do(self):
        server, path = self.stand_in, unquote(self.path.partition("?")[0])
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with server._lock:
            status, answer = self.answer(server, path, body)
        if answer is None:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = do

    def answer(self, server, path, body):
        """(HTTP status, body) for one request; body None closes the connection."""
        scheme, _, credentials = self.headers.get("Authorization", "").partition(" ")
        key = base64.b64decode(credentials).decode().partition(":")[2] if scheme == "Basic" else credentials
        if key:
            server.api_keys.add(key)
        if server.down:
            server.requests["down"] += 1
            return (0, None) if server.down == "refuse" else (503, b"down")
        if key in server.refused_keys:
            return 401, b'{"errors": [{"message": "user is not logged in"}]}'
        if self.command == "PUT":
            server.requests[f"PUT {path}"] += 1
            if path not in server._uploads:
                return 404, b"not an address given out"
            digest, store = server._uploads[path]
            if digest not in (None, md5(body)):
                return 400, b"Content-MD5 does not match"
            store(body)
            return 200, b""
        if self.command == "GET":
            server.requests[f"GET {path}"] += 1
            data = self.stored(server, path)
            return (404, b"not found") if data is None else (200, data)
        server.bodies.append(f"{self.path} {body.decode()}")
        body = json.loads(body)
        stream = re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", path)
        if stream:
            server.requests["file_stream"] += 1
            run = server._run(*stream.groups())
            return (200, json.dumps(server.file_stream(run, body)).encode()) if run else (404, b"no such run")
        name = re.search(r"\b(?:query|mutation)\s+(\w+)", body.get("query", ""))
        name = name[1] if name else path
        server.requests[name] += 1
        operation = getattr(server, name, None)
        if operation is None:
            server.unknown.append((name, body.get("query"), body.get("variables")))
            return 200, json.dumps({"errors": [{"message": f"{name} is not imitated"}]}).encode()
        try:
            return 200, json.dumps({"data": operation(body.get("variables") or {})}).encode()
        except GraphQLError as error:
            return error.status, json.dumps({"errors": [{"message": str(error)}]}).encode()
        except LookupError as error:  # asked in another way than this file knows: tell at once, never retried
            server.unknown.append((name, body["query"], body.get("variables")))
            return 200, json.dumps({"errors": [{"message": f"{name}: the stand-in misses {error}"}]}).encode()

    @staticmethod
    def stored(server, path):
        if path.startswith("/manifest/"):
            return server._by_id.get(path.removeprefix("/manifest/"), {}).get("manifest")
        return server._blobs.get(path, (None, None))[1]
