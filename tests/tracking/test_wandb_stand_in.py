"""The stand-in for the wandb server, tried with the real wandb client in processes of their own."""

import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

pytest.importorskip("wandb")
from support import processes
from support.wandb_stand_in import ENTITY, KEY, GraphQLError, StandIn

PROJECT = f"{ENTITY}/book_cover_generation"
TIMEOUT = 60  # seconds for one client process; each takes 2 to 10


def launch(server, home, code, **environment):
    """A Python process that runs `code` with its own HOME and wandb folders."""
    home.mkdir(parents=True, exist_ok=True)
    folders = {f"WANDB_{name}_DIR": str(home / name.lower()) for name in ("DATA", "CACHE", "ARTIFACT", "CONFIG")}
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)} | folders | server.environment | environment
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return processes.Process([sys.executable, "-m", "support.wandb_client", code], env=environment, cwd=home, **pipes)


def finish(process):
    """What the process put into `answer`."""
    try:
        out, errors = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    return json.loads(out.splitlines()[-1])


def client(server, home, code, **environment):
    return finish(launch(server, home, code, **environment))


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A run on one machine: 33 steps, one picture, two model versions, one training state."""
    home = tmp_path_factory.mktemp("first")
    with StandIn() as server:
        answer = client(
            server,
            home,
            """
from PIL import Image
Image.new("RGB", (8, 8), "red").save(HOME / "red.png")
run = start(name="RUN1", resume="allow", config={"lr": 1e-5, "seed": 3})
answer["resumed"], answer["first step"] = run.resumed, run.starting_step
run.log({"loss": 1.0}, step=1)
run.log({"samples": wandb.Image(str(HOME / "red.png"))}, step=2)
for step in range(3, 34):
    run.log({"loss": 1 / step}, step=step)
run.summary.update({"fid": 12.5})

def publish(artifact, *aliases):
    return run.log_artifact(artifact, aliases=list(aliases)).wait().version

answer["versions"] = [
    publish(make("sd", "model", {"unet/w.bin": "a", "vae.bin": "v"}, step=10), "RUN1-v1", "RUN1-latest"),
    publish(make("sd", "model", {"unet/w.bin": "b"}, step=20), "RUN1-v2", "RUN1-latest"),
    publish(make("sd", "model", {}, step=30), "RUN1-same"),
    publish(make("state", "state", {"state.bin": "s"}, step=20), "RUN1"),
]
run.finish()
""",
        )
        yield server, answer, home


@pytest.mark.script
def test_a_run_is_kept_with_config_history_summary_and_files(story):
    server, answer, home = story
    run = server.runs["RUN1"]
    assert not answer["resumed"] and answer["first step"] == 0
    assert {name: item["value"] for name, item in run["config"].items() if name != "_wandb"} == {"lr": 1e-5, "seed": 3}
    assert [row["_step"] for row in run["history"][:33]] == list(range(1, 34))
    assert run["history"][3]["loss"] == 1 / 4
    picture = run["history"][1]["samples"]["path"]
    assert run["files"][picture] == (home / "red.png").read_bytes()
    assert run["summary"]["fid"] == 12.5 and run["displayName"] == "RUN1" and run["complete"]
    assert server.api_keys == {KEY} and not any(KEY in body for body in server.bodies)
    assert server.unknown == []


@pytest.mark.script
def test_versions_count_up_and_take_their_aliases_along(story):
    server, answer, _ = story
    first, second = server.artifacts["sd"][:2]
    assert answer["versions"] == ["v0", "v1", "v1", "v0"], "the same content again is no new version"
    assert first["aliases"] == ["RUN1-v1"] and first["metadata"] == {"step": 10}
    assert set(second["aliases"]) == {"RUN1-v2", "RUN1-latest", "RUN1-same", "latest"}
    assert second["metadata"] == {"step": 20}, "nor does its metadata count"
    assert set(server.artifacts["state"][0]["aliases"]) == {"RUN1", "latest"}


@pytest.mark.script
def test_an_unchanged_file_is_not_sent_again(story):
    server, _, _ = story
    first, second = server.artifacts["sd"][:2]
    assert first["uploaded"] == {"unet/w.bin", "vae.bin"} and second["uploaded"] == {"unet/w.bin"}
    assert first["files"] == {"unet/w.bin": b"a" * 5000, "vae.bin": b"v" * 5000}
    assert second["files"] == {"unet/w.bin": b"b" * 5000, "vae.bin": b"v" * 5000}


@pytest.mark.script
def test_another_machine_goes_on_with_the_run_and_its_versions(story, tmp_path):
    server, _, _ = story
    answer = client(
        server,
        tmp_path / "second",
        f"""
run = start(resume="must")
answer["resumed"], answer["first step"] = run.resumed, run.starting_step
answer["config"], answer["fid"] = dict(run.config), run.summary["fid"]
run.log({{"loss": 100.0}}, step=20)  # logged before: the client drops it
run.log({{"loss": 0.5}}, step=34)
artifact = run.use_artifact("sd:RUN1-latest", type="model")
answer["metadata"], answer["files"] = artifact.metadata, read(artifact.download(root=str(HOME / "got")))
run.finish()

api = wandb.Api()
old = api.artifact("{PROJECT}/sd:RUN1-v1")
answer["old"] = [old.version, old.aliases, old.metadata, read(old.download(root=str(HOME / "old")))]
found = api.artifacts(type_name="model", name="{PROJECT}/sd")
answer["listed"] = [version.version for version in found]
answer["runs"] = [[run.id, run.summary["fid"], run.config["seed"]] for run in api.runs("{PROJECT}")]
api.run("{PROJECT}/RUN1").summary.update({{"score": 7}})
for wrong in ("{PROJECT}/sd:none", "{PROJECT}/none:latest"):
    try:
        api.artifact(wrong)
    except wandb.errors.CommError as error:
        answer[wrong] = str(error)
""",
    )
    assert answer["resumed"] and answer["first step"] == 34
    assert answer["config"] == {"lr": 1e-5, "seed": 3} and answer["fid"] == 12.5
    assert [row["_step"] for row in server.runs["RUN1"]["history"]] == list(range(1, 35))
    assert server.runs["RUN1"]["history"][33]["loss"] == 0.5
    assert answer["metadata"] == {"step": 20}
    assert answer["files"] == {"unet/w.bin": "b" * 5000, "vae.bin": "v" * 5000}
    assert answer["old"] == ["v0", ["RUN1-v1"], {"step": 10}, {"unet/w.bin": "a" * 5000, "vae.bin": "v" * 5000}]
    assert answer["listed"] == ["v1", "v0"]
    assert answer["runs"] == [["RUN1", 12.5, 3]] and server.runs["RUN1"]["summary"]["score"] == 7
    assert "not found" in answer[f"{PROJECT}/sd:none"] and "not found" in answer[f"{PROJECT}/none:latest"]
    assert len(server.runs) == 1 and server.unknown == []


@pytest.mark.script
def test_only_a_version_without_aliases_is_deleted_and_its_number_never_comes_back(tmp_path):
    with StandIn() as server:
        answer = client(
            server,
            tmp_path,
            f"""
run = start()
for letter in "ab":
    run.log_artifact(make("sd", "model", {{"w.bin": letter, "vae.bin": "v"}}), aliases=["newest"]).wait()
old, new = [wandb.Api().artifact("{PROJECT}/sd:" + version) for version in ("v0", "v1")]
try:
    new.delete()
except wandb.errors.CommError as error:
    answer["refused"] = str(error)
old.delete()
new.aliases.remove("newest")
new.metadata["note"] = "kept"
new.save()
new.delete(delete_aliases=True)
answer["third"] = run.log_artifact(make("sd", "model", {{"w.bin": "c"}})).wait().version
run.finish()
""",
        )
        assert "has aliases" in answer["refused"] and answer["third"] == "v2"
        (version,) = server.artifacts["sd"]
        assert version["version"] == "v2"
        assert version["uploaded"] == {"w.bin", "vae.bin"}, "files of deleted versions are gone"


@pytest.mark.script
@pytest.mark.parametrize("down", [True, "refuse"])
def test_an_outage_delays_what_is_sent_and_loses_nothing(tmp_path, down):
    with StandIn() as server:
        process = launch(
            server,
            tmp_path,
            """
run = start()
run.log({"loss": 1.0}, step=1)
run.log_artifact(make("sd", "model", {"w.bin": "a"})).wait()
(HOME / "ready").touch()
while not (HOME / "outage").exists():
    time.sleep(0.05)
run.log({"loss": 0.5}, step=2)
artifact = run.log_artifact(make("sd", "model", {"w.bin": "b"}))
try:
    artifact.wait(timeout=1)
except wandb.errors.Error as error:
    answer["error"] = type(error).__name__
(HOME / "missed").touch()
while not (HOME / "back").exists():
    time.sleep(0.05)
run.finish()
""",
            WANDB_HTTP_TIMEOUT="1",
        )
        try:
            wait_for(tmp_path / "ready", process)
            server.down = down
            (tmp_path / "outage").touch()
            wait_for(tmp_path / "missed", process)
            assert len(server.artifacts["sd"]) == 1 and server.requests["down"] > 0
            server.down = False
            (tmp_path / "back").touch()
            answer = finish(process)
        finally:
            process.kill()
        assert answer == {"error": "WaitTimeoutError"}
        assert [row["loss"] for row in server.runs["RUN1"]["history"]] == [1.0, 0.5]
        assert [version["files"]["w.bin"][:1] for version in server.artifacts["sd"]] == [b"a", b"b"]


def wait_for(path, process):
    """Return when `path` is there; fail when the process ended before."""
    while not path.exists():
        try:
            process.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(process.communicate()[1])


@pytest.mark.script
def test_the_client_writes_a_damaged_download_and_finds_it_only_when_asked(story, tmp_path):
    server, _, _ = story
    first = server.artifacts["sd"][0]
    server.damage(first, "unet/w.bin", b"a" * 4999 + b"b")
    answer = client(
        server,
        tmp_path,
        f"""
for version in ("v0", "v1"):
    artifact = wandb.Api().artifact("{PROJECT}/sd:" + version)
    folder = artifact.download(root=str(HOME / version), skip_cache=True)
    try:
        answer[version] = artifact.verify(folder)
    except ValueError as error:
        answer[version] = str(error)
""",
    )
    server.damage(first, "unet/w.bin", first["files"]["unet/w.bin"])
    assert answer == {"v0": "Digest mismatch for file: unet/w.bin", "v1": None}


def test_an_upload_must_be_what_was_announced():
    with StandIn() as server:
        place = {"entityName": ENTITY, "projectName": "p", "artifactCollectionName": "sd", "artifactTypeName": "model"}
        created = server.CreateArtifact({"input": place | {"digest": "x"}})["createArtifact"]["artifact"]
        digest = "DMF1ucDxtqgxw5niaXcmYQ=="  # MD5 of "a"
        spec = {"artifactID": created["id"], "name": "w.bin", "md5": digest}
        files = server.CreateArtifactFiles({"input": {"artifactFiles": [spec]}})["createArtifactFiles"]["files"]
        address = files["edges"][0]["node"]["uploadUrl"]
        server._by_id[created["id"]]["manifest"] = json.dumps({"contents": {"w.bin": {"digest": digest}}})
        with pytest.raises(urllib.error.HTTPError, match="400"):
            put(address, b"b")
        with pytest.raises(GraphQLError, match="never uploaded"):
            server.CommitArtifact({"artifactID": created["id"]})
        assert "sd" not in server.artifacts
        put(address, b"a")
        server.CommitArtifact({"artifactID": created["id"]})
        assert server.artifacts["sd"][0]["files"] == {"w.bin": b"a"}
        with pytest.raises(urllib.error.HTTPError, match="404"):
            put(server.url + "/elsewhere", b"a")


def put(address, data):
    urllib.request.urlopen(urllib.request.Request(address, data=data, method="PUT"), timeout=10).close()


def test_an_alias_like_a_number_and_an_unknown_operation_are_refused():
    with StandIn() as server:
        place = {"entityName": ENTITY, "projectName": "p", "artifactCollectionName": "sd", "artifactTypeName": "model"}
        with pytest.raises(GraphQLError, match="number"):
            server.CreateArtifact({"input": place | {"digest": "x", "aliases": [{"alias": "v3"}]}})
        login = base64.b64encode(b"api:other").decode()
        body = json.dumps({"query": "query Weather { today }", "variables": {}}).encode()
        request = urllib.request.Request(server.url + "/graphql", body, {"Authorization": f"Basic {login}"})
        with urllib.request.urlopen(request, timeout=10) as response:
            assert "Weather is not imitated" in json.load(response)["errors"][0]["message"]
        assert server.unknown[0][0] == "Weather" and server.api_keys == {"other"}
