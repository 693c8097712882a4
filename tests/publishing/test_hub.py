"""Uploads to a stand-in for the hub on this machine: which files arrive, and what each refusal says."""

import base64
import hashlib
import http.server
import json
import threading
import types

import huggingface_hub
import pytest
import torch

import config
from checkpoints.records import SavedVersion
from checkpoints.run_folder import RunFolder
from common.errors import UserError
from common.files import write_json
from common.manifest import write_manifest
from diffusion import pipeline
from diffusion.lora_file import LORA_FILE, save_lora
from diffusion.parts import NETWORKS
from diffusion.placement import DTYPES
from diffusion.weights import save_pipeline
from generation.version import Version
from publishing import hub
from publishing.card_facts import make_facts
from publishing.model_card import write_card


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers what an upload asks; .server.status refuses it."""

    def log_message(self, *_):
        pass

    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer({"id": "jane/covers", "private": False})

    def do_PUT(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.objects[hashlib.sha256(data).hexdigest()] = data
        self.answer({})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server, here = self.server, f"http://127.0.0.1:{self.server.server_port}"
        server.keys.add(self.headers["Authorization"])
        if server.status:
            self.answer({"error": "no"}, server.status)
        elif self.path == "/api/repos/create":
            self.answer({"url": f"{here}/jane/covers"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            modes = {True: "lfs", False: "regular"}
            files = [file["path"] for file in json.loads(body)["files"]]
            answers = [
                {"path": path, "uploadMode": modes[path.endswith(".safetensors")], "shouldIgnore": False}
                for path in files
            ]
            self.answer({"files": answers})
        elif self.path.endswith("/objects/batch"):
            known = {"oid": "", "size": 0}
            objects = [{key: each[key] for key in known} for each in json.loads(body)["objects"]]
            for each in objects:
                if each["oid"] not in server.objects:
                    each["actions"] = {"upload": {"href": f"{here}/lfs/{each['oid']}"}}
            self.answer({"objects": objects, "transfer": "basic"})
        else:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    server.repo[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    server.repo[value["path"]] = server.objects[value["oid"]]
            self.answer({"commitUrl": f"{here}/jane/covers/commit/1", "commitOid": "1" * 40})


@pytest.fixture
def server(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.objects, server.repo, server.keys, server.status = {}, {}, set(), None
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def version(tmp_path):
    run = RunFolder(tmp_path / "one")
    folder = run.version("v1")
    save_pipeline(pipeline.load_parts("tiny"), folder, NETWORKS, DTYPES["fp32"])
    write_manifest(folder)
    write_json(run.config, {"pretrained_model": "tiny"})
    write_card(folder, make_facts(config.TrainingOptions(resolution="64"), "one", "v1", SavedVersion(3, 0.5), {}))
    return Version("v1", str(folder), run)


def options(**changes):
    return types.SimpleNamespace(**dict(repo="jane/covers", private=False, dry_run=False, dtype=None) | changes)


def test_the_version_arrives_byte_for_byte_and_nothing_else(server, version, capsys):
    address = hub.export_to_hub(options(), version)
    folder = version.run.version("v1")
    sent = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name in ("sha256.json", "model_card.json", "README.md"):
        del sent[name]
    card = server.repo.pop("README.md").decode()
    assert server.repo == sent and len(sent) == 12
    assert 'from_pretrained("jane/covers"' in card
    assert not any(str(version.run).encode() in data for data in server.repo.values())
    assert server.keys == {"Bearer hf_secret"} and address.endswith("/jane/covers")
    assert "hf_secret" not in "".join(capsys.readouterr())
    with pytest.raises(UserError, match="exists and is public"):
        hub.export_to_hub(options(private=True), version)


@pytest.mark.parametrize(
    ("status", "text"), [(401, "refuses the key"), (403, "may not write to jane/covers"), (400, "the same command")]
)
def test_a_refusal_is_one_line(server, version, status, text):
    server.status = status
    with pytest.raises(UserError, match=text) as problem:
        hub.export_to_hub(options(), version)
    assert "\n" not in str(problem.value) and "hf_secret" not in str(problem.value) and not server.repo


def test_a_dry_run_needs_neither_key_nor_network(version, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    hub.export_to_hub(options(dry_run=True, dtype="fp16"), version)
    out = capsys.readouterr().out
    assert "unet/diffusion_pytorch_model.safetensors" in out and "dry run, nothing was uploaded" in out
    assert "| weights saved in | fp16 |" in out and "# Book covers: one v1" in out
    with pytest.raises(UserError, match="set HF_TOKEN"):
        hub.export_to_hub(options(), version)


def test_a_lora_on_a_changed_schedule_is_merged(tmp_path, capsys):
    """Alone on its base model, which says that it predicts epsilon, it would draw noise."""
    for name, changes in (("plain", {}), ("changed", {"prediction_type": "v_prediction"})):
        run = RunFolder(tmp_path / name)
        folder = run.version("v1")
        save_pipeline(pipeline.load_parts("tiny"), folder, NETWORKS, DTYPES["fp32"])
        down, up = torch.ones(1, 32), torch.ones(32, 1)
        save_lora(
            folder / LORA_FILE, {"text_encoder": {"encoder.layers.0.self_attn.q_proj": (down, up)}}, 1, down.dtype
        )
        write_manifest(folder)
        chosen = config.TrainingOptions(pretrained_model="owner/name", resolution="64", lora_rank=1, **changes)
        write_card(folder, make_facts(chosen, name, "v1", SavedVersion(3, 0.5), {}))
        hub.export_to_hub(options(dry_run=True), Version("v1", str(folder), None))
        out = capsys.readouterr().out
        assert (LORA_FILE in out) == (name == "plain") and ("model_index.json" in out) == (name == "changed")


def test_names_that_are_none_and_paths_are_refused(version):
    for repo in (None, "covers", "a/b/c", "a b/c", "jane/x--y"):
        with pytest.raises(UserError, match="OWNER/NAME"):
            hub.require_repo(repo)
    (version.run.version("v1") / "notes.txt").write_text(f"made in {version.run.versions}")
    with pytest.raises(UserError, match=r"notes.txt of .* names"):
        hub.export_to_hub(options(dry_run=True), version)
